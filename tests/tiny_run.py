"""Runs on the tiles, small enough for a test and real in every part."""

import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from tiles import SIZE

from ensemble_tune.ensemble.manifest import EnsembleManifest
from ensemble_tune.run import run_all
from ensemble_tune.settings import Settings
from ensemble_tune.strategy import Strategy
from ensemble_tune.tune.ledger import LEDGER, Ledger
from ensemble_tune.tune.record import EpochRecord, Status, TrialRecord
from ensemble_tune.tune.resources import Resources
from ensemble_tune.tune.workers import Workers

BASE_SPACE = """
[parameters]
architecture = "linknet"
encoder = { choices = ["tu-test_efficientnet", "tu-test_resnet"] }
learning_rate = { low = 1e-3, high = 1e-2, log = true }
batch_size = 4
precision = "float32"
"""
META_SPACE = """
[parameters]
kind = { choices = ["plain", "group_eca"] }
width = 8
depth = 1
learning_rate = { low = 1e-3, high = 1e-2, log = true }
batch_size = 4
precision = "float32"
"""
BASES = """
[[bases]]
architecture = "linknet"
encoder = "tu-test_efficientnet"

[[bases]]
architecture = "linknet"
encoder = "tu-test_resnet"
"""
TRAINED_FUSION = '\n[fusion]\nkind = "plain"\nwidth = 8\ndepth = 1\nepochs = 2\nbatch_size = 4\n'
BASE_TRIALS, BASE_EPOCHS, META_TRIALS, META_EPOCHS, FOLDS = 2, 8, 1, 8, 2
STRATEGY = Strategy(sampler="random", scheduler="none")
"""The random draw, so that the two have different encoders."""


def settings(data: Path, out: Path, cache: Path) -> Settings:
    return Settings(data=str(data), out=out, cache=cache, folds=FOLDS, workers=Workers(Resources(cpus=1, gpus=0)))


def write_spaces(folder: Path) -> tuple[Path, Path]:
    """The spaces of both stages as files."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in (("base.toml", BASE_SPACE), ("meta.toml", META_SPACE)):
        (folder / name).write_text(text)
    return folder / "base.toml", folder / "meta.toml"


def hand_written(tmp_path: Path, *, fusion: str = "", **top: object) -> EnsembleManifest:
    """Two tiny members of 2 epochs in 2 folds, as a person would write them; the plain mean without `fusion`."""
    given = {"size": SIZE, "epochs": 2, "batch_size": 4, "precision": "float32", "folds": FOLDS, **top}
    lines = [f"{name} = {value!r}" for name, value in given.items()]
    path = tmp_path / "hand-written.toml"
    path.write_text("\n".join(lines) + BASES + fusion)
    return EnsembleManifest.load(path)


def run_tiny(data: Path, folder: Path, strategy: Strategy = STRATEGY) -> None:
    """Both searches, export and final training of `folder`/run, or what is left of them."""
    base, meta = write_spaces(folder / "spaces")
    run_all(
        replace(settings(data, folder / "run", folder / "cache"), tensorboard=folder / "tensorboard"),
        base_space=base,
        base_trials=BASE_TRIALS,
        base_epochs=BASE_EPOCHS,
        size=SIZE,
        meta_space=meta,
        meta_trials=META_TRIALS,
        meta_epochs=META_EPOCHS,
        strategy=strategy,
    )


def run_command(data: Path, folder: Path) -> list[str]:
    """What `run_tiny` does, as a person types it."""
    base, meta = write_spaces(folder / "spaces")
    command = [sys.executable, "-m", "ensemble_tune", "run", "--data", data, "--out", folder / "run"]
    command += ["--cache", folder / "cache", "--folds", FOLDS, "--size", SIZE, "--cpu"]
    command += ["--sampler", STRATEGY.sampler, "--scheduler", STRATEGY.scheduler]
    command += ["--tensorboard", folder / "tensorboard"]
    command += ["--base-space", base, "--base-trials", BASE_TRIALS, "--base-epochs", BASE_EPOCHS]
    command += ["--meta-space", meta, "--meta-trials", META_TRIALS, "--meta-epochs", META_EPOCHS]
    return [str(part) for part in command]


@dataclass(frozen=True)
class Finished:
    """A run that was interrupted in every stage, and then finished."""

    folder: Path
    """Holds run/, cache/, spaces/ and tensorboard/."""
    status: int
    """How the interrupted command ended."""
    told: str
    """What it said on standard error."""

    @property
    def out(self) -> Path:
        return self.folder / "run"


def finish(data: Path, folder: Path) -> Finished:
    """Runs everything, interrupted at a random moment of each stage: the first three in this process, which is faster,
    the last as a command of its own."""
    moments = random.Random(seed := random.randrange(1000))
    print("moments of interruption from seed", seed)
    checkpoints = folder / "run" / "checkpoints"
    for stage in ("base", "fold", "meta"):
        interrupted(
            lambda: run_tiny(data, folder),
            lambda stage=stage: any(checkpoints.glob(f"{stage}-*")),  # type: ignore[misc]
            moments.uniform(0, 0.3),
        )
    process = subprocess.Popen(
        run_command(data, folder), start_new_session=True, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    )
    while process.poll() is None and not any((folder / "run" / "final" / "checkpoints").glob("final-*")):
        time.sleep(0.01)
    time.sleep(moments.uniform(0, 0.1))  # what is left takes little longer
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGINT)  # all of its processes, as a terminal does
    _, told = process.communicate(timeout=120)
    run_tiny(data, folder)
    return Finished(folder, process.returncode, told)


def trials_of(out: Path, stage: str | None = None) -> list[TrialRecord]:
    return Ledger(out / LEDGER).trials(stage)


def epochs_of(out: Path, stage: str | None = None) -> list[EpochRecord]:
    return Ledger(out / LEDGER).epochs(stage)


def assert_whole(out: Path) -> None:
    """Every trial has ended well, and each of its epochs is there exactly once, as anyone reads the files."""
    rows = pq.read_table(out / LEDGER / "epochs", columns=["trial", "epoch"]).to_pylist()
    counts = Counter((row["trial"], row["epoch"]) for row in rows)
    assert set(counts.values()) == {1}, counts
    trials = pq.read_table(out / LEDGER / "trials").to_pylist()
    assert len({row["trial"] for row in trials}) == len(trials)
    for trial in trials_of(out):
        assert trial.status is Status.FINISHED, trial
        wanted = trial.params.get("stop_epoch", trial.params.get("epochs", 1))
        if trial.params.get("kind") in ("mean", "greedy") or "split" in trial.params:
            wanted = 1
        # What was trained before is loaded as it was at its best epoch: of models that have seen all training frames,
        # and in a final training.
        before = trial.params.get("fold") == 0 or trial.params.get("block") == 0 or trial.stage == "final"
        loaded = [{wanted}] if before else []
        found = {epoch for name, epoch in counts if name == trial.trial}
        assert found in [set(range(1, int(wanted) + 1)), *loaded], trial.trial


def interrupted(call: Callable[[], object], when: Callable[[], bool], after: float = 0.0) -> None:
    """Makes a call in this process, and ends it by Ctrl-C `after` seconds from when `when` holds."""
    done = threading.Event()
    sent: list[bool] = []

    def watch() -> None:
        while not done.wait(0.005):
            if when():
                time.sleep(after)
                sent.append(True)
                os.kill(os.getpid(), signal.SIGINT)
                return

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        with pytest.raises(KeyboardInterrupt):
            call()
    finally:
        done.set()
        watcher.join()
    assert sent
