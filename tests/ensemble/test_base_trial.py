import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file
from tiles import LENGTHS, SIZE, write_tile_frame, write_tiles
from trial_contract import TrialContract, content, live, told

from ensemble_tune.ensemble.base_trial import BaseTrial, augmented_batches
from ensemble_tune.ensemble.config import BaseConfig
from ensemble_tune.ensemble.gpu_share import CONTEXT_BYTES
from ensemble_tune.ensemble.prediction_store import PredictionStore
from ensemble_tune.ensemble.stage_data import StageData
from ensemble_tune.errors import ConfigError
from ensemble_tune.trial import Checkpoint, Params, SizedTrial, StoredCheckpoint, Trial

PARAMS: Params = {
    "architecture": "linknet",
    "encoder": "tu-test_efficientnet",
    "size": SIZE,
    "epochs": 3,
    "batch_size": 4,
    "jaccard_weight": 0.3,
    "seed": 5,
}


class _BaseTrialContract(TrialContract):
    """A base trial leaves predictions behind."""

    @pytest.fixture(autouse=True)
    def _data(self, tiles: Path, cache: Path) -> None:
        self.data = StageData(data=str(tiles), cache=cache, folds=2)

    def test_predictions_are_written_though_it_died_before_them(self, tmp_path: Path) -> None:
        unbroken = live(self.trial(tmp_path / "out"), self.params(), tmp_path / "unbroken")
        assert content(tmp_path / "out")
        last = unbroken[-1].epoch
        checkpoint = Checkpoint(tmp_path / "unbroken" / str(last), last)
        assert live(self.trial(tmp_path / "late"), self.params(), tmp_path / "resumed", checkpoint) == []
        assert content(tmp_path / "late") == content(tmp_path / "out")


class TestBaseTrial(_BaseTrialContract):
    """On all training frames, predicting val."""

    def trial(self, out: Path) -> Trial:
        return BaseTrial(data=self.data, store=out, parts={0: ("val",)})

    def params(self) -> Params:
        return PARAMS


class TestFoldTrial(_BaseTrialContract):
    """On all but one fold, predicting that one and val, stopped before its schedule ends."""

    def trial(self, out: Path) -> Trial:
        return BaseTrial(data=self.data, store=out, parts={1: ("held-out", "val")})

    def params(self) -> Params:
        return {**PARAMS, "stop_epoch": 2, "fold": 1, "folds": 2, "member": "base-0000"}

    def test_every_epoch_has_scores_and_comes_once(self, tmp_path: Path) -> None:
        """But those of the held-out fold after the last one alone."""
        first, second = live(self.trial(tmp_path / "out"), self.params(), tmp_path / "saved")
        assert (first.epoch, list(first.scores)) == (1, ["train_loss"])
        assert second.epoch == 2 and {"train_loss", "loss", "miou", "milliseconds"} <= set(second.scores)


