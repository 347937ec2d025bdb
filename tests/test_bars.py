"""What takes longer than a moment is a wait with a bar: how many steps there are is known, and each is counted."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from test_comparison import candidate

from ensemble_tune.comparison import compare
from ensemble_tune.ensemble.base_model import build_base_model
from ensemble_tune.ensemble.config import BaseConfig, MetaConfig
from ensemble_tune.ensemble.data_check import check_data
from ensemble_tune.ensemble.dataset import open_dataset
from ensemble_tune.ensemble.manifest import MANIFEST_FILE, EnsembleManifest
from ensemble_tune.ensemble.selection import PixelSample, greedy_weights
from ensemble_tune.ensemble.synthetic import write_street_scenes
from ensemble_tune.ensemble.tiles import Tiles
from ensemble_tune.errors import RunError
from ensemble_tune.object_path import ObjectPath
from ensemble_tune.saved_ensemble import load_ensemble
from ensemble_tune.segment import segment_images
from ensemble_tune.storage import write_bytes
from ensemble_tune.tune import lease as lease_module
from ensemble_tune.tune.lease import Lease
from ensemble_tune.waits import Wait, current_waits, listening


def waits_of(work: Callable[[], object]) -> list[Wait]:
    """The waits that are seen while something is done, in the order of their beginnings; they have ended."""
    seen: list[Wait] = []

    def look() -> None:
        seen.extend(wait for wait in current_waits() if wait not in seen)

    with listening(look):
        work()
    assert current_waits() == ()
    return seen


@pytest.fixture
def ensemble(tmp_path: Path) -> Path:
    """Two members that have learned nothing, and their mean, which take large images in tiles."""
    size = (32, 32)
    bases = tuple(BaseConfig(architecture="linknet", encoder="tu-test_resnet", size=size, seed=seed) for seed in (1, 2))
    classes, folder = ("road", "car"), tmp_path / "ensemble"
    for place, base in enumerate(bases, start=1):
        target = folder / "members" / f"{place}-fold-0"
        target.mkdir(parents=True)
        state = build_base_model(base, len(classes), pretrained=False).state_dict()
        save_file({name: value.contiguous() for name, value in state.items()}, target / "model.safetensors")
    fusion, tiles = MetaConfig(kind="mean", size=size), Tiles(size=size, overlap=0)
    EnsembleManifest(bases=bases, fusion=fusion, classes=classes, tiles=tiles).save(folder / MANIFEST_FILE)
    return folder


def images(folder: Path) -> Path:
    folder.mkdir()
    for name, height in (("a", 64), ("b", 20)):
        cv2.imwrite(str(folder / f"{name}.png"), np.zeros((height, 96 if name == "a" else 20, 3), np.uint8))
    return folder


def sample() -> PixelSample:
    predictions = np.random.default_rng(0).integers(0, 255, (4, 3, 50), np.uint8)
    labels = torch.arange(50, dtype=torch.uint8) % 3
    return PixelSample(torch.from_numpy(predictions), labels, torch.ones(50, dtype=torch.float64))


@pytest.mark.parametrize(
    ("what", "steps"),
    [
        ("loading the ensemble", [2]),
        ("segmenting", [2]),
        ("tiles of the image", [6]),
        ("checking the data set", [20, 12, 4, 4]),
        ("drawing street scenes for val", [3]),
        ("choosing members", [16]),
        ("comparing fusions", [3]),
    ],
)
def test_a_bar_tells_how_far_it_is(what: str, steps: list[int], tiles: Path, tmp_path: Path, ensemble: Path) -> None:
    works: dict[str, Callable[[], object]] = {
        "loading": lambda: load_ensemble(ensemble),
        "segmenting": lambda: list(segment_images(ensemble, images(tmp_path / "images"), tmp_path / "masks", cpu=True)),
        "tiles": lambda: list(segment_images(ensemble, images(tmp_path / "images"), tmp_path / "masks", cpu=True)),
        "checking": lambda: (check_data(tiles), open_dataset(tiles, tmp_path / "cache")),
        "drawing": lambda: write_street_scenes(tmp_path, 1, sequences=(1, 1, 1), frames=3, size=(24, 32)),
        "choosing": lambda: greedy_weights(sample()),
        "comparing": lambda: compare([candidate(name, 0.6, place) for place, name in enumerate(("a", "b", "c"))]),
    }
    seen = [wait for wait in waits_of(works[what.split()[0]]) if wait.what == what]
    assert [(wait.total, wait.done) for wait in seen] == [(total, total) for total in steps]


def test_what_is_fetched_is_counted_by_its_files(tiles: Path, bucket: ObjectPath, tmp_path: Path) -> None:
    for file in [each for each in tiles.rglob("*") if each.is_file()]:
        write_bytes(bucket / "tiles" / str(file.relative_to(tiles)), file.read_bytes())
    seen = waits_of(lambda: open_dataset(str(bucket / "tiles"), tmp_path))
    assert [(wait.total, wait.done) for wait in seen if wait.what == "fetching tiles"] == [(41, 41)]


def test_a_rival_of_a_search_is_waited_for_with_a_bar(bucket: ObjectPath, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lease_module, "BEAT_SECONDS", 0.2)
    monkeypatch.setattr(lease_module, "DEAD_SECONDS", 2.0)
    first, second = Lease(bucket / "ledger"), Lease(bucket / "ledger")
    first.acquire()
    first._stop.set()  # as a process that was cut off
    seen = waits_of(second.acquire)
    with pytest.raises(RunError, match="this one has stopped"):
        first._renew()
        first.check()
    first.release()
    second.release()
    (wait,) = seen
    assert wait.what.startswith("waiting for a sign of life of process ") and (wait.total, wait.done) == (2, 2)
