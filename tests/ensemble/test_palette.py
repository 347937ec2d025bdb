from pathlib import Path

import cv2
import numpy as np
import pytest

from ensemble_tune.ensemble.dataset_spec import CAMVID_CLASSES, CAMVID_SMALL, DatasetSpec
from ensemble_tune.ensemble.labels import IGNORED
from ensemble_tune.ensemble.mask import decode_labels, read_labels
from ensemble_tune.ensemble.palette import Palette
from ensemble_tune.errors import DataError

EXAMPLE = Path(__file__).parents[2] / "examples" / "camvid-kaggle"
CLASSES = ("road", "car")
PALETTE = Palette({"road": ("#804080", "#8000c0"), "car": ("#400080",)}, ("#000000",))
BINARY = Palette.read("binary", None, CLASSES)
BLACK_AND_WHITE = np.array([[0, 255], [255, 0]], np.uint8)


def spec(palette: Palette | None) -> DatasetSpec:
    return DatasetSpec(name="roads", classes=CLASSES, sequence=None, palette=palette)


def one_bit(pixels: np.ndarray) -> bytes:
    return cv2.imencode(".png", pixels, [cv2.IMWRITE_PNG_BILEVEL, 1])[1].tobytes()


def png(pixels: np.ndarray) -> bytes:
    return cv2.imencode(".png", pixels)[1].tobytes()


def test_merged_colours_are_one_class_and_ignored_ones_none() -> None:
    mask = np.array([[[128, 64, 128], [128, 0, 192]], [[64, 0, 128], [0, 0, 0]]], np.uint8)
    labels, foreign = PALETTE.labels(mask)
    assert labels.tolist() == [[0, 0], [1, IGNORED]] and labels.dtype == np.uint8
    assert foreign == ()


def test_colours_that_are_not_in_the_palette_are_named() -> None:
    mask = np.array([[[128, 64, 129], [255, 255, 255], [64, 0, 128], [128, 64, 129]]], np.uint8)
    labels, foreign = PALETTE.labels(mask)
    assert foreign == ("#804081", "#ffffff")
    assert labels.tolist() == [[IGNORED, IGNORED, 1, IGNORED]]


def test_red_green_and_blue_of_a_file_are_not_mixed_up(tmp_path: Path) -> None:
    cv2.imwrite(str(tmp_path / "mask.png"), np.array([[[192, 0, 128], [128, 0, 64]]], np.uint8))  # blue comes first
    assert read_labels(spec(PALETTE), tmp_path / "mask.png").tolist() == [[0, 1]]


@pytest.mark.parametrize(
    "data",
    [
        png(BLACK_AND_WHITE),
        png(BLACK_AND_WHITE // 255),
        png(np.repeat(BLACK_AND_WHITE[..., None], 3, 2)),
        png(np.dstack([*[BLACK_AND_WHITE] * 3, np.full((2, 2), 255, np.uint8)])),
        one_bit(BLACK_AND_WHITE),
    ],
    ids=["0 and 255", "0 and 1", "colour", "with alpha", "one bit"],
)
def test_black_is_the_first_class_and_white_the_second(data: bytes) -> None:
    labels, foreign = decode_labels(spec(BINARY), Path("mask.png"), data)
    assert labels.tolist() == [[0, 1], [1, 0]] and foreign == ()


def test_grey_is_neither_black_nor_white_unless_it_is_ignored() -> None:
    data = png(np.array([[0, 128], [255, 254]], np.uint8))
    assert decode_labels(spec(BINARY), Path("mask.png"), data)[1] == ("#808080", "#fefefe")
    ignoring = Palette.read("binary", ["#808080", "#fefefe"], CLASSES)
    labels, foreign = decode_labels(spec(ignoring), Path("mask.png"), data)
    assert labels.tolist() == [[0, IGNORED], [1, IGNORED]] and foreign == ()


def test_colours_of_16_bits_and_of_jpeg_are_refused() -> None:
    for data, why in (
        (png(np.zeros((2, 2, 3), np.uint16)), "holds pixels of 16 bits, not of 8 at most"),
        (cv2.imencode(".jpg", BLACK_AND_WHITE)[1].tobytes(), "is not a PNG file"),
    ):
        with pytest.raises(DataError, match=why):
            decode_labels(spec(BINARY), Path("mask.png"), data)


@pytest.mark.parametrize(
    ("value", "ignored", "message"),
    [
        ({"road": "#804080"}, None, "must give every class a colour, but has none for car"),
        ({"road": "#804080", "cat": "#000000", "car": "#000001"}, None, "names 'cat', which is no class; did you"),
        ({"road": "#804080", "car": "#804080"}, None, "#804080 for 'road' and 'car'"),
        ({"road": "#804080", "car": [128, 64, 128]}, None, "#804080 for 'road' and 'car'"),
        ({"road": "#804080", "car": "#000000"}, [0, 0, 0], "#000000 for 'car' and 'ignored'"),
        ({"road": "#804080", "car": "red"}, None, 'palette.car must be a colour such as "#804080"'),
        ({"road": "#804080", "car": [1, 2]}, None, "palette.car must be a colour such as"),
        ({"road": "#804080", "car": [1, 2, 256]}, None, "palette.car must be a colour such as"),
        ({"road": "#804080", "car": 3}, None, "palette.car must be a colour or a list of colours"),
        ({"road": "#804080", "car": "#000000"}, 255, "ignored must be a colour or a list of colours"),
        ("colours", None, 'palette must be a table of colours for each class, or "binary"'),
    ],
)
def test_a_mistake_in_a_palette_is_named(value: object, ignored: object, message: str) -> None:
    with pytest.raises(DataError) as caught:
        Palette.read(value, ignored, CLASSES)
    assert message in str(caught.value)


def test_a_binary_palette_is_of_two_classes() -> None:
    with pytest.raises(DataError, match="needs two classes, but there are 3"):
        Palette.read("binary", None, ("a", "b", "c"))


def test_the_example_maps_the_32_colours_of_camvid_to_11_classes() -> None:
    found = DatasetSpec.load(EXAMPLE)
    assert found.classes == CAMVID_CLASSES and found.small == CAMVID_SMALL
    assert found.palette is not None
    colours = [colour for own in found.palette.colours.values() for colour in own]
    assert len(colours) == 31 and found.palette.ignored == ("#000000",)
    # Each channel of CamVid's colours is 0, 64, 128 or 192.
    assert all(
        part in ("00", "40", "80", "c0") for colour in colours for part in (colour[1:3], colour[3:5], colour[5:])
    )
    bus, scooter, shoulder = (192, 128, 192), (192, 0, 192), (128, 128, 192)
    labels, foreign = found.palette.labels(np.array([[bus, scooter, shoulder, (0, 0, 0)]], np.uint8))
    assert [CAMVID_CLASSES[label] for label in labels[0, :3]] == ["car", "bicyclist", "pavement"]
    assert labels[0, 3] == IGNORED and foreign == ()
    assert [found.sequence_of(name) for name in ("0001TP_006690", "Seq05VD_f02430")] == ["0001TP", "Seq05VD"]
