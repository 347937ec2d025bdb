"""Data and run folder in an object store that fails now and then: the same ledger, export and masks as on a disk."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from s3_server import Proxy
from tiles import SIZE
from tiny_run import (
    BASE_EPOCHS,
    BASE_TRIALS,
    META_EPOCHS,
    META_TRIALS,
    STRATEGY,
    Finished,
    settings,
    trials_of,
    write_spaces,
)

from ensemble_tune.cli import app
from ensemble_tune.ensemble.manifest import EnsembleManifest
from ensemble_tune.ensemble.score_names import MILLISECONDS
from ensemble_tune.object_path import ObjectPath
from ensemble_tune.run import run_all
from ensemble_tune.storage import Location, write_bytes
from ensemble_tune.tune.ledger import LEDGER, Ledger


def told(out: Location, stage: str) -> list[str]:
    """What a ledger says of trials that were trained, without times."""
    found = []
    for trial in Ledger(out / LEDGER).trials(stage):
        if 0 in (trial.params.get("fold"), trial.params.get("block")):
            continue  # loaded rather than trained: of how many epochs depends on interruptions
        scores = {name: score for name, score in trial.scores.items() if name != MILLISECONDS}
        found.append(
            repr((trial.trial, trial.status, dict(trial.params), trial.seed, trial.epochs, trial.best_epoch, scores))
        )
    return found


def command(*words: object) -> None:
    app([str(word) for word in words], standalone_mode=False)


@pytest.fixture
def data(tiles: Path, google_bucket: ObjectPath) -> ObjectPath:
    """A data set in a bucket of Google's kind."""
    for file in tiles.rglob("*"):
        if file.is_file():
            write_bytes(google_bucket / "tiles" / str(file.relative_to(tiles)), file.read_bytes())
    return google_bucket / "tiles"


@pytest.fixture
def run(data: ObjectPath, bucket: ObjectPath, proxy: Proxy, tmp_path: Path) -> Iterator[ObjectPath]:
    """A run folder in a bucket of S3's, made while one request in a hundred to it goes wrong."""
    proxy.faults, proxy.share = ("refuse", "unavailable", "drop", "lose", "slow", "truncate"), 0.01
    base, meta = write_spaces(tmp_path / "spaces")
    given: Any = settings(data, bucket / "run", tmp_path / "cache")  # type: ignore[arg-type]
    run_all(
        given,
        base_space=base,
        base_trials=BASE_TRIALS,
        base_epochs=BASE_EPOCHS,
        size=SIZE,
        meta_space=meta,
        meta_trials=META_TRIALS,
        meta_epochs=META_EPOCHS,
        strategy=STRATEGY,
    )
    assert proxy.injected > 3
    proxy.mend()
    yield bucket / "run"


def test_a_run_in_a_store_is_that_on_a_disk(
    run: ObjectPath,
    data: ObjectPath,
    finished: Finished,
    tiles: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    for stage in ("base", "fold", "meta", "compare"):
        assert told(run, stage) == told(finished.out, stage), stage
    manifest, on_disk = EnsembleManifest.load(run / "best.toml"), EnsembleManifest.load(finished.out / "best.toml")
    assert manifest.digest() == on_disk.digest() and manifest.data == str(data)
    final = json.loads((run / "final" / "metrics.json").read_text())
    assert final == json.loads((finished.out / "final" / "metrics.json").read_text())
    mask = run / "final" / "masks" / "d_000.png"
    assert mask.read_bytes() == (finished.out / "final" / "masks" / "d_000.png").read_bytes()

    command("results", run)
    shown = capsys.readouterr().out
    assert "base-0000" in shown and "Fusions compared" in shown
    command("plan", run, "--trials", 2, "--slots", 1)
    assert "like those of stage base" in capsys.readouterr().out
    command("export", run, "--to", run.parent / "exported.toml")
    assert f"wrote {run.parent}/exported.toml" in capsys.readouterr().out
    assert EnsembleManifest.load(run.parent / "exported.toml").digest() == manifest.digest()
    command("segment", run / "final", tiles / "test", "--out", tmp_path / "masks", "--cpu")
    assert len(list((tmp_path / "masks").glob("*.png"))) == 4

    command(
        "train",
        run.parent / "exported.toml",
        "--data",
        data,
        "--out",
        run.parent / "again",
        "--epochs",
        1,
        "--cpu",
        "--cache",
        tmp_path / "cache",
    )
    assert "metrics, masks and overlays are in s3://" in capsys.readouterr().out
    assert {trial.stage for trial in trials_of(run.parent / "again")} == {"final"}  # type: ignore[arg-type]
    command("segment", run.parent / "again", tiles / "test", "--out", tmp_path / "others", "--cpu")
    assert len(list((tmp_path / "others").glob("*.png"))) == 4
