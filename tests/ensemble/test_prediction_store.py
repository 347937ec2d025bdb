import dataclasses
from pathlib import Path

import numpy as np
import pytest
from tiles import CLASSES, SIZE

from ensemble_tune.ensemble.config import BaseConfig, parse_size
from ensemble_tune.ensemble.prediction_store import Part, PredictionStore
from ensemble_tune.ensemble.predictions import write_predictions
from ensemble_tune.ensemble.stage_data import StageData
from ensemble_tune.errors import PredictionsError

CONFIG = BaseConfig(size=parse_size(SIZE), epochs=3, stop_epoch=2)


@pytest.fixture
def store(tiles: Path, cache: Path, tmp_path: Path) -> PredictionStore:
    return PredictionStore(tmp_path, StageData(data=str(tiles), cache=cache, folds=3))


def _write(store: PredictionStore, fold: int, part: Part) -> None:
    stamp = store.stamp(CONFIG, fold, part)
    shape = (len(CLASSES), *CONFIG.size)
    write_predictions(store.folder(CONFIG, fold, part), stamp, (np.zeros(shape, np.uint8) for _ in stamp.frames))


def test_what_was_written_is_found_again(store: PredictionStore) -> None:
    assert not store.has(CONFIG, 1, "held-out")
    _write(store, 1, "held-out")
    assert store.has(CONFIG, 1, "held-out")
    assert store.open(CONFIG, 1, "held-out").names == store.stamp(CONFIG, 1, "held-out").frames


def test_every_fold_and_part_has_a_place_of_its_own(store: PredictionStore) -> None:
    places = {
        store.folder(CONFIG, fold, part)
        for fold in (0, 1, 2, 3)
        for part in ("held-out", "val", "train")  # type: ignore[assignment]
    }
    assert len(places) == 12


@pytest.mark.parametrize(
    "change", [{"seed": 1}, {"stop_epoch": 3}, {"learning_rate": 0.1}, {"encoder_weights": "imagenet"}]
)
def test_predictions_of_another_config_are_not_found(store: PredictionStore, change: dict[str, object]) -> None:
    _write(store, 1, "held-out")
    assert not store.has(dataclasses.replace(CONFIG, **change), 1, "held-out")  # type: ignore[arg-type]


@pytest.mark.parametrize("change", [{"folds": 4}, {"with_val": True}, {"split": "blocks"}])
def test_predictions_under_other_folds_or_another_split_are_not_found(
    store: PredictionStore, change: dict[str, object]
) -> None:
    _write(store, 1, "held-out")
    other = PredictionStore(store.root, dataclasses.replace(store.data, **change))  # type: ignore[arg-type]
    assert not other.has(CONFIG, 1, "held-out")
    assert other.folder(CONFIG, 1, "held-out") != store.folder(CONFIG, 1, "held-out"), "one would replace the other"


def test_no_stamp_of_held_out_frames_names_a_frame_twice(store: PredictionStore) -> None:
    stamps = [store.stamp(CONFIG, fold, "held-out") for fold in (1, 2, 3)]
    for stamp in stamps:
        assert set(stamp.frames).isdisjoint(stamp.trained_on)
        assert len(stamp.frames) + len(stamp.trained_on) == 12
    assert sorted(name for stamp in stamps for name in stamp.frames) == sorted(stamps[0].frames + stamps[0].trained_on)


def test_the_refit_model_is_stamped_with_all_training_frames(store: PredictionStore) -> None:
    for part in ("val", "train"):
        assert len(store.stamp(CONFIG, 0, part).trained_on) == 12  # type: ignore[arg-type]
    assert store.stamp(CONFIG, 0, "val").frames == tuple(f"c_{i:03d}" for i in range(4))


def test_only_the_part_called_train_may_be_read_on_training_frames(store: PredictionStore) -> None:
    _write(store, 0, "train")
    name = store.open(CONFIG, 0, "train").names[0]
    assert store.open(CONFIG, 0, "train")[name].shape == (3, 32, 32)
    store.folder(CONFIG, 0, "train").rename(store.folder(CONFIG, 0, "val"))
    with pytest.raises(PredictionsError, match="are of frames"):
        store.open(CONFIG, 0, "val")


def test_damaged_predictions_count_as_missing(store: PredictionStore) -> None:
    _write(store, 1, "held-out")
    array = store.folder(CONFIG, 1, "held-out") / "probabilities.npy"
    array.write_bytes(array.read_bytes()[:-1])
    assert not store.has(CONFIG, 1, "held-out")


def test_val_has_no_predictions_where_it_is_trained_on(store: PredictionStore) -> None:
    with_val = PredictionStore(store.root, dataclasses.replace(store.data, with_val=True))
    with pytest.raises(ValueError, match="val is trained on"):
        with_val.stamp(CONFIG, 0, "val")
