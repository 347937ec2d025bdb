"""Data sets and predictions in an object store: fetched once a machine, again where they changed, and checked alike."""

from pathlib import Path

import numpy as np
import pytest
from s3_server import Proxy
from tiles import CLASSES, SIZE, write_tile_frame

from ensemble_tune.ensemble.config import BaseConfig, parse_size
from ensemble_tune.ensemble.dataset import open_dataset
from ensemble_tune.ensemble.prediction_store import PredictionStore
from ensemble_tune.ensemble.predictions import write_predictions
from ensemble_tune.ensemble.stage_data import StageData
from ensemble_tune.errors import ConfigError, DataError, PredictionsError
from ensemble_tune.object_path import ObjectPath
from ensemble_tune.storage import write_bytes
from ensemble_tune.store_folder import COMPLETE

CONFIG = BaseConfig(size=parse_size(SIZE), epochs=3)


@pytest.fixture
def stored(tiles: Path, bucket: ObjectPath) -> ObjectPath:
    """The tiles in a bucket."""
    for file in tiles.rglob("*"):
        if file.is_file():
            write_bytes(bucket / "tiles" / str(file.relative_to(tiles)), file.read_bytes())
    (bucket / "tiles" / "notes.md").touch()
    return bucket / "tiles"


def fetched(proxy: Proxy) -> list[str]:
    """The objects whose bytes were asked for since the last call."""
    names = [path.rpartition("/")[2] for method, path in proxy.log if method == "GET" and "?" not in path]
    proxy.log.clear()
    return sorted(set(names))


def test_a_data_set_in_a_store_is_that_on_a_disk(tiles: Path, stored: ObjectPath, tmp_path: Path) -> None:
    local, remote = open_dataset(tiles, tmp_path / "local"), open_dataset(str(stored), tmp_path / "cache")
    assert remote.digest == local.digest and remote.spec.name == local.spec.name == "tiles"
    assert {split: [frame.name for frame in frames] for split, frames in remote.splits.items()} == {
        split: [frame.name for frame in frames] for split, frames in local.splits.items()
    }


def test_it_is_fetched_once_and_again_where_it_changed(
    stored: ObjectPath, proxy: Proxy, tmp_path: Path, tiles: Path
) -> None:
    proxy.log.clear()
    before = open_dataset(str(stored), tmp_path)
    names = fetched(proxy)
    assert len(names) == 21 and "notes.md" not in names, "20 names of frames, images and masks, and the spec"
    assert open_dataset(str(stored), tmp_path) == before and fetched(proxy) == []
    (tmp_path / "new" / "valannot").mkdir(parents=True)
    (tmp_path / "new" / "val").mkdir()
    write_tile_frame(tmp_path / "new", "val", "c_000", label=1)
    write_bytes(stored / "valannot" / "c_000.png", (tmp_path / "new" / "valannot" / "c_000.png").read_bytes())
    after = open_dataset(str(stored), tmp_path)
    assert after.digest != before.digest and "c_000.png" in fetched(proxy)
    assert before.splits["val"][0].image.is_file(), "whoever still reads the older one may"


def test_a_copy_that_was_damaged_is_fetched_again(stored: ObjectPath, proxy: Proxy, tmp_path: Path) -> None:
    before = open_dataset(str(stored), tmp_path)
    before.splits["val"][0].mask.write_bytes(b"")
    proxy.log.clear()
    assert open_dataset(str(stored), tmp_path) == before and "c_000.png" in fetched(proxy)


