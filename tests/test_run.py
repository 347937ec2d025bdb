import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from tiny_run import (
    BASE_EPOCHS,
    BASE_TRIALS,
    FOLDS,
    META_EPOCHS,
    META_TRIALS,
    assert_whole,
    epochs_of,
    settings,
    trials_of,
    write_spaces,
)

from ensemble_tune.ensemble.manifest import EnsembleManifest
from ensemble_tune.run import run

ENVIRONMENT = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}


def _again(finished: Path, out: Path, tiles: Path) -> None:
    base, meta = write_spaces(finished / "spaces")
    run(
        settings(tiles, out, finished / "cache"),
        base_space=base,
        base_trials=BASE_TRIALS,
        base_epochs=BASE_EPOCHS,
        size="32x32",
        meta_space=meta,
        meta_trials=META_TRIALS,
        meta_epochs=META_EPOCHS,
        scheduler="none",
    )


def _rows(out: Path) -> dict[tuple[str, int], str]:
    """Every epoch's scores, to the last bit."""
    return {(row.trial, row.epoch): repr(sorted(row.scores.items())) for row in epochs_of(out)}


def test_one_call_goes_from_frames_to_a_measured_ensemble(finished: Path) -> None:
    out = finished / "run"
    assert_whole(out)
    assert_whole(out / "final")
    counts = {stage: len(trials_of(out, stage)) for stage in ("base", "fold", "meta")}
    assert counts == {"base": BASE_TRIALS, "fold": BASE_TRIALS * (FOLDS + 1), "meta": META_TRIALS + 3}
    assert {trial.stage for trial in trials_of(out / "final")} == {"final"}
    manifest = EnsembleManifest.load(out / "best.toml")
    best = max(trials_of(out, "meta"), key=lambda trial: trial.score or 0)
    assert manifest.scores["fusion_miou"] == best.score
    assert (out / "final" / "metrics.json").exists() and (out / "final" / "ensemble" / "ensemble.toml").exists()


def test_the_same_call_again_trains_nothing(finished: Path, tiles: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    shutil.copytree(finished / "run", out)
    before = [trials_of(folder) for folder in (out, out / "final")]
    started = time.monotonic()
    _again(finished, out, tiles)
    assert time.monotonic() - started < 15
    assert [trials_of(folder) for folder in (out, out / "final")] == before


def test_a_final_training_in_a_run_repeats_no_fold(finished: Path) -> None:
    """Fold models that only predict for the fusion were trained by the search, and their predictions are used."""
    manifest = EnsembleManifest.load(finished / "run" / "best.toml")
    folds = {trial.params.get("fold") for trial in trials_of(finished / "run" / "final")} - {None}
    assert manifest.deploy == "refit" and folds == {0}


STAGES = ("base", "fold", "meta", "final")


@pytest.mark.timeout(600)
def test_ctrl_c_in_any_stage_loses_and_doubles_nothing(finished: Path, tiles: Path, tmp_path: Path) -> None:
    """The command is interrupted in each stage in turn, then left alone; it ends as if it had never been."""
    out = tmp_path / "run"
    base, meta = write_spaces(tmp_path / "spaces")
    command = [sys.executable, "-m", "ensemble_tune", "run", "--data", tiles, "--out", out]
    command += ["--cache", finished / "cache", "--folds", FOLDS, "--size", "32x32", "--scheduler", "none", "--cpu"]
    command += ["--base-space", base, "--base-trials", BASE_TRIALS, "--base-epochs", BASE_EPOCHS]
    command += ["--meta-space", meta, "--meta-trials", META_TRIALS, "--meta-epochs", META_EPOCHS]
    seed = random.randrange(1000)
    print("seed", seed)
    moments = random.Random(seed)
    for stage in STAGES:
        where = out / "final" / "checkpoints" if stage == "final" else out / "checkpoints"
        process = subprocess.Popen(
            [str(part) for part in command],
            env=ENVIRONMENT,
            start_new_session=True,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        while process.poll() is None and not any(where.glob(f"{stage}-*")):
            time.sleep(0.01)
        time.sleep(moments.uniform(0, 0.5))
        assert process.poll() is None, f"the run ended before it could be interrupted in stage {stage}"
        os.killpg(process.pid, signal.SIGINT)
        _, told = process.communicate(timeout=60)
        assert process.returncode == 130, told
        assert told.splitlines()[-1] == "interrupted; the same command goes on from here"
        assert "Traceback" not in told
    ended = subprocess.run(
        [str(part) for part in command], env=ENVIRONMENT, capture_output=True, text=True, timeout=300, check=False
    )
    assert ended.returncode == 0, ended.stderr
    for folder in ("run", "run/final"):
        assert_whole(tmp_path / folder)
        assert _rows(tmp_path / folder) == _rows(finished / folder)
