from typing import Any

import numpy as np
import pytest

from ensemble_tune.ensemble.image_spec import RGB, ImageSpec
from ensemble_tune.errors import DataError

FOUR = {"channels": 4, "bits": 16, "mean": [100, 200.5, 300, 400], "std": [10, 20, 30, 40]}


def test_what_is_written_is_read_back() -> None:
    for table in ({}, {"channels": 1}, FOUR):
        spec = ImageSpec.read(table)
        assert ImageSpec.read(spec.to_document()) == spec
    assert ImageSpec.read({}) == ImageSpec.read({"channels": 3, "bits": 8}) == RGB


def test_what_is_no_picture_has_to_be_measured() -> None:
    assert RGB.measured and ImageSpec.read(FOUR).measured
    assert not ImageSpec.read({"channels": 4}).measured and not ImageSpec.read({"bits": 16}).measured


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ("images", "images must be a table, but got 'images'; folders of images stand under splits"),
        ({"chanels": 4}, "images has no key 'chanels'; did you mean 'channels'?"),
        ({"channels": 0}, "images.channels must be a whole number within 1..64, but got 0"),
        ({"channels": 65}, "within 1..64"),
        ({"channels": True}, "within 1..64"),
        ({"bits": 12}, "images.bits must be 8 or 16, but got 12"),
        ({"mean": [1, 2, 3]}, "images needs both mean and std"),
        ({"mean": [1, 2], "std": [1, 2, 3]}, "images.mean must be a list of 3 numbers, one a channel"),
        ({"mean": [1, 2, "3"], "std": [1, 2, 3]}, "images.mean must be a list of 3 numbers"),
        ({"mean": [1, 2, float("nan")], "std": [1, 2, 3]}, "images.mean must be a list of 3 numbers"),
        ({"channels": 1, "mean": [float("nan")], "std": [1]}, "images.mean must be a list of 1 numbers"),
        ({"channels": 1, "mean": [1], "std": [float("inf")]}, "images.std must be a list of 1 numbers"),
        ({"channels": 1, "mean": [True], "std": [1]}, "images.mean must be a list of 1 numbers"),
        ({"mean": [1, 2, 3], "std": [1, 0, 3]}, "images.std must be above 0 in every channel"),
    ],
)
def test_a_mistake_is_named(table: Any, message: str) -> None:
    with pytest.raises(DataError) as caught:
        ImageSpec.read(table)
    assert message in str(caught.value)


def test_pictures_are_shown_as_they_are_and_others_stretched() -> None:
    picture = np.arange(60, dtype=np.uint8).reshape(4, 5, 3)
    assert RGB.shown(picture) is picture
    deep = np.linspace(1000, 1400, 400).astype(np.uint16).reshape(20, 20, 1)
    shown = ImageSpec.read({"channels": 1, "bits": 16}).shown(deep)
    assert shown.shape == (20, 20, 3) and (shown[..., 0] == shown[..., 2]).all()
    assert shown.min() == 0 and shown.max() == 255 and 120 < shown.mean() < 135
    flat = ImageSpec.read({"channels": 5}).shown(np.full((4, 4, 5), 7, np.uint8))
    assert flat.shape == (4, 4, 3) and (flat == 0).all()
