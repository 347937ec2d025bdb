import itertools
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tiles import CLASSES
from trial_contract import live

from ensemble_tune.ensemble.base_trial import BaseTrial
from ensemble_tune.ensemble.blend import tiled_labels
from ensemble_tune.ensemble.config import BaseConfig, MetaConfig
from ensemble_tune.ensemble.dataset import open_dataset
from ensemble_tune.ensemble.disk_cache import DiskCache
from ensemble_tune.ensemble.ensemble_trial import EnsembleTrial
from ensemble_tune.ensemble.frame_cache import cached_bytes
from ensemble_tune.ensemble.frames import load_frames
from ensemble_tune.ensemble.labels import IGNORED
from ensemble_tune.ensemble.manifest import EnsembleManifest
from ensemble_tune.ensemble.scoring import labels_at
from ensemble_tune.ensemble.stage_data import StageData
from ensemble_tune.ensemble.tiles import Tiles, starts
from ensemble_tune.ensemble.trained_ensemble import assemble
from ensemble_tune.errors import ConfigError, DataError
from ensemble_tune.segment import segment_images

SIZES = ((96, 80), (70, 130), (40, 40), (64, 64))
"""Of the images; a tile is 48x48."""
SPEC = f"""
classes = {list(CLASSES)}
ignored = 255
groups = "none"
[tiles]
size = "48x48"
overlap = 8
"""


