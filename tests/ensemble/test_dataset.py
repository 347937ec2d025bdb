import os
from pathlib import Path

import cv2
import numpy as np
import pytest
from tiny_frames import write_frame, write_sequences

from ensemble_tune.ensemble import frame_check
from ensemble_tune.ensemble.dataset import Dataset, open_dataset
from ensemble_tune.ensemble.frames import load_frames
from ensemble_tune.errors import DataError

CAMVID = Path(__file__).parents[3] / "shared" / "camvid"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    write_sequences(tmp_path / "data", "train", {"0001TP": 6, "0006R0": 5})
    return write_sequences(tmp_path / "data", "val", {"0016E5": 3})


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    return tmp_path / "cache"


def names(dataset: Dataset, split: str) -> list[str]:
    return [frame.name for frame in dataset.splits[split]]


def refused(root: Path, cache: Path) -> str:
    with pytest.raises(DataError) as caught:
        open_dataset(root, cache)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_frames_are_paired_sorted_and_know_their_sequence(root: Path, cache: Path) -> None:
    dataset = open_dataset(str(root), cache)
    assert names(dataset, "train") == [f"0001TP_{i:05d}" for i in range(6)] + [f"0006R0_{i:05d}" for i in range(5)]
    assert {frame.sequence for frame in dataset.splits["train"]} == {"0001TP", "0006R0"}
    assert all(frame.image.stem == frame.mask.stem == frame.name for frame in dataset.splits["val"])
    assert not dataset.has_test


def test_frame_10_comes_after_frame_9(root: Path, cache: Path) -> None:
    write_frame(root, "val", "0016E5_f9")
    write_frame(root, "val", "0016E5_f10")
    assert names(open_dataset(root, cache), "val")[-2:] == ["0016E5_f9", "0016E5_f10"]


def test_digest_is_of_content_alone(root: Path, cache: Path, tmp_path: Path) -> None:
    digest = open_dataset(root, cache).digest
    os.utime(root / "train" / "0001TP_00000.png")
    assert open_dataset(root, cache).digest == digest
    root.rename(tmp_path / "elsewhere")
    assert open_dataset(tmp_path / "elsewhere", cache).digest == digest
    write_frame(tmp_path / "elsewhere", "val", "0016E5_00000", label=3)
    assert open_dataset(tmp_path / "elsewhere", cache).digest != digest
    assert len(digest) == 16


