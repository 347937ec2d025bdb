from pathlib import Path

import cv2
import numpy as np
import pytest

from ensemble_tune.ensemble.dataset_spec import CAMVID_CLASSES
from ensemble_tune.ensemble.frames import IGNORED
from ensemble_tune.ensemble.overlay import palette, write_mask, write_overlay, write_picture
from ensemble_tune.errors import DataError

IMAGE = np.random.default_rng(0).integers(0, 256, (40, 300, 3), np.uint8)
CLASSES = ("road", "car")
BAR = 24


def _panels(path: Path, count: int) -> list[np.ndarray]:
    """The panels of a picture, RGB, without their captions and the legend."""
    picture = cv2.cvtColor(cv2.imread(str(path)), cv2.COLOR_BGR2RGB)
    assert picture.shape[1] == count * 300
    return [picture[BAR : BAR + 40, i * 300 : (i + 1) * 300] for i in range(count)]


def _labels(value: int) -> np.ndarray:
    return np.full((40, 300), value, np.uint8)


def test_a_mask_holds_class_indices(tmp_path: Path) -> None:
    labels = np.random.default_rng(1).integers(0, 11, (20, 30), np.uint8)
    write_mask(tmp_path / "new" / "mask.png", labels)
    read = cv2.imread(str(tmp_path / "new" / "mask.png"), cv2.IMREAD_UNCHANGED)
    assert read.dtype == np.uint8 and np.array_equal(read, labels)


def test_a_picture_shows_frame_truth_prediction_and_errors(tmp_path: Path) -> None:
    truth, prediction = _labels(0), _labels(0)
    prediction[:, 150:] = 1
    write_overlay(tmp_path / "o.png", IMAGE, prediction, CLASSES, truth)
    frame, shown_truth, shown, errors = _panels(tmp_path / "o.png", 4)
    assert np.array_equal(frame, IMAGE)
    assert np.array_equal(shown_truth[:, :150], shown[:, :150])
    assert not np.array_equal(shown_truth[:, 150:], shown[:, 150:])
    red, green = errors[..., 0].astype(int), errors[..., 1].astype(int)
    assert (red[:, 150:] > green[:, 150:]).all() and (red[:, :150] < green[:, :150]).all()


def test_unlabelled_pixels_are_neither_right_nor_wrong(tmp_path: Path) -> None:
    truth = _labels(IGNORED)
    write_overlay(tmp_path / "o.png", IMAGE, _labels(1), CLASSES, truth)
    _, shown_truth, _, errors = _panels(tmp_path / "o.png", 4)
    for panel in (shown_truth, errors):
        assert (panel[..., 0] == panel[..., 1]).all() and (panel[..., 1] == panel[..., 2]).all(), "not grey"


def test_without_truth_a_picture_shows_frame_and_prediction(tmp_path: Path) -> None:
    write_overlay(tmp_path / "o.png", IMAGE, _labels(1), CLASSES, None)
    frame, _ = _panels(tmp_path / "o.png", 2)
    assert np.array_equal(frame, IMAGE)


def test_a_legend_of_many_names_on_a_narrow_picture_takes_several_rows(tmp_path: Path) -> None:
    classes = tuple(f"a class with a long name {i}" for i in range(20))
    labels = np.arange(20, dtype=np.uint8).repeat(2)[:, None].repeat(300, 1)
    write_overlay(tmp_path / "many.png", IMAGE, labels, classes, None)
    write_overlay(tmp_path / "one.png", IMAGE, _labels(0), classes, None)
    heights = [cv2.imread(str(tmp_path / name)).shape[0] for name in ("one.png", "many.png")]
    assert heights[0] == 40 + 2 * BAR and heights[1] > heights[0] + 5 * BAR


@pytest.mark.parametrize("classes", [CAMVID_CLASSES, tuple(f"class {i}" for i in range(60))])
def test_every_class_has_a_colour_of_its_own(classes: tuple[str, ...]) -> None:
    colours = palette(classes)
    assert len({tuple(colour) for colour in colours[: len(classes)]}) == len(classes)
    assert colours[IGNORED].tolist() == [0, 0, 0]


def test_camvid_keeps_its_colours() -> None:
    assert palette(CAMVID_CLASSES)[CAMVID_CLASSES.index("car")].tolist() == [64, 0, 128]


def test_a_picture_too_wide_for_a_jpeg_is_shown_with_fewer_pixels(tmp_path: Path) -> None:
    image = np.full((40, 40_000, 3), 200, np.uint8)
    labels = np.zeros((40, 40_000), np.uint8)
    write_overlay(tmp_path / "wide.jpg", image, labels, CLASSES, None)
    assert cv2.imread(str(tmp_path / "wide.jpg")).shape[:2] == (BAR + 8 + BAR, 2 * 8_000)


def test_no_file_is_written_of_what_its_format_cannot_hold(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"must be of a size that .jpg can hold, but is 2x65501"):
        write_picture(tmp_path / "a.jpg", np.zeros((2, 65_501, 3), np.uint8))
    assert not (tmp_path / "a.jpg").exists()