def write_large(root: Path, spec: str = SPEC) -> Path:
    """Eight images of four sizes, each larger than a tile but one."""
    rng = np.random.default_rng(0)
    for folder in ("train", "trainannot", "val", "valannot"):
        (root / folder).mkdir(parents=True)
    (root / "dataset.toml").write_text(spec)
    for split, count in (("train", 6), ("val", 2)):
        for index in range(count):
            size = SIZES[index % len(SIZES)]
            cv2.imwrite(str(root / split / f"{split}{index}.png"), rng.integers(0, 256, (*size, 3), np.uint8))
            mask = np.kron(rng.integers(0, 3, (size[0] // 2, size[1] // 2), np.uint8), np.ones((2, 2), np.uint8))
            mask[:3] = 255
            cv2.imwrite(str(root / f"{split}annot" / f"{split}{index}.png"), mask)
    return root


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_large(tmp_path_factory.mktemp("large") / "data")


@given(length=st.integers(1, 500), tile=st.integers(32, 200), overlap=st.integers(0, 100))
def test_tiles_cover_a_side_and_share_enough(length: int, tile: int, overlap: int) -> None:
    overlap = min(overlap, tile // 2)
    found = starts(length, tile, overlap)
    assert found[0] == 0 and found[-1] == max(0, length - tile)
    assert all(one < other <= one + tile - overlap for one, other in itertools.pairwise(found))
    assert len(found) == 1 or length > tile
    assert len(found) <= 1 + -(-max(0, length - tile) // (tile - overlap))


@given(height=st.integers(1, 300), width=st.integers(1, 300))
def test_the_cores_of_an_images_tiles_hold_every_pixel_once(height: int, width: int) -> None:
    seen = np.zeros((height, width), np.uint8)
    for tile in Tiles(size=(48, 64), overlap=8).cut((height, width)):
        assert tile.of(seen).shape == (min(48, height), min(64, width))
        tile.of(seen)[tile.core] += 1
    assert (seen == 1).all()


@pytest.mark.parametrize("overlap", [0, 5, 16])
@pytest.mark.parametrize("shape", [(100, 75), (32, 100), (33, 33), (70, 32)])
def test_what_does_not_depend_on_its_surroundings_is_the_same_in_tiles(shape: tuple[int, int], overlap: int) -> None:
    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, (*shape, 3), np.uint8)
    parts = []

    def logits_of(part: np.ndarray) -> torch.Tensor:
        parts.append(part.shape)
        return torch.from_numpy(part.astype(np.float32) / 64).permute(2, 0, 1)

    found = tiled_labels(logits_of, image, Tiles(size=(32, 32), overlap=overlap))
    assert found.dtype == np.uint8 and np.array_equal(found, image.argmax(2))
    assert set(parts) == {(32, 32, 3)}, "no more than a tile is seen at once"


def test_where_tiles_overlap_the_inner_one_counts_more() -> None:
    image = np.zeros((32, 48, 1), np.uint8)
    image[:, 47] = 1

    def logits_of(part: np.ndarray) -> torch.Tensor:
        """The first class on the left tile, the second on the right one, equally sure."""
        right = bool(part.any())
        return torch.tensor([0.0, 1.0] if right else [1.0, 0.0])[:, None, None].expand(2, *part.shape[:2])

    found = tiled_labels(logits_of, image, Tiles(size=(32, 32), overlap=16))
    # Columns 16 to 31 are of both; the left tile's edge is 31, the right one's is 16.
    assert (found[:, :23] == 0).all() and (found[:, 25:] == 1).all()


@pytest.mark.parametrize("shape", [(32, 40), (20, 12)])
def test_an_image_that_fits_a_tile_is_answered_as_a_whole(shape: tuple[int, int]) -> None:
    logits = torch.randn(5, *shape, generator=torch.Generator().manual_seed(0))
    found = tiled_labels(lambda part: logits, np.zeros((*shape, 3), np.uint8), Tiles(size=(32, 40), overlap=4))
    assert np.array_equal(found, labels_at(logits, shape).numpy())


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ("512x512", 'tiles must be a table such as { size = "512x512", overlap = 64 }, but got'),
        ({}, "tiles.size: a size is HEIGHTxWIDTH in pixels, but got 'None'"),
        ({"size": "16x64"}, "tiles.size must be at least 32x32, but got 16x64"),
        (
            {"size": "64x64", "overlap": 33},
            "tiles.overlap must be a whole number within 0..32, half a tile, but got 33",
        ),
        ({"size": "64x64", "overlap": True}, "within 0..32"),
        ({"size": "64x64", "stride": 3}, "tiles has no key 'stride'; "),
    ],
)
def test_a_mistake_is_named(table: Any, message: str) -> None:
    with pytest.raises(DataError) as caught:
        Tiles.read(table)
    assert message in str(caught.value)


def test_what_is_written_is_read_back() -> None:
    tiles = Tiles.read({"size": "64x96"})
    assert tiles == Tiles(size=(64, 96), overlap=8) == Tiles.read(tiles.to_document())


def test_frames_are_the_tiles_of_images_and_each_labelled_pixel_is_scored_once(large: Path, tmp_path: Path) -> None:
    dataset = open_dataset(large, tmp_path)
    frames = load_frames(dataset, "train", (48, 48), tmp_path)
    assert frames.names[:4] == ("train0@0x0", "train0@0x32", "train0@48x0", "train0@48x32")
    assert frames.names[frames.parents.index("train2")] == "train2", "an image that fits a tile is itself"
    counts = {"train": np.zeros(256, int), "tiles": np.zeros(256, int)}
    for frame in dataset.splits["train"]:
        counts["train"] += np.bincount(cv2.imread(str(frame.mask), cv2.IMREAD_UNCHANGED).ravel(), minlength=256)
    for row in range(len(frames)):
        counts["tiles"] += np.bincount(frames.truth(row).ravel(), minlength=256)
    assert np.array_equal(counts["train"][:3], counts["tiles"][:3])
    image = cv2.imread(str(dataset.splits["train"][0].image))[..., ::-1]
    assert np.array_equal(frames.image(3), image[48:, 32:])
    truth = frames.truth(3)
    assert (truth[:, :8] == IGNORED).all(), "the half of what it shares with the tile to its left"


def test_the_tiles_of_an_image_are_in_one_fold_and_one_split(large: Path, tmp_path: Path) -> None:
    for split in ("official", "blocks"):
        data = StageData(data=str(large), cache=tmp_path, split=split)  # type: ignore[arg-type]
        frames = data.training((48, 48))
        pairs = set(zip(frames.parents, data.fold_of(frames).tolist(), strict=True))
        assert len(pairs) == len(set(frames.parents)) and {fold for _, fold in pairs} == {1, 2, 3}
        held_out = data.held_out((48, 48))
        assert held_out is not None and not set(held_out.parents) & set(frames.parents)
        if split == "official":
            assert set(held_out.parents) == {"val0", "val1"}


def test_batches_may_be_as_large_as_there_are_tiles(large: Path, tmp_path: Path) -> None:
    data = StageData(data=str(large), cache=tmp_path)
    frames = data.training((48, 48))
    fewest = len(frames) - int(np.bincount(data.fold_of(frames)).max())
    assert fewest > 4
    data.check(BaseConfig(size=(48, 48), batch_size=fewest))
    with pytest.raises(ConfigError, match=f"batch_size must be at most {fewest}"):
        data.check(BaseConfig(size=(48, 48), batch_size=fewest + 1))


def test_other_tiles_are_another_data_set_and_none_is_what_it_was(large: Path, tmp_path: Path) -> None:
    digest = open_dataset(large, tmp_path).digest
    plain = write_large(tmp_path / "data", SPEC.partition("[tiles]")[0])
    without = open_dataset(plain, tmp_path).digest
    (plain / "dataset.toml").write_text(SPEC)
    assert open_dataset(plain, tmp_path).digest == digest != without
    (plain / "dataset.toml").write_text(SPEC.replace("overlap = 8", "overlap = 9"))
    assert open_dataset(plain, tmp_path).digest not in (digest, without)


def test_the_cache_is_large_enough_for_what_is_said_to_be_needed(tmp_path: Path) -> None:
    root = tmp_path / "data"
    write_large(root)
    for folder in ("train", "trainannot", "val", "valannot"):
        for path in (root / folder).iterdir():
            pixels = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
            cv2.imwrite(str(path), cv2.resize(pixels, (96, 96), interpolation=cv2.INTER_NEAREST))
    dataset = open_dataset(root, tmp_path / "cache")
    for split in ("train", "val"):
        load_frames(dataset, split, (48, 48), tmp_path / "cache")
    files = list(DiskCache(tmp_path / "cache" / "frames").root.rglob("*.npy"))
    headers = 128 * len(files)
    assert sum(path.stat().st_size for path in files) == cached_bytes(dataset, (48, 48)) + headers


@pytest.mark.usefixtures("one_thread")
def test_tiles_are_trained_on_measured_and_segmented(large: Path, tmp_path: Path) -> None:
    data = StageData(data=str(large), cache=tmp_path / "cache")
    params = {
        "encoder": "tu-test_efficientnet",
        "architecture": "linknet",
        "size": "48x48",
        "epochs": 1,
        "batch_size": 4,
        "precision": "float32",
    }
    (held_out,) = BaseTrial(data=data)({**params, "fold": 2}, None)
    assert 0 <= held_out.scores["miou"] <= 1
    live(BaseTrial(data=data), params, tmp_path / "saved")
    manifest = EnsembleManifest(
        bases=(BaseConfig.from_params(params),),
        fusion=MetaConfig(kind="mean", size=(48, 48)),
        classes=CLASSES,
        tiles=data.dataset().spec.tiles,
    )
    assemble(tmp_path / "ensemble", manifest, [[tmp_path / "saved" / "1"]], None)
    trial = EnsembleTrial(data=data, ensemble=tmp_path / "ensemble", pictures=tmp_path / "out", split="val")
    (measured,) = trial({}, None)
    assert 0 <= measured.scores["miou"] <= 1
    frames = data.frames("val", (48, 48))
    for row, name in enumerate(frames.names):
        mask = cv2.imread(str(tmp_path / "out" / "masks" / f"{name}.png"), cv2.IMREAD_UNCHANGED)
        assert mask.shape == frames.truth(row).shape == (48, 48)
        assert (tmp_path / "out" / "overlays" / f"{name}.jpg").exists()
    masks = list(segment_images(tmp_path / "ensemble", large / "val", tmp_path / "masks"))
    assert [cv2.imread(str(mask), cv2.IMREAD_UNCHANGED).shape for mask in masks] == [SIZES[0], SIZES[1]]
