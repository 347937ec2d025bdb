"""Images of other kinds than pictures, from the folder to the mask."""

import re
from pathlib import Path

import cv2
import numpy as np
import pytest
import tifffile
import tiles as pictures
import torch
from safetensors.torch import save_file
from trial_contract import live

from ensemble_tune.ensemble.augment import Augment
from ensemble_tune.ensemble.base_model import Normalise, build_base_model, check_base_model
from ensemble_tune.ensemble.base_trial import BaseTrial
from ensemble_tune.ensemble.config import BaseConfig, MetaConfig
from ensemble_tune.ensemble.contact_sheet import write_contact_sheet
from ensemble_tune.ensemble.data_check import check_data
from ensemble_tune.ensemble.dataset import open_dataset
from ensemble_tune.ensemble.image_spec import ImageSpec
from ensemble_tune.ensemble.manifest import EnsembleManifest
from ensemble_tune.ensemble.meta_trial import MetaTrial
from ensemble_tune.ensemble.scoring import score_frames
from ensemble_tune.ensemble.stage_data import StageData, as_images
from ensemble_tune.ensemble.trained_ensemble import TrainedEnsemble, assemble
from ensemble_tune.errors import DataError
from ensemble_tune.segment import segment_images

CHANNELS = 5
SPEC = ImageSpec(
    channels=CHANNELS, bits=16, mean=(900.0, 1000.0, 1100.0, 1200.0, 1300.0), std=(90.0, 100.0, 110.0, 120.0, 130.0)
)
PARAMS = {
    "architecture": "linknet",
    "encoder": "tu-test_efficientnet",
    "size": pictures.SIZE,
    "epochs": 1,
    "batch_size": 2,
    "precision": "float32",
}


