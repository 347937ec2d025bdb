"""The only epoch loop: trains base models and meta-models alike."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from torch import Tensor, nn

from ensemble_tune.ensemble.config import BaseConfig, MetaConfig, format_size
from ensemble_tune.ensemble.gpu_share import most_taken
from ensemble_tune.ensemble.schedule import learning_rate
from ensemble_tune.ensemble.training_state import TrainingState
from ensemble_tune.errors import ConfigError, OutOfMemoryError, TrainingError
from ensemble_tune.trial import Checkpoint, EpochResult

_STEPS_BETWEEN_CHECKS = 16
"""On a GPU, where looking at a number makes the processor wait for all that it has asked for until then."""


@dataclass(frozen=True, slots=True)
class Batch:
    """What one step sees."""

    inputs: tuple[Tensor, ...]
    """The model's arguments, each (B, ...)."""
    labels: Tensor
    """(B, h, w) class indices, or IGNORED."""


def train_epochs(
    *,
    model: nn.Module,
    config: BaseConfig | MetaConfig,
    loss: nn.Module,
    batches: Callable[[int], Iterable[Batch]],
    steps: int,
    score: Callable[[nn.Module], Mapping[str, float]],
    device: torch.device,
    resume: Checkpoint | None,
) -> Iterator[EpochResult]:
    """Trains `model` in place, and yields after every epoch until `config.stop_epoch`, or else `config.epochs`.

    loss: (logits, labels) to a scalar. batches: the `steps` batches of an epoch, counted from 1; always the same ones
    for the same epoch. score: the scores of the model, which it finds in evaluation mode. resume: goes on after that
    epoch, exactly as if never interrupted; from the last epoch it restores the model and yields nothing.

    Scores are those of `score` and train_loss, the mean over the epoch's steps. Between epochs, and at the end, the
    model is in evaluation mode. Raises ConfigError where an epoch has no step, RunError where the checkpoint is not of
    this training, TrainingError where loss or gradient are no longer finite.
    """
    if steps < 1:
        raise ConfigError(
            f"an epoch must have one full batch, but there are fewer frames than {config.batch_size}; lower batch_size"
        )
    loss.to(device)
    state = TrainingState(model, config, steps, device)
    done = 0
    if resume is not None:
        state.restore(resume)
        model.eval()
        done = resume.epoch
    for epoch in range(done + 1, (config.stop_epoch or config.epochs) + 1):
        # The only source of chance inside an epoch, and known from its number: no generator's state needs saving.
        torch.manual_seed(int(np.random.SeedSequence([config.seed, epoch]).generate_state(1, np.uint64)[0]))
        started = time.perf_counter()
        train_loss, load = _train_epoch(state, loss, batches(epoch), epoch)
        trained = time.perf_counter()
        model.eval()
        scores = {"train_loss": train_loss, **score(model)}
        evaluated = time.perf_counter()
        yield EpochResult(
            epoch=epoch,
            scores=scores,
            seconds={"load": load, "train": trained - started - load, "evaluate": evaluated - trained},
            gpu_bytes=most_taken(device),
            save=partial(state.save, epoch=epoch),
        )


def _train_epoch(state: TrainingState, loss: nn.Module, batches: Iterable[Batch], epoch: int) -> tuple[float, float]:
    """One pass over the training frames; returns the mean loss, and the seconds in which steps waited for batches."""
    config, device = state.config, state.device
    finite = _Finite(1 if device.type == "cpu" else _STEPS_BETWEEN_CHECKS)
    total = torch.zeros((), device=device)
    watched = torch.zeros((), device=device)
    load = 0.0
    state.trained.train()
    for step, (batch, waited) in zip(range(state.steps), _waiting(batches), strict=True):
        load += waited
        overall = (epoch - 1) * state.steps + step
        rate = learning_rate(config.schedule, config.learning_rate, overall, config.epochs * state.steps)
        try:
            value, norm = train_step(state, loss, batch, rate)
        except torch.OutOfMemoryError as error:
            raise OutOfMemoryError(
                f"a step must fit the trial's share of a GPU, but batch_size {config.batch_size} at "
                f"{format_size(config.size)} does not; lower one of them, or give the trial a larger share"
            ) from error
        state.follow(overall + 1)
        total += value
        # The scaler meets infinite gradients on purpose, and leaves their steps out.
        watched += value if state.scaler.is_enabled() else value + norm
        if not finite(watched, step + 1, now=step + 1 == state.steps):
            raise TrainingError(
                f"loss and gradient must be finite, but they are {value.item():g} and {norm.item():g} (norm) at epoch "
                f"{epoch}, step {step + 1} of {state.steps}, learning rate {rate:.3g}; lower learning_rate, set "
                "gradient_clip to 1, or set precision to float32"
            )
    return total.item() / state.steps, load


class _Finite:
    """Whether a number on the device is finite, looked at once in so many steps: at what it was a look before, which by
    then has long been copied, so that nothing is waited for."""

    def __init__(self, steps: int) -> None:
        self._steps = steps
        self._copy: Tensor | None = None
        self._copied: torch.cuda.Event | None = None

    def __call__(self, number: Tensor, step: int, *, now: bool) -> bool:
        """step: counted from 1. now: whether the number itself must be finite, waited for or not."""
        if now or self._steps == 1:
            return math.isfinite(number.item())
        if step % self._steps:
            return True
        before = self._copy
        if self._copied is not None:
            self._copied.synchronize()
        self._copy = number.detach().to("cpu", non_blocking=True, copy=True)
        if number.is_cuda:
            self._copied = torch.cuda.Event()  # type: ignore[no-untyped-call]
            self._copied.record()
        return before is None or math.isfinite(before.item())


def _waiting(batches: Iterable[Batch]) -> Iterator[tuple[Batch, float]]:
    """Each batch, with the seconds that it was waited for."""
    source = iter(batches)
    while True:
        asked = time.perf_counter()
        batch = next(source, None)
        if batch is None:
            return
        yield batch, time.perf_counter() - asked


def train_step(state: TrainingState, loss: nn.Module, batch: Batch, rate: float) -> tuple[Tensor, Tensor]:
    """One step of the optimiser; returns the loss and the gradient's norm before clipping, still on the device.

    state: its `trained` is in training mode.
    """
    *inputs, labels = (_on(tensor, state.device) for tensor in (*batch.inputs, batch.labels))
    value: Tensor = loss(state.trained(*inputs), labels)
    for group in state.optimiser.param_groups:
        group["lr"] = rate
    state.optimiser.zero_grad(set_to_none=True)
    torch.autograd.backward(state.scaler.scale(value))
    state.scaler.unscale_(state.optimiser)
    parameters = [each for each in state.trained.parameters() if each.grad is not None]
    norm = nn.utils.get_total_norm([each.grad for each in parameters if each.grad is not None])
    if state.config.gradient_clip:  # without it every gradient would be multiplied by 1
        nn.utils.clip_grads_with_norm_(parameters, state.config.gradient_clip, norm)
    state.scaler.step(state.optimiser)
    state.scaler.update()
    return value.detach(), norm


def _on(tensor: Tensor, device: torch.device) -> Tensor:
    """The tensor there; to a GPU only pinned memory is copied while the processor goes on."""
    return (tensor.pin_memory() if device.type == "cuda" else tensor).to(device, non_blocking=True)