@pytest.mark.parametrize(
    ("fault", "said"),
    [
        (
            "missing",
            r"every image in s3://.*/tiles/train needs a mask of the same name in s3://.*/tiles/trainannot; 1 b",
        ),
        (
            "broken",
            r"every image must be a whole, readable PNG, JPEG or TIFF file; 1 breaks this: s3://.*tiles/val/c_001\.png",
        ),
        ("no val", r"val needs the folder s3://.*/tiles/valannot, which is not there"),
        (
            "nothing",
            r"no data set is at s3://.*/other: it holds no .png, .jpg, .jpeg, .tif, .tiff files; check the address",
        ),
    ],
)
def test_faults_are_named_by_their_place_in_the_store(
    stored: ObjectPath, tmp_path: Path, fault: str, said: str
) -> None:
    place = stored
    if fault == "missing":
        (stored / "trainannot" / "a_000.png").unlink()
    elif fault == "broken":
        (stored / "val" / "c_001.png").write_bytes((stored / "val" / "c_001.png").read_bytes()[:-20])
    elif fault == "no val":
        (stored / "valannot").remove_below()
    else:
        place = stored.parent / "other"
    with pytest.raises(DataError, match=said) as error:
        open_dataset(str(place), tmp_path)
    assert str(tmp_path) not in str(error.value) and "\n" not in str(error.value)


def test_a_data_set_that_does_not_fit_is_refused(stored: ObjectPath, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"the frames' files must fit the cache"):
        open_dataset(str(stored), tmp_path, limit=1000)


@pytest.fixture
def store(tiles: Path, cache: Path, bucket: ObjectPath, tmp_path: Path) -> PredictionStore:
    """Predictions in a bucket, of data whose cache is new."""
    assert cache.exists()
    return PredictionStore(bucket / "predictions", StageData(data=str(tiles), cache=tmp_path / "cache", folds=3))


def _write(store: PredictionStore, value: float) -> None:
    stamp = store.stamp(CONFIG, 1, "held-out")
    shape = (len(CLASSES), *CONFIG.size)
    write_predictions(
        store.folder(CONFIG, 1, "held-out"), stamp, (np.full(shape, value, np.float32) for _ in stamp.frames)
    )


def test_predictions_are_fetched_once_for_all_trials_of_a_machine(store: PredictionStore, proxy: Proxy) -> None:
    assert not store.has(CONFIG, 1, "held-out")
    with pytest.raises(PredictionsError, match=r"no predictions are in s3://.*fold-1-held-out: complete.json is miss"):
        store.open(CONFIG, 1, "held-out")
    _write(store, 1.0)
    proxy.log.clear()
    assert store.has(CONFIG, 1, "held-out")
    assert fetched(proxy) == [COMPLETE, "stamp.json"], "to know that they are there no array is fetched"
    first = store.open(CONFIG, 1, "held-out")
    assert "probabilities.npy" in fetched(proxy)
    again = store.open(CONFIG, 1, "held-out")
    assert fetched(proxy) == [COMPLETE]
    name = first.names[0]
    assert (first[name] == 255).all() and (again[name] == 255).all()


def test_predictions_that_were_replaced_are_fetched_again(store: PredictionStore) -> None:
    _write(store, 1.0)
    before = store.open(CONFIG, 1, "held-out")
    _write(store, 0.0)
    after = store.open(CONFIG, 1, "held-out")
    name = before.names[0]
    assert (after[name] == 0).all() and (before[name] == 255).all(), "who has mapped the older ones keeps them"


def test_predictions_of_which_a_part_is_missing_are_not_there(store: PredictionStore) -> None:
    _write(store, 1.0)
    folder = store.folder(CONFIG, 1, "held-out")
    (folder / COMPLETE).unlink()
    assert not store.has(CONFIG, 1, "held-out")
    _write(store, 1.0)
    (folder / "probabilities.npy").unlink()
    assert not store.has(CONFIG, 1, "held-out")


def test_predictions_of_something_else_are_refused_by_their_place_in_the_store(store: PredictionStore) -> None:
    _write(store, 1.0)
    folder = store.folder(CONFIG, 1, "held-out")
    (folder / "stamp.json").write_bytes((folder / "stamp.json").read_bytes().replace(b'"fold": 1', b'"fold": 2'))
    assert not store.has(CONFIG, 1, "held-out")
    with pytest.raises(PredictionsError, match=r"predictions in s3://\S*fold-1-held-out are of fold 2, not 1; remove"):
        store.open(CONFIG, 1, "held-out")
