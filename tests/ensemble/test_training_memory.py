import pytest
import torch
from torch import nn
from torch.profiler import ProfilerActivity, profile

from ensemble_tune.ensemble.base_model import build_base_model
from ensemble_tune.ensemble.config import BaseConfig, MetaConfig
from ensemble_tune.ensemble.fusion import build_fusion
from ensemble_tune.ensemble.image_spec import ImageSpec
from ensemble_tune.ensemble.losses import SegmentationLoss
from ensemble_tune.ensemble.training import Batch, train_epochs
from ensemble_tune.ensemble.training_memory import base_training_bytes, fusion_training_bytes

CLASSES, MEMBERS, SCORED = 5, 3, 8


def measured(config: BaseConfig | MetaConfig) -> int:
    """The most bytes that torch's allocator has handed out in a real training of two steps, scoring included."""
    base = isinstance(config, BaseConfig)
    shapes = [(3, *config.size)] if base else [(MEMBERS, CLASSES, *config.size)]

    def frames(count: int) -> tuple[torch.Tensor, ...]:
        return tuple(torch.randint(0, 256, (count, *shape), dtype=torch.uint8) for shape in shapes)

    def batches(epoch: int) -> list[Batch]:
        labels = torch.randint(0, CLASSES, (config.batch_size, *config.size), dtype=torch.uint8)
        return [Batch(frames(config.batch_size), labels)]

    def score(model: nn.Module) -> dict[str, float]:
        with torch.inference_mode():
            return {"score": model(*frames(SCORED)).log_softmax(1).mean().item()}

    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiled:
        model = build_base_model(config, CLASSES) if base else build_fusion(config, MEMBERS, CLASSES)  # type: ignore[arg-type]
        loss = SegmentationLoss(torch.ones(CLASSES), config.jaccard_weight if base else 0.0)  # type: ignore[union-attr]
        epochs = train_epochs(
            model=model,
            config=config,
            loss=loss,
            batches=batches,
            steps=1,
            score=score,
            device=torch.device("cpu"),
            resume=None,
        )
        assert len(list(epochs)) == config.epochs == 2
    now = most = 0
    for event in profiled.profiler.kineto_results.events():  # type: ignore[union-attr]
        if event.name() == "[memory]":
            now += event.nbytes()
            most = max(most, now)
    return most


@pytest.mark.parametrize(
    ("architecture", "encoder", "precision"),
    [
        ("unet", "resnet18", "float32"),
        ("unetplusplus", "mobilenet_v2", "bfloat16"),
        ("deeplabv3plus", "resnet18", "bfloat16"),
    ],
)
def test_a_base_model_s_training_holds_what_was_counted(architecture: str, encoder: str, precision: str) -> None:
    config = BaseConfig.from_params(
        {
            "architecture": architecture,
            "encoder": encoder,
            "precision": precision,
            "size": "64x96",
            "batch_size": 4,
            "epochs": 2,
        }
    )
    counted = base_training_bytes(config, CLASSES, scored=SCORED, on_gpu=False)
    assert counted == pytest.approx(measured(config), rel=0.1)


@pytest.mark.parametrize("kind", ["linear", "depthwise_cbam"])
def test_a_fusion_s_training_holds_what_was_counted(kind: str) -> None:
    config = MetaConfig.from_params({"kind": kind, "size": "96x128", "batch_size": 4, "epochs": 2, "width": 32})
    counted = fusion_training_bytes(config, MEMBERS, CLASSES, scored=SCORED, on_gpu=False)
    assert counted == pytest.approx(measured(config), rel=0.1)


def test_a_fusion_that_is_not_trained_holds_what_scoring_needs() -> None:
    mean, linear = (
        fusion_training_bytes(
            MetaConfig.from_params({"kind": kind, "size": "96x128"}), MEMBERS, CLASSES, scored=SCORED, on_gpu=True
        )
        for kind in ("mean", "linear")
    )
    assert 0 < mean < linear


def test_a_gpu_holds_none_of_the_copies_that_are_faster_on_a_processor() -> None:
    config = BaseConfig(encoder="mobilenet_v2", size=(96, 128), batch_size=16, precision="bfloat16")
    there, here = (base_training_bytes(config, CLASSES, scored=1, on_gpu=gpu) for gpu in (True, False))
    assert there < here, "strided depthwise convolutions are float32 on a processor"


def test_what_changes_no_size_is_counted_once(monkeypatch: pytest.MonkeyPatch) -> None:
    built: list[BaseConfig] = []

    def build(config: BaseConfig, classes: int, *, images: ImageSpec, pretrained: bool) -> nn.Module:
        built.append(config)
        return build_base_model(config, classes, images=images, pretrained=pretrained)

    monkeypatch.setattr("ensemble_tune.ensemble.training_memory.build_base_model", build)
    counted = {
        base_training_bytes(
            BaseConfig(encoder="resnet18", size=(64, 96), seed=seed, learning_rate=1e-2 / seed, epochs=seed),
            CLASSES,
            scored=SCORED,
            on_gpu=True,
        )
        for seed in range(1, 9)
    }
    assert len(counted) == len(built) == 1


def test_scoring_at_the_frames_own_size_counts() -> None:
    """A mean of three members at 64x96 takes next to nothing, until it is grown to 3000x4000."""
    config = MetaConfig(kind="mean", size=(64, 96))
    small, large = (
        fusion_training_bytes(config, MEMBERS, 19, scored=SCORED, on_gpu=True, full_size=size)
        for size in (None, (3000, 4000))
    )
    assert small < 200 * 2**20 and large > 3000 * 4000 * (4 * 19 + 8)


def test_counting_needs_no_memory() -> None:
    """A training that no machine could hold is counted all the same."""
    config = BaseConfig(encoder="resnet18", size=(4096, 4096), batch_size=64, precision="float32")
    assert base_training_bytes(config, CLASSES, scored=1, on_gpu=True) > 500 * 2**30