class TestStartedTrial(_BaseTrialContract):
    """Of a member that was trained before: its weights are loaded, and nothing is trained."""

    @pytest.fixture(autouse=True)
    def _trained(self, _data: None, tmp_path_factory: pytest.TempPathFactory) -> None:
        folder = tmp_path_factory.mktemp("start")
        self.before = live(BaseTrial(data=self.data), PARAMS, folder)
        self.start = StoredCheckpoint(folder / "2", 2)

    def trial(self, out: Path) -> Trial:
        return BaseTrial(data=self.data, store=out, parts={0: ("val", "train")}, starts={("base-0000", 0): self.start})

    def params(self) -> Params:
        return {**PARAMS, "stop_epoch": 2, "fold": 0, "folds": 2, "member": "base-0000"}

    def test_its_scores_and_predictions_are_those_of_a_training_as_far(self, tmp_path: Path) -> None:
        (started,) = live(self.trial(tmp_path / "started"), self.params(), tmp_path / "saved")
        scores = {name: score for name, score in self.before[1].scores.items() if name != "train_loss"}
        assert told([started]) == told([replace(self.before[1], scores=scores)])
        trained = BaseTrial(data=self.data, store=tmp_path / "trained", parts={0: ("val", "train")})
        live(trained, self.params(), tmp_path / "saved-again")
        assert content(tmp_path / "started") == content(tmp_path / "trained")

    def test_scores_that_are_known_are_not_taken_again(self, tmp_path: Path) -> None:
        start = replace(self.start, scores={"train_loss": 0.5, "miou": 0.25})
        trial = replace(self.trial(tmp_path / "out"), starts={("base-0000", 0): start})
        (started,) = live(trial, self.params(), tmp_path / "saved")
        assert started.scores == {"miou": 0.25}
        assert content(tmp_path / "out"), "what it predicts is saved all the same"

    def test_one_that_was_interrupted_while_it_was_trained_ends_at_the_weights_of_before(self, tmp_path: Path) -> None:
        first = BaseTrial(data=self.data, store=tmp_path / "out", parts={})
        live(first, {**self.params(), "stop_epoch": 1}, tmp_path / "saved")
        resume = Checkpoint(tmp_path / "saved" / "1", 1)
        (ended,) = self.trial(tmp_path / "out")(self.params(), resume)
        (tmp_path / "end").mkdir()
        ended.save(tmp_path / "end")
        assert ended.epoch == 2
        assert content(tmp_path / "end") == content(self.start.folder)

    def test_another_member_is_trained(self, tmp_path: Path) -> None:
        results = live(self.trial(tmp_path / "out"), {**self.params(), "member": "base-0001"}, tmp_path / "saved")
        assert [result.epoch for result in results] == [1, 2]

    def test_a_fold_is_trained(self, tmp_path: Path) -> None:
        results = live(self.trial(tmp_path / "out"), {**self.params(), "fold": 1}, tmp_path / "saved")
        assert [result.epoch for result in results] == [1, 2]


def _weights(data: Path, cache: Path, saved: Path, **params: str | int | bool) -> dict[str, np.ndarray]:
    """What two epochs on a data set make of the same start."""
    trial = BaseTrial(data=StageData(data=str(data), cache=cache, folds=2))
    live(trial, {**PARAMS, "stop_epoch": 2, **params}, saved)
    return load_file(saved / "2" / "model.safetensors")


def _equal(one: dict[str, np.ndarray], other: dict[str, np.ndarray]) -> bool:
    return all(np.array_equal(one[name], other[name]) for name in one)


