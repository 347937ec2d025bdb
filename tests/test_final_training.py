import dataclasses
import json
import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from tiles import CLASSES, SIZE, write_tiles
from tiny_run import FOLDS, TRAINED_FUSION, assert_whole, epochs_of, hand_written, interrupted, settings, trials_of

from ensemble_tune.ensemble.frames import load_frames
from ensemble_tune.ensemble.metrics import Confusion
from ensemble_tune.ensemble.stage_data import StageData
from ensemble_tune.ensemble.trained_ensemble import TrainedEnsemble
from ensemble_tune.errors import ConfigError, RunError
from ensemble_tune.final_folder import FinalFolder
from ensemble_tune.final_training import FinalResult, measured_split, train
from ensemble_tune.tune.record import TrialRecord

FUSION = TRAINED_FUSION.replace("epochs = 2", "epochs = 40")


def _train(tmp_path: Path, data: Path, cache: Path, *, with_val: bool = False, **manifest: object) -> FinalResult:
    made = hand_written(tmp_path, **manifest)  # type: ignore[arg-type]
    return train(made, settings(data, tmp_path / "final", cache), with_val=with_val)


@pytest.fixture(scope="module")
def trained(tiles: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """From a manifest written by hand and the data alone, in a fresh folder, interrupted while the fusion trains, which
    is when someone tidies up and removes some predictions."""
    folder = tmp_path_factory.mktemp("trained")
    fusion_trial = folder / "final" / "checkpoints" / "final-0004"

    def call() -> FinalResult:
        return _train(folder, tiles, folder / "cache", deploy="folds", fusion=FUSION)

    interrupted(call, lambda: any(fusion_trial.glob("attempt-0001/epoch-*2")))
    assert not (folder / "final" / "ensemble").exists()
    (folder / "before.json").write_text(json.dumps([trial.trial for trial in trials_of(folder / "final")]))
    shutil.rmtree(next((folder / "final" / "predictions").rglob("fold-2-held-out")))
    result = call()
    assert result.split == "test" and result.folder == folder / "final" / "ensemble"
    return folder


def _what(trial: TrialRecord) -> object:
    return trial.params.get("kind", trial.params.get("split", trial.params.get("fold")))


def test_an_interrupted_training_goes_on_and_trains_nothing_twice_but_what_was_lost(trained: Path) -> None:
    """4 fold models, then the fusion, interrupted; after that one fold model, the rest of the fusion, the test."""
    out = trained / "final"
    assert_whole(out)
    assert json.loads((trained / "before.json").read_text()) == [f"final-{i:04d}" for i in range(5)]
    assert [_what(trial) for trial in trials_of(out)] == [1, 2, 1, 2, "plain", 2, "test"]
    assert len(epochs_of(out)) == 5 * 2 + 40 + 1
    assert {row.attempt for row in epochs_of(out) if row.trial == "final-0004"} == {1, 2}


def test_every_model_says_how_many_folds_there_were(trained: Path) -> None:
    assert [trial.params["folds"] for trial in trials_of(trained / "final")[:6]] == [FOLDS] * 6


def test_the_same_training_again_trains_nothing(trained: Path, tiles: Path) -> None:
    before = trials_of(trained / "final")
    result = _train(trained, tiles, trained / "cache", deploy="folds", fusion=FUSION)
    assert trials_of(trained / "final") == before
    assert result.scores == before[-1].scores


def test_predictions_that_were_removed_afterwards_are_not_missed(trained: Path, tiles: Path, tmp_path: Path) -> None:
    """The fusion has learned from them; who makes room shall not pay for all trainings once more."""
    shutil.copytree(trained, tmp_path / "moved")
    shutil.rmtree(tmp_path / "moved" / "final" / "predictions")
    before = trials_of(trained / "final")
    _train(tmp_path / "moved", tiles, trained / "cache", deploy="folds", fusion=FUSION)
    assert trials_of(tmp_path / "moved" / "final") == before


def test_other_data_is_refused_where_nothing_would_have_to_be_trained(tiles: Path, tmp_path: Path, cache: Path) -> None:
    """Of a mean all is there already, and its old score would have passed for that of the new data."""
    data = tmp_path / "tiles"
    shutil.copytree(tiles, data)
    _train(tmp_path, data, cache)
    before = json.loads((tmp_path / "final" / "metrics.json").read_text())
    mask = next((data / "testannot").iterdir())
    cv2.imwrite(str(mask), np.zeros((64, 64), np.uint8))
    with pytest.raises(RunError, match=r"this command has .*; use the same data or another --out"):
        _train(tmp_path, data, tmp_path / "another-cache")  # this process remembers the data by its cache
    assert json.loads((tmp_path / "final" / "metrics.json").read_text()) == before


def test_scores_masks_and_ensemble_are_of_one_training(
    tiles: Path, tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One ensemble, another one, and the first again, all into one folder."""

    def made(seed: int) -> FinalResult:
        one = hand_written(tmp_path).with_settings(seed=seed)
        return train(one, settings(tiles, tmp_path / "final", cache))

    def masks() -> dict[str, bytes]:
        return {path.name: path.read_bytes() for path in (tmp_path / "final" / "masks").iterdir()}

    first = made(0)
    drawn = masks()
    made(1)
    assert masks() != drawn
    with monkeypatch.context() as patch:
        patch.setattr("ensemble_tune.final_training._measure", lambda *args, **how: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            made(0)
    assert FinalFolder.read(tmp_path / "final") is None, "the scores that are there are of another ensemble"
    again = made(0)
    assert masks() == drawn and again.scores["miou"] == first.scores["miou"]
    count = len(trials_of(tmp_path / "final"))
    made(0)
    assert len(trials_of(tmp_path / "final")) == count


def test_masks_hold_class_indices_at_the_frames_own_size_and_give_the_reported_score(
    trained: Path, tiles: Path
) -> None:
    metrics = json.loads((trained / "final" / "metrics.json").read_text())
    assert metrics["split"] == "test"
    confusion = Confusion(len(CLASSES))
    data = StageData(data=str(tiles), cache=trained / "cache")
    frames = load_frames(data.dataset(), "test", (32, 32), data.cache)
    for row, name in enumerate(frames.names):
        mask = cv2.imread(str(trained / "final" / "masks" / f"{name}.png"), cv2.IMREAD_UNCHANGED)
        assert mask.shape == (64, 64) and mask.dtype == np.uint8
        confusion.add(torch.from_numpy(mask).long(), torch.from_numpy(np.array(frames.truth(row))))
    assert metrics["scores"]["miou"] == pytest.approx(confusion.scores(CLASSES, ())["miou"], abs=1e-9)
    assert {path.name for path in (trained / "final" / "overlays").iterdir()} == {f"{n}.jpg" for n in frames.names}


def test_the_trained_ensemble_knows_its_classes_and_how_it_was_trained(trained: Path) -> None:
    ensemble = TrainedEnsemble.load(trained / "final" / "ensemble")
    assert ensemble.manifest.classes == CLASSES
    assert ensemble.manifest.deploy == "folds" and [len(list(models)) for models in ensemble.members] == [2, 2]


def test_members_and_their_mean_are_measured_beside_the_ensemble(trained: Path) -> None:
    scores = json.loads((trained / "final" / "metrics.json").read_text())["scores"]
    assert {"mean.miou", "member-1.miou", "member-2.miou", "iou.car", "small_miou", "loss"} <= set(scores)


def test_with_val_and_without_a_test_split_nothing_is_measured(tiles: Path, tmp_path: Path) -> None:
    data = _without_test(tiles, tmp_path)
    result = _train(tmp_path, data, tmp_path / "cache", with_val=True)
    assert (result.split, result.scores) == (None, {})
    metrics = json.loads((tmp_path / "final" / "metrics.json").read_text())
    assert (metrics["split"], metrics["scores"]) == (None, {})
    assert TrainedEnsemble.load(result.folder).manifest.classes == CLASSES


def test_the_split_that_is_measured_was_never_trained_on(tiles: Path, tmp_path: Path, cache: Path) -> None:
    data = str(_without_test(tiles, tmp_path))
    splits = {
        (where, with_val): measured_split(StageData(data=where, cache=cache, with_val=with_val))
        for where in (str(tiles), data)
        for with_val in (False, True)
    }
    assert splits == {(str(tiles), False): "test", (str(tiles), True): "test", (data, False): "val", (data, True): None}


def _without_test(tiles: Path, tmp_path: Path) -> Path:
    """The tiles without a test split."""
    shutil.copytree(tiles, tmp_path / "tiles")
    for folder in ("test", "testannot"):
        shutil.rmtree(tmp_path / "tiles" / folder)
    return tmp_path / "tiles"


def test_with_val_trains_on_val_too_and_measures_on_test(tiles: Path, tmp_path: Path) -> None:
    result = _train(tmp_path, tiles, tmp_path / "cache", with_val=True, fusion=TRAINED_FUSION)
    assert result.split == "test"
    trials = trials_of(tmp_path / "final")
    assert all(trial.params["with_val"] is True for trial in trials)
    stamps = [json.loads(path.read_text()) for path in (tmp_path / "final" / "predictions").rglob("stamp.json")]
    held_out = [set(stamp["frames"]) for stamp in stamps]
    assert len(stamps) == 2 * FOLDS and all(len(stamp["frames"]) + len(stamp["trained_on"]) == 16 for stamp in stamps)
    assert {"c_000", "c_001", "c_002", "c_003"} <= set().union(*held_out), "val is held out by its folds"
    assert not any(name.startswith("d_") for stamp in stamps for name in stamp["frames"] + stamp["trained_on"])


def test_a_manifest_of_blocks_is_trained_on_blocks(tmp_path: Path) -> None:
    """Whatever split the settings name."""
    data = write_tiles(tmp_path / "tiles", {"train": {"a": 10}, "val": {"c": 10}, "test": {"d": 2}})
    result = _train(tmp_path, data, tmp_path / "cache", split="blocks", fusion=TRAINED_FUSION)
    assert TrainedEnsemble.load(result.folder).manifest.split == "blocks"
    assert {trial.provenance["split"] for trial in trials_of(tmp_path / "final")} == {"blocks"}
    stamps = [json.loads(path.read_text()) for path in (tmp_path / "final" / "predictions").rglob("stamp.json")]
    trained_on = {name for stamp in stamps for name in stamp["trained_on"]}
    val, gap = {"a_008", "a_009", "c_004", "c_005"}, {"a_007", "c_003", "c_006"}
    assert trained_on == {f"{sequence}_{i:03d}" for sequence in "ac" for i in range(10)} - val - gap
    assert gap.isdisjoint(name for stamp in stamps for name in stamp["frames"])


def test_with_val_blocks_train_on_the_gap_too(tmp_path: Path) -> None:
    data = write_tiles(tmp_path / "tiles", {"train": {"a": 10}, "val": {"c": 10}, "test": {"d": 2}})
    result = _train(tmp_path, data, tmp_path / "cache", with_val=True, split="blocks", fusion=TRAINED_FUSION)
    assert result.split == "test"
    stamps = [json.loads(path.read_text()) for path in (tmp_path / "final" / "predictions").rglob("stamp.json")]
    assert len(stamps) == 2 * FOLDS and all(len(stamp["frames"]) + len(stamp["trained_on"]) == 20 for stamp in stamps)


def test_the_classes_of_manifest_and_data_must_agree(tiles: Path, tmp_path: Path, cache: Path) -> None:
    manifest = dataclasses.replace(hand_written(tmp_path), classes=("sky", "car"))
    with pytest.raises(RunError, match="the manifest's classes are sky, car, but the data has road, car, pole; give"):
        train(manifest, settings(tiles, tmp_path / "final", cache))
    assert not (tmp_path / "final").exists()


@pytest.mark.parametrize(
    ("manifest", "message"),
    [
        ({"batch_size": 7}, "batch_size must be at most 6, the frames of the smallest training, but got 7"),
        ({"fusion": TRAINED_FUSION.replace("batch_size = 4", "batch_size = 7")}, "batch_size must be at most 6"),
        ({"folds": 13}, "--folds must be at least 2 and at most the 12 training frames, but got 13"),
        ({"encoder_weights": "/gone.pth"}, "there is no file '/gone.pth'"),
    ],
)
def test_what_cannot_be_trained_is_refused_before_anything_is(
    tiles: Path, tmp_path: Path, cache: Path, manifest: dict[str, object], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        _train(tmp_path, tiles, cache, **manifest)  # type: ignore[arg-type]
    assert not (tmp_path / "final").exists()


def test_size_is_a_working_size(trained: Path) -> None:
    assert TrainedEnsemble.load(trained / "final" / "ensemble").manifest.to_document()["fusion"]["size"] == SIZE
