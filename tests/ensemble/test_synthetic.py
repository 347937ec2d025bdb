from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
import torch.nn.functional as F

from ensemble_tune.ensemble.dataset import Dataset, open_dataset
from ensemble_tune.ensemble.frames import Frames, load_frames
from ensemble_tune.ensemble.metrics import Confusion
from ensemble_tune.ensemble.synthetic import write_street_scenes


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="module")
def scenes(cache: Path) -> Dataset:
    return open_dataset("synthetic", cache)


def test_scenes_are_a_data_set_like_any_other(scenes: Dataset, cache: Path) -> None:
    assert {split: len(frames) for split, frames in scenes.splits.items()} == {"train": 48, "val": 16, "test": 16}
    assert len({frame.sequence for frame in scenes.splits["train"]}) == 3
    assert cv2.imread(str(scenes.splits["train"][0].image)).shape == (240, 320, 3)
    assert open_dataset(scenes.root, cache).digest == scenes.digest


def test_every_class_is_in_train_val_and_test(scenes: Dataset, cache: Path) -> None:
    for split in scenes.splits:
        assert load_frames(scenes, split, (120, 160), cache).class_frequencies().min() > 0.002


def test_some_pixels_are_unlabelled(scenes: Dataset, cache: Path) -> None:
    frames = load_frames(scenes, "train", (120, 160), cache)
    unlabelled = np.mean([frames.truth(i) == 255 for i in range(len(frames))])
    assert 0.01 < unlabelled < 0.1


def test_same_seed_gives_the_same_bytes_and_another_seed_others(tmp_path: Path) -> None:
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        write_street_scenes(tmp_path / name, seed, sequences=(1, 0, 0), frames=2, size=(120, 160))
    first, same, other = (
        [path.read_bytes() for path in sorted((tmp_path / name).rglob("*.png"))] for name in ("a", "b", "c")
    )
    assert first == same != other
    assert len(first) == 4


def _pixels(frames: Frames) -> tuple[torch.Tensor, torch.Tensor]:
    """Colour, place and a constant of every pixel, and its label."""
    height, width = frames.size
    rows, columns = torch.meshgrid(torch.linspace(-1, 1, height), torch.linspace(-1, 1, width), indexing="ij")
    place = torch.stack([rows, columns, torch.ones_like(rows)], -1)
    colours = [torch.tensor(frames.image(i)) / 255 - 0.5 for i in range(len(frames))]
    features = torch.stack([torch.cat([colour, place], -1) for colour in colours]).flatten(0, 2)
    return features, torch.stack([torch.tensor(frames.label(i)) for i in range(len(frames))]).flatten()


def test_colour_and_place_of_a_pixel_do_not_give_its_class(scenes: Dataset, cache: Path) -> None:
    train, val = (load_frames(scenes, split, (30, 40), cache) for split in ("train", "val"))
    features, labels = _pixels(train)
    weights = torch.zeros(features.shape[1], len(train.classes), requires_grad=True)
    optimizer = torch.optim.LBFGS([weights], max_iter=60, line_search_fn="strong_wolfe")

    def loss() -> torch.Tensor:
        optimizer.zero_grad()
        value = F.cross_entropy(features @ weights, labels.long(), ignore_index=255)
        value.backward()
        return value

    optimizer.step(loss)
    features, labels = _pixels(val)
    confusion = Confusion(len(val.classes))
    confusion.add((features @ weights).argmax(1), labels)
    assert confusion.scores(val.classes, val.small)["miou"] < 0.3