@pytest.fixture(scope="module")
def poisoned(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The tiles with other labels and images in the frames of fold 1 and of val."""
    root = write_tiles(tmp_path_factory.mktemp("poisoned") / "tiles")
    data = StageData(data=str(root), cache=tmp_path_factory.mktemp("cache"), folds=2)
    frames = data.training((32, 32))
    for name, fold in zip(frames.names, data.fold_of(frames), strict=True):
        if fold == 1:
            write_tile_frame(root, "train", name, label=2)
    for name in data.dataset().splits["val"]:
        write_tile_frame(root, "val", name.name, label=2)
    yield root


@pytest.mark.usefixtures("one_thread")
def test_held_out_frames_and_val_labels_never_touch_the_weights(
    tiles: Path, poisoned: Path, cache: Path, tmp_path: Path
) -> None:
    clean = _weights(tiles, cache, tmp_path / "clean", fold=1)
    assert _equal(clean, _weights(poisoned, cache, tmp_path / "poisoned", fold=1))
    other = _weights(tiles, cache, tmp_path / "clean-2", fold=2)
    assert not _equal(other, _weights(poisoned, cache, tmp_path / "poisoned-2", fold=2)), "the poison is no poison"


@pytest.mark.usefixtures("one_thread")
@pytest.mark.parametrize(("fold", "poison"), [(0, True), (1, True), (2, False)])
def test_scores_are_of_val_or_of_the_frames_that_a_fold_holds_out(
    poisoned: Path, cache: Path, tmp_path: Path, fold: int, poison: bool
) -> None:
    """Poisoned frames hold a single class, so the others' scores are undefined there."""
    trial = BaseTrial(data=StageData(data=str(poisoned), cache=cache, folds=2))
    (result,) = live(trial, {**PARAMS, "stop_epoch": 1, "fold": fold}, tmp_path)
    assert np.isnan(result.scores["iou.road"]) == poison


@pytest.mark.usefixtures("one_thread")
def test_predictions_name_the_frames_that_their_model_was_trained_on(tiles: Path, cache: Path, tmp_path: Path) -> None:
    data = StageData(data=str(tiles), cache=cache, folds=2)
    trial = BaseTrial(data=data, store=tmp_path / "store", parts={1: ("held-out",)})
    live(trial, {**PARAMS, "stop_epoch": 1, "fold": 1}, tmp_path / "saved")
    config = BaseConfig.from_params({**PARAMS, "stop_epoch": 1})
    stamp = PredictionStore(tmp_path / "store", data).open(config, 1, "held-out").stamp
    assert set(stamp.frames) == {"a_000", "a_001", "a_002", "b_000", "b_001", "b_002"}
    assert set(stamp.trained_on) == {"a_003", "a_004", "a_005", "b_003", "b_004", "b_005"}


@pytest.mark.usefixtures("one_thread")
def test_saved_predictions_are_what_the_model_gives_for_frames_as_they_are(
    tiles: Path, cache: Path, tmp_path: Path
) -> None:
    import torch

    from ensemble_tune.ensemble.base_model import build_base_model
    from ensemble_tune.ensemble.stage_data import as_images
    from ensemble_tune.ensemble.training_state import load_weights

    data = StageData(data=str(tiles), cache=cache, folds=2)
    trial = BaseTrial(data=data, store=tmp_path / "store", parts={0: ("val",)})
    live(trial, {**PARAMS, "stop_epoch": 1}, tmp_path / "saved")
    config = BaseConfig.from_params({**PARAMS, "stop_epoch": 1})
    model = build_base_model(config, 3).eval()
    load_weights(model, tmp_path / "saved" / "1")
    predictions = PredictionStore(tmp_path / "store", data).open(config, 0, "val")
    val = data.held_out((32, 32))
    assert val is not None and predictions.names == val.names
    with torch.inference_mode():
        for row, name in enumerate(val.names):
            expected = model(as_images([val.image(row)])).softmax(1)[0].numpy()
            assert np.abs(predictions[name] / 255 - expected).max() < 0.01


@pytest.mark.usefixtures("one_thread")
def test_with_val_trains_on_val_and_scores_nothing(tiles: Path, cache: Path, tmp_path: Path) -> None:
    data = StageData(data=str(tiles), cache=cache, folds=2, with_val=True)
    assert len(data.training((32, 32))) == sum(LENGTHS["train"].values()) + sum(LENGTHS["val"].values())
    (result,) = live(BaseTrial(data=data), {**PARAMS, "stop_epoch": 1}, tmp_path / "saved")
    assert set(result.scores) == {"train_loss"}


def test_batches_are_the_same_however_many_threads_make_them(tiles: Path, cache: Path) -> None:
    frames = StageData(data=str(tiles), cache=cache).training((32, 32))
    config = BaseConfig(size=(32, 32), batch_size=4, augmentation=0.5, seed=3)
    before = threading.active_count()
    one, four = (list(augmented_batches(config, frames, 2, threads)) for threads in (1, 4))
    assert threading.active_count() == before
    assert len(one) == len(four) > 1
    for own, other in zip(one, four, strict=True):
        assert torch.equal(own.inputs[0], other.inputs[0]) and torch.equal(own.labels, other.labels)
    assert not torch.equal(one[0].inputs[0], next(augmented_batches(config, frames, 3, 4)).inputs[0])


def test_a_misspelt_parameter_is_refused_with_the_nearest_name(tiles: Path, cache: Path) -> None:
    trial = BaseTrial(data=StageData(data=str(tiles), cache=cache))
    with pytest.raises(ConfigError, match="no setting is called 'learning_rat'; did you mean 'learning_rate'"):
        next(trial({"learning_rat": 0.1}, None))


def test_a_trial_says_what_it_takes_of_a_gpu(tiles: Path, cache: Path) -> None:
    trial = BaseTrial(data=StageData(data=str(tiles), cache=cache, folds=2))
    assert isinstance(trial, SizedTrial)
    small, large = (trial.gpu_bytes({**PARAMS, "fold": 1, "batch_size": size}) for size in (4, 128))
    assert CONTEXT_BYTES < small < large
