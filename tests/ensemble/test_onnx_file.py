import json
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch
from torch import nn

from ensemble_tune.ensemble import onnx_file
from ensemble_tune.ensemble.base_model import BaseModel, build_base_model
from ensemble_tune.ensemble.config import BaseConfig, MetaConfig
from ensemble_tune.ensemble.fusion import build_fusion
from ensemble_tune.ensemble.image_spec import ImageSpec
from ensemble_tune.ensemble.layers import DilatedConv2d
from ensemble_tune.ensemble.manifest import EnsembleManifest
from ensemble_tune.ensemble.onnx_file import write_onnx
from ensemble_tune.ensemble.trained_ensemble import TrainedEnsemble, models_of
from ensemble_tune.errors import ConfigError

CLASSES = ("road", "car", "pole", "sky")
SIZE = (40, 44)
"""No multiple of 32, so that members pad."""


def _ensemble(fusion: dict[str, object], bases: Sequence[dict[str, object]] = (), **top: object) -> TrainedEnsemble:
    """As after a training: no weight is where it began. Without bases, two members of a single layer each."""
    given = bases or [{"seed": 0}, {"seed": 1}]
    manifest = EnsembleManifest(
        bases=tuple(BaseConfig.from_params({"size": SIZE, "precision": "float32", **base}) for base in given),
        fusion=MetaConfig.from_params({"size": SIZE, "width": 16, "depth": 2, "precision": "float32", **fusion}),
        classes=CLASSES,
        **top,  # type: ignore[arg-type]
    )

    def built(base: BaseConfig) -> BaseModel:
        if bases:
            return build_base_model(base, len(CLASSES))
        return BaseModel(nn.Sequential(nn.Conv2d(3, len(CLASSES), 3, padding=1)), base.precision)

    torch.manual_seed(0)
    members = [[built(base).eval() for _ in models_of(manifest)] for base in manifest.bases]
    for model in (model for models in members for model in models):
        _make_undecided(model)
    trained = build_fusion(manifest.fusion, len(members), len(CLASSES))
    with torch.no_grad():
        for parameter in trained.parameters():
            parameter.add_(torch.randn(parameter.shape) / 4)
    return TrainedEnsemble(manifest, members, trained).eval()


def _make_undecided(model: BaseModel) -> None:
    """Gives every class the same mean and spread of its logits, so that none wins everywhere."""
    last = [module for module in model.network.modules() if isinstance(module, nn.Conv2d)][-1]
    assert last.bias is not None
    with torch.no_grad():
        spread, mean = torch.std_mean(model(_images(2)), (0, 2, 3))
        last.weight.mul_(2 / spread.view(-1, 1, 1, 1))
        last.bias.sub_(mean).mul_(2 / spread)


def _images(batch: int) -> torch.Tensor:
    return torch.randint(0, 256, (batch, 3, *SIZE), dtype=torch.uint8, generator=torch.Generator().manual_seed(batch))


def _assert_same(ensemble: TrainedEnsemble, path: Path) -> None:
    """The file gives, for batches of any size, the ensemble's own logits, but where one rounds up and one down."""
    session = onnxruntime.InferenceSession(str(path))
    for batch in (1, 3):
        logits, labels = session.run(["logits", "labels"], {"images": _images(batch).numpy()})
        with torch.inference_mode():
            expected = ensemble(_images(batch))
        assert logits.shape == expected.shape and logits.dtype == np.float32
        assert labels.shape == (batch, *SIZE) and labels.dtype == np.uint8
        assert len(np.unique(labels)) > 1
        # A probability that one rounds up and the other down is seen as far as a meta-model sees.
        assert np.median(np.abs(logits - expected.numpy())) < 1e-4
        assert np.mean(labels == expected.argmax(1).numpy()) > 0.98


@pytest.mark.parametrize(
    "fusion",
    [
        {"kind": "mean"},
        {"kind": "weighted", "flip": True},
        {"kind": "greedy"},
        {"kind": "linear", "flip": True},
        {"kind": "plain", "use_image": True, "scale": 0.5},
        {"kind": "standard_se", "scale": 0.37, "flip": True},
        {"kind": "depthwise_cbam", "use_image": True},
        {"kind": "dilated_spatial", "depth": 3, "log_probabilities": True, "flip": True},
        {"kind": "group_eca", "use_image": True, "flip": True, "scale": 0.6},
    ],
    ids=lambda fusion: fusion["kind"],
)
def test_every_fusion_predicts_as_in_torch(fusion: dict[str, object], tmp_path: Path) -> None:
    ensemble = _ensemble(fusion)
    agreement = write_onnx(ensemble, tmp_path / "model.onnx")
    assert agreement.labels > 0.98 and agreement.difference < 1e-4
    _assert_same(ensemble, tmp_path / "model.onnx")


