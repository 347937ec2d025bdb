from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from tiles import SIZE, write_tile_frame, write_tiles

from ensemble_tune.ensemble import frame_cache
from ensemble_tune.ensemble.config import BaseConfig, MetaConfig, parse_size
from ensemble_tune.ensemble.dataset import open_dataset
from ensemble_tune.ensemble.prediction_store import PredictionStore
from ensemble_tune.ensemble.stage_data import StageData, as_images, shuffled_rows
from ensemble_tune.errors import ConfigError, DataError

WORKING = parse_size(SIZE)


@pytest.fixture(scope="module")
def long(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two sequences long enough for a gap, the second in train and val."""
    root = write_tiles(tmp_path_factory.mktemp("long") / "tiles", {"train": {"a": 20, "b": 4}, "test": {"d": 2}})
    (root / "val").mkdir()
    (root / "valannot").mkdir()
    for i in range(4, 10):
        write_tile_frame(root, "val", f"b_{i:03d}")
    return root


def _base(batch_size: int, seed: int = 0) -> BaseConfig:
    return BaseConfig(size=WORKING, batch_size=batch_size, seed=seed)


def test_val_is_held_out_unless_it_is_trained_on(tiles: Path, cache: Path) -> None:
    apart = StageData(data=str(tiles), cache=cache)
    held_out = apart.held_out(WORKING)
    assert held_out is not None and set(held_out.names).isdisjoint(apart.training(WORKING).names)
    together = StageData(data=str(tiles), cache=cache, with_val=True)
    assert together.held_out(WORKING) is None
    assert together.training(WORKING).names == apart.training(WORKING).names + held_out.names


def test_every_training_frame_has_one_fold_also_with_val(tiles: Path, cache: Path) -> None:
    for with_val in (False, True):
        data = StageData(data=str(tiles), cache=cache, folds=3, with_val=with_val)
        folds = data.fold_of(data.training(WORKING))
        assert set(folds) == {1, 2, 3} and len(folds) == len(data.training(WORKING))


def test_blocks_train_on_official_val_and_hold_out_a_block_of_every_sequence(long: Path, cache: Path) -> None:
    data = StageData(data=str(long), cache=cache, split="blocks")
    held_out = data.held_out(WORKING)
    assert held_out is not None
    assert held_out.names == tuple(f"a_{i:03d}" for i in range(16, 20)) + tuple(f"b_{i:03d}" for i in range(4, 6))
    left = [f"a_{i:03d}" for i in range(15)] + [f"b_{i:03d}" for i in (0, 1, 2, 7, 8, 9)]
    assert data.training(WORKING).names == tuple(left)


def test_frames_of_blocks_are_their_own_pixels_and_are_decoded_once_for_both_splits(
    long: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    official = StageData(data=str(long), cache=tmp_path)
    both = official.training(WORKING).join(official.frames("val", WORKING))
    monkeypatch.setattr(frame_cache, "read_pixels", lambda *_: pytest.fail("decoded again"))
    blocks = replace(official, split="blocks").training(WORKING)
    for i, name in enumerate(blocks.names):
        row = both.names.index(name)
        assert (blocks.image(i) == both.image(row)).all() and (blocks.truth(i) == both.truth(row)).all()
        assert blocks.sequences[i] == both.sequences[row]


def test_the_gap_of_blocks_is_nowhere_but_where_val_is_trained_on(long: Path, cache: Path) -> None:
    gap = {"a_015", "b_003", "b_006"}
    blocks = StageData(data=str(long), cache=cache, split="blocks")
    for name in ("train", "val", "test"):
        assert gap.isdisjoint(blocks.frames(name, WORKING).names)
    store = PredictionStore(cache, blocks)
    for fold, part in ((1, "held-out"), (2, "held-out"), (3, "held-out"), (0, "val"), (0, "train")):
        stamp = store.stamp(_base(4), fold, part)  # type: ignore[arg-type]
        assert gap.isdisjoint((*stamp.frames, *stamp.trained_on))
    together = replace(blocks, with_val=True)
    official = StageData(data=str(long), cache=cache, with_val=True)
    assert together.held_out(WORKING) is None
    assert sorted(together.training(WORKING).names) == sorted(official.training(WORKING).names)
    assert gap < set(together.training(WORKING).names)


def test_test_frames_are_the_same_under_both_splits(long: Path, cache: Path) -> None:
    official = StageData(data=str(long), cache=cache)
    blocks = replace(official, split="blocks")
    assert blocks.frames("test", WORKING).names == official.frames("test", WORKING).names
    assert blocks.dataset().splits["test"] == official.dataset().splits["test"]


def test_provenance_tells_the_splits_apart_and_says_of_official_what_it_always_did(long: Path, cache: Path) -> None:
    official = StageData(data=str(long), cache=cache)
    digest = open_dataset(long, cache).digest
    assert official.provenance() == {"data": digest, "split": "official"}
    assert replace(official, split="blocks").provenance() == {"data": f"{digest}-blocks", "split": "blocks"}


def test_a_batch_larger_than_what_blocks_leave_is_refused(long: Path, cache: Path) -> None:
    """21 of 30 frames are trained on, all 30 with val; a fit leaves a third of those out."""
    data = StageData(data=str(long), cache=cache, split="blocks")
    data.check(MetaConfig(size=WORKING, batch_size=14))
    with pytest.raises(ConfigError, match="at most 14"):
        data.check(MetaConfig(size=WORKING, batch_size=15))
    replace(data, with_val=True).check(MetaConfig(size=WORKING, batch_size=20))


def test_a_missing_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no folder is at"):
        StageData(data=str(tmp_path / "none"), cache=tmp_path).dataset()


def test_an_epochs_batches_hang_on_seed_and_epoch_alone() -> None:
    def rows(seed: int, epoch: int) -> list[tuple[list[int], list[int]]]:
        return list(shuffled_rows(_base(4, seed), epoch, 11))

    assert rows(1, 2) == rows(1, 2)
    assert rows(1, 2) != rows(1, 3) and rows(1, 2) != rows(2, 2)


def test_batches_are_full_and_hold_no_row_twice() -> None:
    batches = [rows for rows, _ in shuffled_rows(_base(4), 1, 11)]
    assert [len(rows) for rows in batches] == [4, 4]
    seen = [row for rows in batches for row in rows]
    assert len(set(seen)) == 8 and set(seen) <= set(range(11))


def test_a_row_left_out_in_one_epoch_has_its_turn_in_another() -> None:
    assert {row for epoch in range(10) for rows, _ in shuffled_rows(_base(4), epoch, 11) for row in rows} == set(
        range(11)
    )


def test_a_rows_augmentation_seed_hangs_on_the_row_not_on_the_batch() -> None:
    def seeds(batch_size: int) -> dict[int, int]:
        return {
            row: seed
            for rows, drawn in shuffled_rows(_base(batch_size), 1, 8)
            for row, seed in zip(rows, drawn, strict=True)
        }

    assert seeds(2) == seeds(4)
    assert len(set(seeds(2).values())) == 8


def test_images_become_one_tensor_in_the_layout_that_convolutions_like() -> None:
    images = [np.full((4, 6, 3), value, np.uint8) for value in (1, 2)]
    tensor = as_images(images)
    assert tensor.shape == (2, 3, 4, 6) and tensor.dtype == torch.uint8
    assert tensor.is_contiguous(memory_format=torch.channels_last)
    assert tensor[1].unique().tolist() == [2]


@pytest.mark.usefixtures("one_thread")
def test_a_process_takes_the_threads_of_its_share(tmp_path: Path) -> None:
    torch.set_num_threads(2)
    cv2.setNumThreads(2)
    assert StageData(data="synthetic", cache=tmp_path, threads=1, device="cpu").prepare() == torch.device("cpu")
    assert torch.get_num_threads() == cv2.getNumThreads() == 1


def test_a_batch_larger_than_the_smallest_training_is_refused(tiles: Path, cache: Path) -> None:
    """12 frames in 3 folds: a fold model sees 8 of them, and so does a fusion that is cross-fitted."""
    data = StageData(data=str(tiles), cache=cache, folds=3)
    data.check(_base(8))
    data.check(MetaConfig(size=WORKING, batch_size=8))
    with pytest.raises(ConfigError, match=r"batch_size must be at most 8, .* but got 9; lower it"):
        data.check(_base(9))
    with pytest.raises(ConfigError, match="at most 8"):
        data.check(MetaConfig(size=WORKING, batch_size=9))
    StageData(data=str(tiles), cache=cache, folds=4, with_val=True).check(_base(12))


def test_uneven_folds_count_by_the_largest(tmp_path: Path) -> None:
    root = write_tiles(tmp_path / "uneven", {"train": {"a": 5}, "val": {"c": 1}})
    data = StageData(data=str(root), cache=tmp_path, folds=2)
    data.check(_base(2))
    with pytest.raises(ConfigError, match="at most 2"):
        data.check(_base(3))
