"""Runs on the tiles, small enough for a test and real in every part."""

import os
import signal
import threading
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from tiles import SIZE

from ensemble_tune.ensemble.manifest import EnsembleManifest
from ensemble_tune.settings import Settings
from ensemble_tune.tune.ledger import LEDGER, Ledger
from ensemble_tune.tune.record import EpochRecord, Status, TrialRecord
from ensemble_tune.tune.resources import Resources

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


def settings(data: Path, out: Path, cache: Path) -> Settings:
    return Settings(
        data=str(data), out=out, cache=cache, folds=FOLDS, resources=Resources(cpus=1, gpus=0), address=None
    )


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
        if trial.params.get("kind") == "mean" or "split" in trial.params:
            wanted = 1
        refit = trial.stage == "fold" and trial.params["fold"] == 0  # loaded as it was at its best epoch, not trained
        expected = {wanted} if refit else set(range(1, int(wanted) + 1))
        assert {epoch for name, epoch in counts if name == trial.trial} == expected, trial.trial


def interrupted(call: Callable[[], object], when: Callable[[], bool]) -> None:
    """Makes a call in this process, and ends it by Ctrl-C as soon as `when` holds."""
    done = threading.Event()
    sent: list[bool] = []

    def watch() -> None:
        while not done.wait(0.005):
            if when():
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
