import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest
from tiny_frames import write_frame, write_sequences

from ensemble_tune.ensemble.contact_sheet import write_contact_sheet
from ensemble_tune.ensemble.data_check import DataCheck, check_data
from ensemble_tune.ensemble.dataset import open_dataset
from ensemble_tune.ensemble.dataset_spec import CAMVID_CLASSES, DatasetSpec
from ensemble_tune.ensemble.overlay import palette
from ensemble_tune.ensemble.synthetic import write_street_scenes
from ensemble_tune.errors import DataError

EXAMPLE = Path(__file__).parents[2] / "examples" / "camvid-kaggle"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    write_sequences(tmp_path / "data", "train", {"a": 6, "k": 5})
    write_sequences(tmp_path / "data", "val", {"u": 2})
    return write_sequences(tmp_path / "data", "test", {"z": 3})


def rules(found: DataCheck) -> dict[str, tuple[str, ...]]:
    return {fault.rule: fault.offenders for fault in found.faults}


def test_a_sound_data_set_has_no_fault_and_its_pixels_are_counted(root: Path) -> None:
    found = check_data(root)
    assert found.faults == ()
    assert {split: len(own.frames) for split, own in found.splits.items()} == {"train": 11, "val": 2, "test": 3}
    masks = np.stack([cv2.imread(str(frame.mask), cv2.IMREAD_UNCHANGED) for frame in found.splits["train"].frames])
    expected = [(masks == label).sum() for label in range(11)]
    train = found.splits["train"]
    assert train.pixels[:11].tolist() == expected and train.pixels[255] == (masks == 11).sum()
    assert train.shares[:11] == pytest.approx(np.array(expected) / (masks != 11).sum())
    assert train.holding[3] == (masks == 3).any((1, 2)).sum()
    assert train.sequences == {"a": 6, "k": 5} and train.sizes == {(12, 16): 11}


def test_every_fault_is_named_at_once_with_all_that_break_it(root: Path) -> None:
    for index in range(6):
        (root / "trainannot" / f"a_{index:05d}.png").unlink()
    (root / "val" / "u_00000.png").unlink()
    write_frame(root, "test", "holiday")
    write_frame(root, "val", "k_00000")
    write_frame(root, "test", "z_00000", label=99)
    cv2.imwrite(str(root / "testannot" / "z_00001.png"), np.zeros((5, 5), np.uint8))
    cut = root / "train" / "k_00001.png"
    cut.write_bytes(cut.read_bytes()[:-9])
    found = rules(check_data(root))
    expected = {
        "every image in": tuple(f"a_{index:05d}" for index in range(6)),
        "every mask in": ("u_00000",),
        "every frame name must match": ("holiday",),
        "a frame name must stand in one split only": ("k_00000 (train and val)",),
        "labels must be 0..10, or 11": ("z_00000 (99)",),
        "an image and its mask must have the same size": ("z_00001 (12x16 and 5x5)",),
        "every image must be a whole": (f"{cut} is truncated or corrupt",),
    }
    assert len(found) == len(expected)
    for start, offenders in expected.items():
        assert [own for rule, own in found.items() if rule.startswith(start)] == [offenders]


def test_what_training_refuses_is_the_first_fault(root: Path, tmp_path: Path) -> None:
    (root / "trainannot" / "a_00000.png").unlink()
    (root / "testannot" / "z_00000.png").unlink()
    with pytest.raises(DataError) as refused:
        open_dataset(root, tmp_path / "cache")
    faults = check_data(root).faults
    assert str(refused.value) == f"{faults[0]}; 1 more rule is broken, see: ensemble-tune data check DIR"


def test_masks_in_jpeg_are_told_from_missing_ones(root: Path) -> None:
    for index in range(2):
        mask = root / "valannot" / f"u_{index:05d}.png"
        cv2.imwrite(str(mask.with_suffix(".jpg")), cv2.imread(str(mask)))
        mask.unlink()
    found = check_data(root).faults
    assert found[0].rule == "a mask must be a PNG file, since JPEG changes its pixels"
    assert found[0].offenders == ("u_00000.jpg", "u_00001.jpg")
    assert found[1].rule.startswith("every image in ") and len(found) == 2


def test_a_missing_folder_hides_no_other_fault(root: Path) -> None:
    (root / "val").rename(root / "away")
    write_frame(root, "train", "a_00001", label=99)
    found = rules(check_data(root))
    assert [rule.partition(",")[0] for rule in found] == [
        f"val needs the folder {root / 'val'}",
        "labels must be 0..10",
    ]