def write_bands(root: Path) -> Path:
    """The tiles' data set with five bands of 12 bits in files of 16 in place of its pictures."""
    pictures.write_tiles(root, {"train": {"a": 4, "b": 4}, "val": {"c": 2}})
    for split in ("train", "val"):
        for path in (root / split).glob("*.png"):
            picture = cv2.imread(str(path)).astype(np.uint16)
            bands = np.concatenate([picture * 16, 4095 - picture[..., :2] * 16], axis=2)
            tifffile.imwrite(path.with_suffix(".tif"), bands, photometric="minisblack", planarconfig="contig")
            path.unlink()
    return root


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Measured as the check of it says."""
    root = write_bands(tmp_path_factory.mktemp("bands") / "data")
    spec = (root / "dataset.toml").read_text()
    (root / "dataset.toml").write_text(f"{spec}[images]\nchannels = {CHANNELS}\nbits = 16\n")
    (fault,) = check_data(root).faults
    found = re.search(r"those of the training images are (mean = \[.*\]) and (std = \[.*\])", fault.rule)
    assert found is not None
    with (root / "dataset.toml").open("a") as file:
        file.write("\n".join(found.groups()))
    return root


def test_images_that_are_not_measured_are_refused_with_the_remedy(tmp_path: Path) -> None:
    root = write_bands(tmp_path / "data")
    with (root / "dataset.toml").open("a") as file:
        file.write("[images]\nchannels = 5\nbits = 16\n")
    with pytest.raises(DataError, match=r"need mean and std under \[images\] .*data check DIR measures them"):
        open_dataset(root, tmp_path / "cache")


def test_the_check_measures_the_training_images(root: Path) -> None:
    seen = np.stack([tifffile.imread(path) for path in (root / "train").glob("*.tif")]).reshape(-1, CHANNELS)
    spec = open_dataset(root, root.parent / "cache").spec.images
    assert spec.mean == pytest.approx(seen.mean(0), rel=1e-4) and spec.std == pytest.approx(seen.std(0), rel=1e-4)


def test_frames_keep_all_bits_and_the_digest_tells_what_they_are(root: Path, tmp_path: Path) -> None:
    dataset = open_dataset(root, tmp_path)
    frames = StageData(data=str(root), cache=tmp_path).training((64, 64))
    assert np.array_equal(frames.image(0), tifffile.imread(dataset.splits["train"][0].image))
    assert as_images([frames.image(0)]).dtype is torch.float32
    text = (root / "dataset.toml").read_text()
    try:
        (root / "dataset.toml").write_text(text.replace("std = [", "std = [1"))
        assert open_dataset(root, tmp_path).digest != dataset.digest
    finally:
        (root / "dataset.toml").write_text(text)


def test_contact_sheets_show_them(root: Path, tmp_path: Path) -> None:
    write_contact_sheet(tmp_path / "sheet.png", check_data(root))
    sheet = cv2.imread(str(tmp_path / "sheet.png"))
    assert len(np.unique(sheet @ np.array([1 << 16, 1 << 8, 1]))) > 500


def test_networks_see_them_by_their_own_mean_and_deviation() -> None:
    images = torch.randint(0, 4096, (2, CHANNELS, 8, 8)).float()
    mean, std = (torch.tensor(values).view(-1, 1, 1) for values in (SPEC.mean, SPEC.std))
    torch.testing.assert_close(Normalise(SPEC)(images), (images - mean) / std)


@pytest.mark.parametrize(("encoder", "channels"), [("resnet18", 1), ("mobilenet_v2", 2), ("tu-test_efficientnet", 5)])
def test_any_number_of_channels_is_built_and_checked(encoder: str, channels: int) -> None:
    config = BaseConfig(encoder=encoder, size=(64, 64), batch_size=2)
    images = ImageSpec(channels=channels, mean=(0.0,) * channels, std=(1.0,) * channels)
    check_base_model(config, images)
    model = build_base_model(config, 3, images=images).eval()
    with torch.inference_mode():
        assert model(torch.zeros(1, channels, 40, 50, dtype=torch.uint8)).shape == (1, 3, 40, 50)
    again = build_base_model(config, 3, images=images)
    assert all(torch.equal(one, other) for one, other in zip(model.parameters(), again.parameters(), strict=True))


@pytest.mark.parametrize("channels", [1, 5])
def test_weights_for_pictures_are_fitted_to_other_channels(tmp_path: Path, channels: int) -> None:
    config = BaseConfig(encoder="resnet18", size=(64, 64), batch_size=2)
    trained = build_base_model(config, 2).network.encoder.state_dict()
    save_file({name: value.contiguous() for name, value in trained.items()}, tmp_path / "weights.safetensors")
    images = ImageSpec(channels=channels, mean=(0.0,) * channels, std=(1.0,) * channels)
    config = BaseConfig(
        encoder="resnet18", size=(64, 64), batch_size=2, encoder_weights=str(tmp_path / "weights.safetensors")
    )
    check_base_model(config, images)
    first = build_base_model(config, 2, images=images).network.encoder.state_dict()["conv1.weight"]
    of_pictures = trained["conv1.weight"]
    turns = [of_pictures.sum(1)] if channels == 1 else [of_pictures[:, i % 3] * 3 / 5 for i in range(5)]
    torch.testing.assert_close(first, torch.stack(turns, dim=1))


@pytest.mark.parametrize(("channels", "dtype"), [(1, np.uint8), (5, np.uint8), (3, np.uint16), (5, np.uint16)])
def test_augmentation_moves_and_lights_them(channels: int, dtype: type) -> None:
    rng = np.random.default_rng(0)
    high = np.iinfo(dtype).max
    label = np.kron(rng.integers(0, 2, (6, 8), np.uint8), np.ones((5, 5), np.uint8))
    image = (np.where(label, high // 2, high // 8)[..., None] * np.ones(channels)).astype(dtype)
    varied = [Augment(1.0)(image, label, seed) for seed in range(8)]
    assert len({each.tobytes() for each, _ in varied}) > 5
    for moved, labels in varied:
        assert moved.shape == image.shape and moved.dtype == dtype
        inside = labels != 255
        assert moved[inside & (labels == 1)].mean() > 1.5 * moved[inside & (labels == 0)].mean()
    assert np.array_equal(varied[3][0], Augment(1.0)(image, label, 3)[0])


def test_numbers_that_fill_a_small_part_of_their_range_are_lit_by_their_own_scale() -> None:
    image = np.random.default_rng(0).normal(412, 120, (24, 32, 2)).clip(1).astype(np.uint16)
    label = np.zeros((24, 32), np.uint8)
    for seed in range(20):
        moved, labels = Augment(0.5)(image, label, seed)
        assert 200 < moved[labels == 0].mean() < 700


@pytest.mark.usefixtures("one_thread")
def test_they_are_trained_on_fused_deployed_and_segmented(root: Path, tmp_path: Path) -> None:
    data = StageData(data=str(root), cache=tmp_path / "cache", folds=2)
    trial = BaseTrial(data=data, store=tmp_path / "store", parts={0: ("val",), 1: ("held-out",), 2: ("held-out",)})
    for fold in (0, 1, 2):
        live(trial, {**PARAMS, "fold": fold}, tmp_path / "saved" / str(fold))
    base = BaseConfig.from_params(PARAMS)
    fusion = {
        "kind": "plain",
        "width": 8,
        "depth": 1,
        "size": pictures.SIZE,
        "epochs": 1,
        "batch_size": 4,
        "use_image": True,
    }
    fused = MetaTrial(data=data, store=tmp_path / "store", library={"one": base})
    scored = live(fused, {**fusion, "members": "one"}, tmp_path / "fused")[-1].scores
    images = data.dataset().spec.images
    manifest = EnsembleManifest(
        bases=(base,), fusion=MetaConfig.from_params(fusion), classes=pictures.CLASSES, folds=2, images=images
    )
    assemble(tmp_path / "ensemble", manifest, [[tmp_path / "saved" / "0" / "1"]], tmp_path / "fused" / "1")
    ensemble = TrainedEnsemble.load(tmp_path / "ensemble")
    assert ensemble.manifest.images == images
    val = data.held_out((32, 32))
    assert val is not None
    with torch.inference_mode():
        deployed = score_frames(lambda rows: ensemble(as_images([val.image(i) for i in rows])), val, 2).scores
    assert deployed["miou"] == pytest.approx(scored["miou"], abs=1e-6)
    masks = list(segment_images(tmp_path / "ensemble", root / "val", tmp_path / "masks", overlays=True))
    assert [mask.name for mask in masks] == ["c_000.png", "c_001.png"]
    assert all((tmp_path / "masks" / "overlays" / f"{mask.stem}.jpg").exists() for mask in masks)
    cv2.imwrite(str(tmp_path / "photo.png"), np.zeros((64, 64, 3), np.uint8))
    with pytest.raises(DataError, match=r"photo\.png holds 3 channels of 8 bits, not 5 of 16"):
        list(segment_images(tmp_path / "ensemble", tmp_path / "photo.png", tmp_path / "masks"))
