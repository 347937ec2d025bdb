import json
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch

from ensemble_tune.ensemble import onnx_file
from ensemble_tune.ensemble.base_model import BaseModel, build_base_model
from ensemble_tune.ensemble.config import BaseConfig, MetaConfig
from ensemble_tune.ensemble.fusion import build_fusion
from ensemble_tune.ensemble.layers import DilatedConv2d
from ensemble_tune.ensemble.manifest import EnsembleManifest
from ensemble_tune.ensemble.onnx_file import write_onnx
from ensemble_tune.ensemble.trained_ensemble import TrainedEnsemble, models_of
from ensemble_tune.errors import ConfigError

CLASSES = ("road", "car", "pole", "sky")
SIZE = (40, 44)
"""No multiple of 32, so that members pad."""
TINY = [{"architecture": "linknet", "encoder": f"tu-test_{name}"} for name in ("efficientnet", "resnet")]


def _ensemble(bases: Sequence[dict[str, object]], fusion: dict[str, object], **top: object) -> TrainedEnsemble:
    """As after a training: no weight of it is where it began, and its answers are not all alike."""
    manifest = EnsembleManifest(
        bases=tuple(BaseConfig.from_params({"size": SIZE, "precision": "float32", **base}) for base in bases),
        fusion=MetaConfig.from_params({"size": SIZE, "width": 16, "depth": 2, "precision": "float32", **fusion}),
        classes=CLASSES,
        **top,  # type: ignore[arg-type]
    )
    generator = torch.Generator().manual_seed(1)
    members = [[build_base_model(base, len(CLASSES)) for _ in models_of(manifest)] for base in manifest.bases]
    for model in (model for models in members for model in models):
        with torch.no_grad():
            for parameter in model.network.segmentation_head.parameters():  # type: ignore[union-attr]
                parameter.copy_(torch.randn(parameter.shape, generator=generator) / 2)
    trained = build_fusion(manifest.fusion, len(members), len(CLASSES))
    with torch.no_grad():
        for parameter in trained.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator) / 4)
    return TrainedEnsemble(manifest, members, trained).eval()


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
        assert np.mean(np.abs(logits - expected.numpy()) < 1e-3) > 0.99
        assert np.mean(labels == expected.argmax(1).numpy()) > 0.995


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
    ensemble = _ensemble(TINY, fusion)
    agreement = write_onnx(ensemble, tmp_path / "model.onnx")
    assert agreement.labels > 0.995 and agreement.difference < 1e-4
    _assert_same(ensemble, tmp_path / "model.onnx")


def test_every_architecture_predicts_as_in_torch_and_stays_as_it_is(tmp_path: Path) -> None:
    bases: list[dict[str, object]] = [
        {"architecture": "unet", "encoder": "resnet18", "decoder_attention": "scse"},
        {"architecture": "unetplusplus", "encoder": "tu-test_resnet"},
        {"architecture": "deeplabv3", "encoder": "mobilenet_v2"},
    ]
    ensemble = _ensemble(bases, {"kind": "mean"})
    write_onnx(ensemble, tmp_path / "model.onnx")
    assert sum(isinstance(module, DilatedConv2d) for module in ensemble.modules()) > 0
    _assert_same(ensemble, tmp_path / "model.onnx")


def test_fold_models_are_averaged_and_half_precision_becomes_float32(tmp_path: Path) -> None:
    half = [{**TINY[0], "precision": "bfloat16"}]
    ensemble = _ensemble(half, {"kind": "plain", "precision": "bfloat16"}, deploy="folds", folds=2)
    write_onnx(ensemble, tmp_path / "model.onnx")
    assert [module.precision for module in ensemble.modules() if isinstance(module, BaseModel)] == ["bfloat16"] * 2
    single = _ensemble(TINY[:1], {"kind": "plain"}, deploy="folds", folds=2)
    single.load_state_dict(ensemble.state_dict())
    _assert_same(single, tmp_path / "model.onnx")


def test_the_file_says_what_goes_in_and_what_comes_out(tmp_path: Path) -> None:
    ensemble = _ensemble(TINY, {"kind": "mean"})
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
    assert json.loads(told["members"]) == ["linknet tu-test_efficientnet", "linknet tu-test_resnet"]
    assert json.loads(told["mean"]) == pytest.approx([123.675, 116.28, 103.53])
    assert json.loads(told["std"]) == pytest.approx([58.395, 57.12, 57.375])


@pytest.mark.parametrize("name", ["onnx", "onnxscript", "onnxruntime"])
def test_a_missing_package_is_one_line(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(ConfigError, match=rf"needs the package {name}, .*: pip install 'ensemble-tune\[onnx\]'"):
        write_onnx(_ensemble(TINY, {"kind": "mean"}), tmp_path / "model.onnx")


def test_weights_that_no_file_holds_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(onnx_file, "_LARGEST", 1000)
    with pytest.raises(ConfigError, match=r"holds at most .* GiB of weights, but the ensemble has "):
        write_onnx(_ensemble(TINY, {"kind": "mean"}), tmp_path / "model.onnx")
    assert not list(tmp_path.iterdir())