def test_what_may_flatter_is_noted(root: Path) -> None:
    write_frame(root, "test", "k_00009")
    copied = (root / "train" / "a_00002.png").read_bytes()
    (root / "val" / "u_00001.png").write_bytes(copied)
    for index in range(2):
        write_frame(root, "val", f"u_{index:05d}", label=11 if index else 4)
    (root / "val" / "u_00001.png").write_bytes(copied)
    notes = check_data(root).notes
    assert notes[0].startswith("k stands in train and test: frames of one sequence look alike")
    assert notes[1].startswith("one and the same image is a_00002 (train) and u_00001 (val)")
    absent = ", ".join(name for name in CAMVID_CLASSES if name != "pavement")
    assert notes[2] == f"no frame of val holds {absent}: its IoU there will be unknown"
    assert notes[3] == "not a pixel of u_00001 in val is labelled"
    assert len(notes) == 4


@pytest.mark.parametrize("split", ["train", "val"])
def test_a_split_without_a_labelled_pixel_is_a_fault(root: Path, tmp_path: Path, split: str) -> None:
    """Else a whole search would end with no score, and say that a limit was to blame."""
    for path in (root / f"{split}annot").iterdir():
        write_frame(root, split, path.stem, label=11)
    (rule,) = rules(check_data(root))
    assert rule == f"{split} must have labelled pixels, but not a pixel of it is labelled; check its masks"
    with pytest.raises(DataError, match=f"{split} must have labelled pixels"):
        open_dataset(root, tmp_path / "cache")


def test_without_val_it_is_said_what_is_held_out(tmp_path: Path) -> None:
    found = check_data(write_sequences(tmp_path / "data", "train", {"a": 10}))
    assert {split: len(own.frames) for split, own in found.splits.items()} == {"train": 8, "val": 2}
    assert found.notes[0] == "there is no val split, so a part of train is held out as val"


def test_a_dataset_file_that_cannot_be_understood_is_refused(root: Path) -> None:
    (root / "dataset.toml").write_text("class = 3")
    with pytest.raises(DataError, match=r"no key is called 'class'.*; classes is missing.*; set either sequence"):
        check_data(root)


def test_the_contact_sheet_shows_frames_of_each_split_and_the_colours_of_their_classes(tmp_path: Path) -> None:
    write_street_scenes(tmp_path / "data", 0, sequences=(1, 1, 1), frames=2, size=(30, 40))
    found = check_data(tmp_path / "data")
    write_contact_sheet(tmp_path / "sheet.png", found)
    sheet = cv2.cvtColor(cv2.imread(str(tmp_path / "sheet.png")), cv2.COLOR_BGR2RGB)
    # Three splits of a title and a row of frames, and a line for each class.
    assert sheet.shape[0] > 3 * 165 + 11 * 22 and sheet.shape[1] > 6 * 220
    colours = palette(CAMVID_CLASSES)[:11]
    for colour in colours:
        assert (sheet == colour).all(2).sum() >= 12 * 14, "a swatch of every class"
    assert len(np.unique(sheet @ np.array([1 << 16, 1 << 8, 1]))) > 1000, "photographs, not boxes"


def test_a_frame_that_breaks_a_rule_is_not_drawn(root: Path, tmp_path: Path) -> None:
    for split in ("train", "val"):
        for path in (root / f"{split}annot").iterdir():
            path.write_bytes(b"")
    found = check_data(root)
    assert [len(own.sound) for own in found.splits.values()] == [0, 0, 3]
    write_contact_sheet(tmp_path / "sheet.png", found)
    assert cv2.imread(str(tmp_path / "sheet.png")).shape[0] < 2 * 200 + 14 * 22


def test_the_copy_of_camvid_in_colour_is_read_by_the_file_that_comes_with_it(tmp_path: Path) -> None:
    write_street_scenes(tmp_path / "labels", 0, sequences=(1, 1, 1), frames=2, size=(30, 40))
    root = tmp_path / "kaggle"
    root.mkdir()
    (root / "dataset.toml").write_text((EXAMPLE / "dataset.toml").read_text())
    palette_of = DatasetSpec.load(root).palette
    assert palette_of is not None
    colours = np.zeros((12, 3), np.uint8)
    for label, own in enumerate(palette_of.colours.values()):
        colours[label] = [int(own[-1][start : start + 2], 16) for start in (5, 3, 1)]
    for split in ("train", "val", "test"):
        shutil.copytree(tmp_path / "labels" / split, root / split)
        (root / f"{split}_labels").mkdir()
        for path in (tmp_path / "labels" / f"{split}annot").iterdir():
            mask = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
            cv2.imwrite(str(root / f"{split}_labels" / f"{path.stem}_L.png"), colours[mask])
    coloured, plain = check_data(root), check_data(tmp_path / "labels")
    assert coloured.faults == () and coloured.spec.classes == plain.spec.classes
    for split, own in coloured.splits.items():
        assert np.array_equal(own.pixels, plain.splits[split].pixels) and own.pixels[255] > 0
