import dataclasses
import json
import math
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from ensemble_tune.ensemble.base_model import build_base_model
from ensemble_tune.ensemble.config import BaseConfig, MetaConfig
from ensemble_tune.ensemble.fusion import build_fusion
from ensemble_tune.ensemble.losses import SegmentationLoss
from ensemble_tune.ensemble.training import Batch, _Finite, train_epochs
from ensemble_tune.errors import ConfigError, OutOfMemoryError, RunError, TrainingError
from ensemble_tune.trial import Checkpoint, EpochResult

CPU = torch.device("cpu")
CLASSES, MEMBERS, STEPS = 3, 2, 2
BASE = BaseConfig(architecture="deeplabv3plus", size=(64, 64), epochs=3, batch_size=2, jaccard_weight=0.3)
META = MetaConfig(
    kind="depthwise_cbam", width=8, depth=1, size=(64, 64), epochs=3, batch_size=2, base_dropout=0.4, scale=0.5
)


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def _base_batches(epoch: int) -> Iterator[Batch]:
    generator = torch.Generator().manual_seed(epoch)
    for _ in range(STEPS):
        tiles = torch.randint(0, 256, (2, 3, 4, 4), generator=generator, dtype=torch.uint8)
        images = tiles.repeat_interleave(16, 2).repeat_interleave(16, 3)
        yield Batch((images,), (images[:, 0] // 86).to(torch.uint8))


def _meta_batches(epoch: int) -> Iterator[Batch]:
    """Members that agree on the wrong class, always in the same way: what a meta-model can mend and a mean cannot."""
    generator = torch.Generator().manual_seed(epoch)
    for _ in range(STEPS):
        tiles = torch.randn(2, MEMBERS, CLASSES, 4, 4, generator=generator).softmax(2)
        probabilities = tiles.repeat_interleave(16, 3).repeat_interleave(16, 4)
        labels = (probabilities.sum(1).argmax(1) + 1) % CLASSES
        yield Batch(((probabilities * 255).to(torch.uint8),), labels.to(torch.uint8))


def _score(model: nn.Module) -> Mapping[str, float]:
    assert not model.training
    return {"weights": sum(float(parameter.detach().sum()) for parameter in model.parameters())}


class _Tiny(nn.Module):
    """One convolution that counts its calls, for what needs no network."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layer = nn.Conv2d(3, CLASSES, 1)
        self.calls = 0

    def forward(self, images: Tensor) -> Tensor:
        self.calls += 1
        logits: Tensor = self.layer(images.float() / 255)
        return logits


def _train(
    config: BaseConfig | MetaConfig, resume: Checkpoint | None = None, model: nn.Module | None = None, **changes: object
) -> Iterator[EpochResult]:
    meta = isinstance(config, MetaConfig)
    if model is None:
        model = (
            build_fusion(config, MEMBERS, CLASSES)
            if isinstance(config, MetaConfig)
            else build_base_model(config, CLASSES)
        )
    arguments: dict[str, object] = {
        "loss": SegmentationLoss(torch.ones(CLASSES), 0.3),
        "batches": _meta_batches if meta else _base_batches,
        "steps": STEPS,
        "score": _score,
        "device": CPU,
        "resume": resume,
        **changes,
    }
    return train_epochs(model=model, config=config, **arguments)  # type: ignore[arg-type]


def _saved(result: EpochResult, folder: Path) -> dict[str, bytes]:
    folder.mkdir()
    result.save(folder)
    return {file.name: file.read_bytes() for file in folder.iterdir()}


@pytest.mark.parametrize("config", [BASE, META], ids=["base", "meta"])
def test_a_resumed_training_equals_an_unbroken_one(config: BaseConfig | MetaConfig, tmp_path: Path) -> None:
    unbroken = []
    for result in _train(config):
        unbroken.append((result.epoch, dict(result.scores), _saved(result, tmp_path / f"unbroken-{result.epoch}")))
    assert [epoch for epoch, _, _ in unbroken] == [1, 2, 3]

    paused = list(_train(dataclasses.replace(config, stop_epoch=1)))
    assert [(result.epoch, dict(result.scores)) for result in paused] == [unbroken[0][:2]]
    torch.rand(5)  # whatever a process drew in between must not matter
    resumed = []
    for result in _train(config, Checkpoint(tmp_path / "unbroken-1", 1)):
        resumed.append((result.epoch, dict(result.scores), _saved(result, tmp_path / f"resumed-{result.epoch}")))
    assert resumed == unbroken[1:]


def test_checkpoints_hold_no_pickle_and_only_weights_where_inference_looks(tmp_path: Path) -> None:
    (result,) = _train(dataclasses.replace(BASE, stop_epoch=1), model=_Tiny())
    files = _saved(result, tmp_path / "checkpoint")
    assert set(files) == {"model.safetensors", "trained.safetensors", "optimiser.safetensors", "state.json"}
    assert json.loads(files["state.json"])["epoch"] == 1


def test_resuming_after_the_last_epoch_restores_the_model_and_yields_nothing(tmp_path: Path) -> None:
    trained, restored = _Tiny(), _Tiny()
    nn.init.zeros_(restored.layer.weight)
    for result in _train(BASE, model=trained):
        last = result
    _saved(last, tmp_path / "last")
    assert list(_train(BASE, Checkpoint(tmp_path / "last", 3), model=restored)) == []
    assert torch.equal(restored.layer.weight, trained.layer.weight)
    assert restored.calls == 0
    assert not restored.training


def test_the_checkpoint_of_another_training_is_refused(tmp_path: Path) -> None:
    (result,) = _train(dataclasses.replace(BASE, stop_epoch=1), model=_Tiny())
    _saved(result, tmp_path / "one")
    with pytest.raises(RunError, match=r"has config .* start the trial anew"):
        next(_train(dataclasses.replace(BASE, learning_rate=0.1), Checkpoint(tmp_path / "one", 1), model=_Tiny()))
    with pytest.raises(RunError, match="has steps 2 instead of 5"):
        next(_train(BASE, Checkpoint(tmp_path / "one", 1), model=_Tiny(), steps=5))
    with pytest.raises(RunError, match="has epoch 1 instead of 2"):
        next(_train(BASE, Checkpoint(tmp_path / "one", 2), model=_Tiny()))


class _SometimesNan(nn.Module):
    """Cross-entropy whose value or gradient breaks at the fourth step."""

    def __init__(self, breaks: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.breaks = breaks
        self.steps = 0

    def forward(self, logits: Tensor, labels: Tensor) -> Tensor:
        self.steps += 1
        loss = nn.functional.cross_entropy(logits, labels.long())
        return self.breaks(loss) if self.steps == 4 else loss


@pytest.mark.parametrize(
    "breaks",
    [lambda loss: loss * math.nan, lambda loss: loss + math.inf, lambda loss: loss + 0 * (loss - loss.detach()).sqrt()],
    ids=["nan", "infinite", "gradient alone"],
)
@pytest.mark.parametrize("gradient_clip", [0.0, 1.0])
def test_nan_stops_the_trial_at_once(breaks: Callable[[Tensor], Tensor], gradient_clip: float) -> None:
    model = _Tiny()
    training = _train(
        dataclasses.replace(BASE, gradient_clip=gradient_clip, averaging=0.0), model=model, loss=_SometimesNan(breaks)
    )
    assert next(training).epoch == 1
    with pytest.raises(TrainingError, match=r"at epoch 2, step 2 of 2, learning rate 0\.\d+; lower learning_rate"):
        next(training)
    assert model.calls == 4


@pytest.mark.parametrize(("breaks", "ends"), [(1, 32), (16, 32), (17, 40), (40, 40)])
def test_where_looking_costs_a_wait_nan_is_noticed_a_look_late_but_never_after_an_epoch(breaks: int, ends: int) -> None:
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    watched, finite = torch.zeros((), device=device), _Finite(16)
    for step in range(1, 41):
        watched += math.nan if step == breaks else 1.0
        if not finite(watched, step, now=step == 40):
            break
    assert step == ends


def test_memory_that_runs_out_is_one_line() -> None:
    class Greedy(_Tiny):
        def forward(self, images: Tensor) -> Tensor:
            raise torch.OutOfMemoryError("CUDA out of memory")

    with pytest.raises(OutOfMemoryError, match="batch_size 2 at 64x64 does not; lower one of them"):
        next(_train(BASE, model=Greedy()))


def test_training_lowers_the_loss_of_both_stages() -> None:
    # These members' predictions hold nothing of the labels, so that no weights of them are better than others.
    for config in (dataclasses.replace(BASE, architecture="unet"), dataclasses.replace(META, output="correction")):
        longer = dataclasses.replace(config, epochs=6, learning_rate=0.01, schedule="constant")
        losses = [result.scores["train_loss"] for result in _train(longer)]
        assert losses[-1] < 0.8 * losses[0]


def test_training_stops_after_stop_epoch_and_the_schedule_does_not_know() -> None:
    whole = [result.scores["train_loss"] for result in _train(BASE, model=_Tiny())]
    stopped = [result.scores["train_loss"] for result in _train(dataclasses.replace(BASE, stop_epoch=2), model=_Tiny())]
    assert stopped == whole[:2]


def test_every_epoch_tells_what_it_took() -> None:
    result = next(_train(BASE, model=_Tiny()))
    assert set(result.seconds) == {"load", "train", "evaluate"}
    assert all(seconds > 0 for seconds in result.seconds.values())


def test_gradients_are_clipped_to_the_norm_asked_for() -> None:
    def norm_used(clip: float) -> float:
        seen: list[float] = []
        model = _Tiny()

        def score(trained: nn.Module) -> Mapping[str, float]:
            seen.append(float(torch.cat([p.grad.flatten() for p in trained.parameters() if p.grad is not None]).norm()))
            return {}

        config = dataclasses.replace(BASE, gradient_clip=clip, averaging=0.0)
        next(_train(config, model=model, score=score, steps=1, batches=lambda epoch: [next(_base_batches(epoch))]))
        return seen[0]

    assert norm_used(0.01) == pytest.approx(0.01, rel=1e-3)
    assert norm_used(0.0) > 0.02


def test_an_epoch_without_a_full_batch_is_refused() -> None:
    with pytest.raises(ConfigError, match="fewer frames than 2; lower batch_size"):
        next(_train(BASE, model=_Tiny(), steps=0))


def test_float16_on_a_processor_is_refused_before_training() -> None:
    model = _Tiny()
    with pytest.raises(ConfigError, match="float16 needs a GPU"):
        next(_train(dataclasses.replace(BASE, precision="float16"), model=model))
    assert model.calls == 0
