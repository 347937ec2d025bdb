import os
import subprocess
import sys

import numpy as np
import pytest

from ensemble_tune.ensemble.augment import Augment
from ensemble_tune.ensemble.frames import IGNORED

RNG = np.random.default_rng(0)
IMAGE = RNG.integers(0, 256, (30, 40, 3), np.uint8)
LABEL = np.kron(RNG.integers(0, 11, (6, 8), np.uint8), np.ones((5, 5), np.uint8))


def test_same_seed_gives_the_same_frame_whatever_came_before() -> None:
    used, fresh = Augment(1.0), Augment(1.0)
    for seed in range(5):
        used(IMAGE, LABEL, seed)
    for mine, theirs in zip(used(IMAGE, LABEL, 7), fresh(IMAGE, LABEL, 7), strict=True):
        assert np.array_equal(mine, theirs)


def test_another_seed_gives_another_frame() -> None:
    augment = Augment(0.5)
    assert len({augment(IMAGE, LABEL, seed)[0].tobytes() for seed in range(10)}) > 5


def test_strength_0_gives_back_what_it_is_given() -> None:
    image, label = Augment(0)(IMAGE, LABEL, 3)
    assert image is IMAGE and label is LABEL


def test_labels_are_never_blended_and_the_outside_is_ignored() -> None:
    augment, seen = Augment(1.0), set()
    for seed in range(30):
        image, label = augment(IMAGE, np.where(LABEL > 5, 9, 2).astype(np.uint8), seed)
        assert image.shape == IMAGE.shape and label.shape == LABEL.shape
        assert image.dtype == label.dtype == np.uint8
        seen |= set(np.unique(label).tolist())
    assert seen == {2, 9, IGNORED}


def test_what_is_varied_is_varied_independently() -> None:
    """The library gives transforms streams that begin alike: a mirrored frame was always moved, relit and recoloured,
    and one that was shifted down was always brighter."""
    augment = Augment(0.5)  # of which nothing in this image gets too bright or too dark
    image, label = np.full((40, 40, 3), (130, 115, 100), np.uint8), np.zeros((40, 40), np.uint8)
    label[18:22, :10], label[18:22, 30:] = 1, 2
    mirrored, recoloured, down, right, brightness = [], [], [], [], []
    for seed in range(400):
        varied, moved = augment(image, label, seed)
        inside = varied[moved != IGNORED].astype(float)
        left, end = (np.argwhere(moved == each).mean(0) for each in (1, 2))
        mirrored.append(left[1] > end[1])
        red, green, blue = inside.mean(0)
        recoloured.append(abs((green - blue) / (red - blue) - 0.5) > 0.04)
        down.append((left + end)[0])
        right.append((left + end)[1])
        brightness.append(inside.mean())
    related = np.corrcoef(np.array([mirrored, recoloured, down, right, brightness], float))
    assert np.abs(related - np.eye(5)).max() < 0.2  # four standard errors
    assert 0.4 < np.mean(mirrored) < 0.6


def test_maps_of_many_classes_are_mirrored_too() -> None:
    maps = np.repeat(LABEL[..., None], 150, axis=2)
    for seed in range(6):
        _, label, moved = Augment(0.01)(IMAGE, LABEL, seed, maps=maps)
        assert moved.shape == maps.shape and (moved == label[..., None])[label != IGNORED].mean() > 0.8


@pytest.mark.parametrize("models", [1, 3])
def test_maps_move_with_the_label_and_are_not_relit(models: int) -> None:
    classes = np.arange(11)
    maps = np.tile((LABEL[..., None] == classes).astype(np.uint8) * 255, (1, 1, models))
    augment = Augment(1.0)
    for seed in range(10):
        _, label, moved = augment(IMAGE, LABEL, seed, maps=maps)
        inside = label != IGNORED
        peak = moved[..., :11].argmax(-1)
        assert (peak == label)[inside].mean() > 0.9
        assert moved.max() == 255 and moved.shape == maps.shape
    assert (moved[..., :11] == moved[..., -11:]).all()


def test_maps_do_not_change_what_happens_to_the_image() -> None:
    augment = Augment(0.7)
    maps = np.zeros((30, 40, 22), np.uint8)
    assert np.array_equal(augment(IMAGE, LABEL, 4)[0], augment(IMAGE, LABEL, 4, maps=maps)[0])


def test_nothing_is_asked_of_the_network_nor_told_of_it_when_a_search_is_imported() -> None:
    nowhere = "http://127.0.0.1:9"  # nobody answers there
    environment = {**os.environ, "HTTP_PROXY": nowhere, "HTTPS_PROXY": nowhere, "PYTHONWARNINGS": "always::UserWarning"}
    environment.pop("NO_ALBUMENTATIONS_UPDATE", None)
    program = "import ensemble_tune.base_search, albumentations"
    done = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True, timeout=240)
    assert (done.returncode, done.stderr) == (0, "")