def test_every_architecture_predicts_as_in_torch_and_stays_as_it_is(tmp_path: Path) -> None:
    bases: list[dict[str, object]] = [
        {"architecture": "unet", "encoder": "tu-test_resnet", "decoder_attention": "scse"},
        {"architecture": "unetplusplus", "encoder": "tu-test_resnet"},
        {"architecture": "deeplabv3", "encoder": "tu-test_resnet"},
    ]
    ensemble = _ensemble({"kind": "mean"}, bases)
    write_onnx(ensemble, tmp_path / "model.onnx")
    assert sum(isinstance(module, DilatedConv2d) for module in ensemble.modules()) > 0
    _assert_same(ensemble, tmp_path / "model.onnx")


def test_fold_models_are_averaged_and_half_precision_becomes_float32(tmp_path: Path) -> None:
    ensemble = _ensemble({"kind": "plain", "precision": "bfloat16"}, deploy="folds", folds=2)
    for module in ensemble.modules():
        if isinstance(module, BaseModel):
            module.precision = "bfloat16"
    write_onnx(ensemble, tmp_path / "model.onnx")
    assert [module.precision for module in ensemble.modules() if isinstance(module, BaseModel)] == ["bfloat16"] * 4
    single = _ensemble({"kind": "plain"}, deploy="folds", folds=2)
    single.load_state_dict(ensemble.state_dict())
    _assert_same(single, tmp_path / "model.onnx")


def test_the_file_says_what_goes_in_and_what_comes_out(tmp_path: Path) -> None:
    ensemble = _ensemble({"kind": "mean"})
    write_onnx(ensemble, tmp_path / "model.onnx")
    assert [path.name for path in tmp_path.iterdir()] == ["model.onnx"]
    session = onnxruntime.InferenceSession(str(tmp_path / "model.onnx"))
    (images,) = session.get_inputs()
    assert (images.name, images.type, images.shape) == ("images", "tensor(uint8)", ["batch", 3, *SIZE])
    logits, labels = session.get_outputs()
    assert (logits.name, logits.type, logits.shape) == ("logits", "tensor(float)", ["batch", len(CLASSES), *SIZE])
    assert (labels.name, labels.type, labels.shape) == ("labels", "tensor(uint8)", ["batch", *SIZE])
    told = session.get_modelmeta().custom_metadata_map
    assert json.loads(told["classes"]) == list(CLASSES)
    assert (told["size"], told["fusion"], told["ensemble"]) == ("40x44", "mean", ensemble.manifest.digest())
    assert json.loads(told["members"]) == ["unet mobilenet_v2"] * 2
    assert json.loads(told["mean"]) == pytest.approx([123.675, 116.28, 103.53])
    assert json.loads(told["std"]) == pytest.approx([58.395, 57.12, 57.375])


@pytest.mark.parametrize("name", ["onnx", "onnxscript", "onnxruntime"])
def test_a_missing_package_is_one_line(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(ConfigError, match=rf"needs the package {name}, .*: pip install 'ensemble-tune\[onnx\]'"):
        write_onnx(_ensemble({"kind": "mean"}), tmp_path / "model.onnx")


def test_weights_that_no_file_holds_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(onnx_file, "_LARGEST", 100)
    with pytest.raises(ConfigError, match=r"holds at most .* GiB of weights, but the ensemble has "):
        write_onnx(_ensemble({"kind": "mean"}), tmp_path / "model.onnx")
    assert not list(tmp_path.iterdir())


def test_images_of_16_bits_are_refused(tmp_path: Path) -> None:
    deep = ImageSpec(bits=16, mean=(1.0, 2.0, 3.0), std=(1.0, 1.0, 1.0))
    with pytest.raises(ConfigError, match=r"images of 8 bits a channel, .* trained on 16; .* --format smp"):
        write_onnx(_ensemble({"kind": "mean"}, images=deep), tmp_path / "model.onnx")
    assert not list(tmp_path.iterdir())
