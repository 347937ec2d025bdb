import json
from pathlib import Path

import albumentations as A
import numpy as np
import pytest
import segmentation_models_pytorch as smp
import torch
from safetensors.torch import load_file

from ensemble_tune.ensemble.base_model import BaseModel, build_base_model
from ensemble_tune.ensemble.config import BaseConfig, MetaConfig
from ensemble_tune.ensemble.fusion import build_fusion
from ensemble_tune.ensemble.manifest import EnsembleManifest
from ensemble_tune.ensemble.smp_folder import write_smp
from ensemble_tune.ensemble.trained_ensemble import TrainedEnsemble, models_of

CLASSES = ("road", "car", "pole")
SIZE = (40, 44)
"""No multiple of 32, so that images are padded."""
BASES = (
    {"architecture": "unet", "encoder": "tu-test_resnet", "decoder_attention": "scse"},
    {"architecture": "unetplusplus", "encoder": "tu-test_resnet"},
    {"architecture": "deeplabv3", "encoder": "mobilenet_v2"},
)


@pytest.fixture(autouse=True)
def off_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")


def _ensemble(*bases: dict[str, str], deploy: str = "refit") -> TrainedEnsemble:
    manifest = EnsembleManifest(
        bases=tuple(BaseConfig.from_params({"size": SIZE, "precision": "float32", **base}) for base in bases),
        fusion=MetaConfig.from_params({"size": SIZE, "kind": "mean"}),
        classes=CLASSES,
        deploy=deploy,  # type: ignore[arg-type]
        folds=2,
    )
    members = [[build_base_model(base, len(CLASSES)) for _ in models_of(manifest)] for base in manifest.bases]
    return TrainedEnsemble(manifest, members, build_fusion(manifest.fusion, len(members), len(CLASSES))).eval()


def test_smp_opens_every_member_off_line_and_predicts_the_same(tmp_path: Path) -> None:
    ensemble = _ensemble(*BASES)
    names = write_smp(ensemble, tmp_path)
    assert names == ("1-unet-tu-test_resnet", "2-unetplusplus-tu-test_resnet", "3-deeplabv3-mobilenet_v2")
    image = np.random.default_rng(0).integers(0, 256, (*SIZE, 3), np.uint8)
    for name, models in zip(names, ensemble.members, strict=True):
        network = smp.from_pretrained(str(tmp_path / name)).eval()
        pixels = A.Compose.from_pretrained(str(tmp_path / name))(image=image)["image"]
        with torch.inference_mode():
            found = network(torch.from_numpy(pixels).permute(2, 0, 1)[None])[..., : SIZE[0], : SIZE[1]]
            expected = models[0](torch.from_numpy(image).permute(2, 0, 1)[None])  # type: ignore[index]
        assert torch.allclose(found, expected, atol=1e-4)


def test_a_folder_holds_plain_smp(tmp_path: Path) -> None:
    (name,) = write_smp(_ensemble(BASES[2]), tmp_path)
    plain = smp.create_model("deeplabv3", "mobilenet_v2", encoder_weights=None, classes=len(CLASSES))
    assert set(load_file(tmp_path / name / "model.safetensors")) == set(plain.state_dict())
    config = json.loads((tmp_path / name / "config.json").read_text())
    assert (config["_model_class"], config["encoder_weights"], config["classes"]) == ("DeepLabV3", None, len(CLASSES))
    modules = smp.from_pretrained(str(tmp_path / name)).modules()
    assert not any(type(module).__module__.startswith("ensemble_tune") for module in modules)


def test_images_of_any_size_are_brought_to_the_working_size(tmp_path: Path) -> None:
    ensemble = _ensemble(BASES[1])
    (name,) = write_smp(ensemble, tmp_path)
    prepare = A.Compose.from_pretrained(str(tmp_path / name))
    image = np.random.default_rng(0).integers(0, 256, (2 * SIZE[0], 2 * SIZE[1], 3), np.uint8)
    halved = image.reshape(SIZE[0], 2, SIZE[1], 2, 3).mean((1, 3))
    model = ensemble.members[0][0]  # type: ignore[index]
    assert isinstance(model, BaseModel)
    expected = model.normalise(torch.from_numpy(halved.round()).permute(2, 0, 1)[None])[0].permute(1, 2, 0)
    found = prepare(image=image)["image"]
    assert found.shape == (64, 64, 3)
    # Half a step of the pixels, where one rounds up and one down.
    assert np.abs(found[: SIZE[0], : SIZE[1]] - expected.numpy()).max() < 0.02


def test_each_fold_model_has_a_folder_and_its_own_weights(tmp_path: Path) -> None:
    ensemble = _ensemble(BASES[1], deploy="folds")
    with torch.no_grad():
        next(ensemble.members[0][1].parameters()).add_(1)  # type: ignore[index]
    names = write_smp(ensemble, tmp_path)
    assert names == ("1-unetplusplus-tu-test_resnet-fold-1", "1-unetplusplus-tu-test_resnet-fold-2")
    one, two = (load_file(tmp_path / name / "model.safetensors") for name in names)
    assert any(not torch.equal(one[key], two[key]) for key in one)


def test_the_card_names_the_classes_and_no_licence(tmp_path: Path) -> None:
    (name,) = write_smp(_ensemble(BASES[0]), tmp_path)
    card = (tmp_path / name / "README.md").read_text()
    assert "road, car, pole" in card and "40x44" in card and "license" not in card
    assert sorted(path.name for path in (tmp_path / name).iterdir()) == [
        "README.md",
        "albumentations_config_eval.json",
        "config.json",
        "model.safetensors",
    ]