def test_unchanged_folder_is_not_decoded_again(root: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = open_dataset(root, cache)
    monkeypatch.setattr(frame_check, "decode_pixels", lambda *_: pytest.fail("decoded again"))
    assert open_dataset(root, cache) == first


def test_the_digest_of_a_plain_data_set_is_what_it_always_was(tmp_path: Path, cache: Path) -> None:
    """Runs and caches of older versions are of it. The files are written out, since encoders differ."""
    start, end = "89504e470d0a1a0a0000000d49484452000000020000000108", "0000000049454e44ae426082"
    image = f"{start}020000007b40e8dd0000000f4944415478da636064626661650300003f001698c16813{end}"
    mask = f"{start}00000000d1492056" + f"0000000b4944415478da6360e00600000e000c032fab85{end}"
    for split, name in (("train", "a_1"), ("val", "b_1")):
        for folder, content in ((split, image), (f"{split}annot", mask)):
            (tmp_path / "data" / folder).mkdir(parents=True)
            (tmp_path / "data" / folder / f"{name}.png").write_bytes(bytes.fromhex(content))
    assert open_dataset(tmp_path / "data", cache).digest == "36c64abb19c0a00c"


def test_corrupt_memo_is_made_again(root: Path, cache: Path) -> None:
    first = open_dataset(root, cache)
    (memo,) = (cache / "checked").iterdir()
    for text in ("", "{", '{"digest": 3}', "[]", '{"digest": "../../x"}'):
        memo.write_text(text)
        assert open_dataset(root, cache) == first


def test_without_val_the_end_of_each_sequence_is_held_out(tmp_path: Path, cache: Path) -> None:
    dataset = open_dataset(write_sequences(tmp_path / "data", "train", {"a": 10, "b": 5}), cache)
    assert names(dataset, "val") == ["a_00008", "a_00009", "b_00004"]
    assert len(dataset.splits["train"]) == 12


def test_without_val_every_fifth_independent_frame_is_held_out(tmp_path: Path, cache: Path) -> None:
    root = write_sequences(tmp_path / "data", "train", {"a": 11})
    (root / "dataset.toml").write_text(f'classes = {[str(i) for i in range(11)]}\nignored = 11\ngroups = "none"\n')
    dataset = open_dataset(root, cache)
    assert names(dataset, "val") == ["a_00004", "a_00009"]
    assert dataset.splits["val"][0].sequence == "a_00004"


def test_blocks_pool_train_and_val_and_leave_test_alone(root: Path, cache: Path) -> None:
    write_sequences(root, "test", {"0001TP": 0, "0099XX": 2})
    official = open_dataset(root, cache)
    blocks = official.in_blocks()
    assert names(blocks, "val") == ["0001TP_00005", "0006R0_00002", "0016E5_00000"]
    assert names(blocks, "gap") == ["0001TP_00004", "0006R0_00001", "0006R0_00003"]
    pooled = {*official.splits["train"], *official.splits["val"]}
    assert {frame for split in ("train", "val", "gap") for frame in blocks.splits[split]} == pooled
    assert sum(len(blocks.splits[split]) for split in ("train", "val", "gap")) == len(pooled)
    assert blocks.splits["test"] == official.splits["test"]
    assert blocks.digest != official.digest


def test_blocks_are_the_same_whether_or_not_there_is_a_val_folder(tmp_path: Path, cache: Path) -> None:
    apart = open_dataset(write_sequences(tmp_path / "a", "train", {"a": 12, "b": 9}), cache).in_blocks()
    write_sequences(tmp_path / "b", "train", {"a": 12})
    split = open_dataset(write_sequences(tmp_path / "b", "val", {"b": 9}), cache).in_blocks()
    for each in ("train", "val", "gap"):
        assert names(apart, each) == names(split, each)


def test_missing_folder_is_refused_with_the_layout(tmp_path: Path, cache: Path) -> None:
    assert "trainannot/" in refused(tmp_path / "nowhere", cache)
    assert "trainannot/" in refused(tmp_path, cache)


def test_missing_masks_are_counted_and_the_first_are_named(root: Path, cache: Path) -> None:
    for mask in sorted((root / "trainannot").iterdir())[:7]:
        mask.unlink()
    message = refused(root, cache)
    assert "needs a mask of the same name" in message
    assert "7 break this: 0001TP_00000, " in message
    assert message.endswith("0001TP_00004, ...")


def test_extra_mask_is_refused(root: Path, cache: Path) -> None:
    (root / "train" / "0006R0_00001.png").unlink()
    message = refused(root, cache)
    assert "needs an image" in message and "1 breaks this: 0006R0_00001" in message


def test_mask_of_another_size_is_refused(root: Path, cache: Path) -> None:
    cv2.imwrite(str(root / "trainannot" / "0006R0_00001.png"), np.zeros((10, 16), np.uint8))
    message = refused(root, cache)
    assert "same size" in message and "0006R0_00001 (12x16 and 10x16)" in message


def test_label_that_is_no_class_is_refused(root: Path, cache: Path) -> None:
    write_frame(root, "val", "0016E5_00001", label=12)
    assert "labels must be 0..10, or 11 for unlabelled" in (message := refused(root, cache))
    assert "0016E5_00001 (12)" in message


@pytest.mark.parametrize("folder", ["train", "trainannot"])
@pytest.mark.parametrize("share", [0.0, 0.02, 0.5, 0.99])
def test_truncated_png_is_refused(root: Path, cache: Path, folder: str, share: float) -> None:
    path = root / folder / "0001TP_00002.png"
    data = path.read_bytes()
    path.write_bytes(data[: int(share * len(data))])
    message = refused(root, cache)
    assert "must be a whole" in message and str(path) in message


def test_flipped_bit_is_refused(root: Path, cache: Path) -> None:
    path = root / "train" / "0001TP_00002.png"
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    assert "corrupt" in refused(root, cache)


COLOURS = np.array([(128, 64, 128), (64, 0, 128), (0, 0, 0)], np.uint8)
PALETTE = """
classes = ["road", "car"]
ignored = "#000000"
mask_suffix = "_L"
groups = "none"
[palette]
road = "#804080"
car = "#400080"
"""


def coloured(root: Path, text: str = PALETTE) -> Path:
    """Eight frames with masks in colour."""
    rng = np.random.default_rng(0)
    for folder in ("train", "trainannot"):
        (root / folder).mkdir(parents=True)
    for index in range(8):
        cv2.imwrite(str(root / "train" / f"{index}.png"), rng.integers(0, 256, (8, 12, 3), np.uint8))
        mask = COLOURS[rng.integers(0, 3, (8, 12))]
        cv2.imwrite(str(root / "trainannot" / f"{index}_L.png"), mask[..., ::-1])
    (root / "dataset.toml").write_text(text)
    return root


def test_masks_in_colour_are_read_as_labels(tmp_path: Path, cache: Path) -> None:
    dataset = open_dataset(coloured(tmp_path / "data"), cache)
    frames = load_frames(dataset, "train", (8, 12), cache)
    frame = dataset.splits["train"][0]
    assert frame.mask.name == f"{frame.name}_L.png"
    colours = cv2.imread(str(frame.mask))[..., ::-1]
    truth = frames.truth(0)
    for label, colour in zip((0, 1, 255), COLOURS, strict=True):
        assert ((truth == label) == (colours == colour).all(2)).all() and (truth == label).any()


def test_another_palette_or_another_suffix_is_another_data_set(tmp_path: Path, cache: Path) -> None:
    root = coloured(tmp_path / "data")
    before = open_dataset(root, cache).digest
    (root / "dataset.toml").write_text(PALETTE.replace('car = "#400080"', 'car = ["#400080", "#400081"]'))
    assert open_dataset(root, cache).digest != before
    (root / "dataset.toml").write_text(PALETTE)
    assert open_dataset(root, cache).digest == before


def test_a_colour_that_is_not_in_the_palette_is_refused(tmp_path: Path, cache: Path) -> None:
    root = coloured(tmp_path / "data", PALETTE.replace("#400080", "#400081"))
    message = refused(root, cache)
    assert (
        "colours of masks must be in the palette, or among those that are ignored; 8 break this: 0 (#400080)" in message
    )


def test_images_and_masks_may_share_a_folder(tmp_path: Path, cache: Path) -> None:
    root = coloured(tmp_path / "data")
    for mask in (root / "trainannot").iterdir():
        mask.rename(root / "train" / mask.name)
    (root / "trainannot").rmdir()
    together = '[splits]\ntrain = { images = "train", masks = "train" }\n'
    (root / "dataset.toml").write_text(PALETTE + together)
    dataset = open_dataset(root, cache)
    assert names(dataset, "train") == ["0", "1", "2", "3", "5", "6", "7"] and names(dataset, "val") == ["4"]


def test_several_broken_rules_are_counted(root: Path, cache: Path) -> None:
    (root / "trainannot" / "0001TP_00000.png").unlink()
    write_frame(root, "val", "holiday")
    (root / "val" / "0016E5_00000.png").unlink()
    message = refused(root, cache)
    assert message.endswith("1 breaks this: 0001TP_00000; 2 more rules are broken, see: ensemble-tune data check DIR")


def test_colour_mask_is_refused(root: Path, cache: Path) -> None:
    cv2.imwrite(str(root / "valannot" / "0016E5_00001.png"), np.zeros((12, 16, 3), np.uint8))
    assert "holds colour pixels of 8 bits" in refused(root, cache)


def test_mask_of_16_bits_is_refused(root: Path, cache: Path) -> None:
    cv2.imwrite(str(root / "valannot" / "0016E5_00001.png"), np.zeros((12, 16), np.uint16))
    assert "holds grey pixels of 16 bits" in refused(root, cache)


def test_empty_split_is_refused(root: Path, cache: Path) -> None:
    (root / "test").mkdir()
    (root / "testannot").mkdir()
    assert "test is empty" in refused(root, cache)


def test_frame_in_two_splits_is_refused(root: Path, cache: Path) -> None:
    write_frame(root, "val", "0001TP_00003")
    assert "one split only; 1 breaks this: 0001TP_00003 (train and val)" in refused(root, cache)


def test_names_that_differ_in_their_ending_alone_are_refused(root: Path, cache: Path) -> None:
    (root / "train" / "0001TP_00003.jpg").write_bytes(b"")
    assert "more than their ending" in refused(root, cache)


def test_name_without_a_sequence_is_refused_with_the_remedy(root: Path, cache: Path) -> None:
    write_frame(root, "val", "holiday")
    message = refused(root, cache)
    assert "holiday" in message and 'groups = "none"' in message


def test_hidden_files_are_no_frames(root: Path, cache: Path) -> None:
    (root / "train" / "._0001TP_00003.png").write_bytes(b"")
    assert len(open_dataset(root, cache).splits["train"]) == 11


def test_jpeg_images_are_read_and_truncated_ones_refused(root: Path, cache: Path) -> None:
    path = root / "train" / "0001TP_00003.JPG"
    cv2.imwrite(str(path), cv2.imread(str(path.with_suffix(".png"))))
    path.with_suffix(".png").unlink()
    assert len(open_dataset(root, cache).splits["train"]) == 11
    path.write_bytes(path.read_bytes()[:-20])
    assert "truncated" in refused(root, cache)


def test_seed_of_synthetic_must_be_a_number(cache: Path) -> None:
    assert "try synthetic:1" in refused(Path("synthetic:one"), cache)


@pytest.mark.skipif(not CAMVID.is_dir(), reason="CamVid is not here")
def test_camvid_is_found_in_three_training_sequences(cache: Path) -> None:
    dataset = open_dataset(CAMVID, cache)
    assert {frame.sequence for frame in dataset.splits["train"]} == {"0001TP", "0006R0", "0016E5"}
    assert dataset.has_test
    blocks = dataset.in_blocks()
    assert {frame.sequence for frame in blocks.splits["val"]} == {"0001TP", "0006R0", "0016E5"}
    assert {name: len(frames) for name, frames in blocks.splits.items()} == {
        "train": 347,
        "val": 93,
        "gap": 28,
        "test": len(dataset.splits["test"]),
    }
