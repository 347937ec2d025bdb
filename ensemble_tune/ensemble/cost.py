"""What a model costs whoever uses it: time an image, and parameters."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor, nn

MILLISECONDS, PARAMETERS = "milliseconds", "parameters"
"""Names of scores: wall-clock milliseconds an image, and millions of parameters. The first is the one score that two
runs of the same trial do not share to the last bit."""


class ForwardTimer:
    """Times the forward passes in which a model is scored, since those are made anyway."""

    def __init__(self, logits_of: Callable[[Sequence[int]], Tensor], device: torch.device) -> None:
        self._logits_of = logits_of
        self._device = device
        self._milliseconds: list[float] = []

    def __call__(self, rows: Sequence[int]) -> Tensor:
        """The logits of these rows."""
        self._wait()
        started = time.perf_counter()
        logits = self._logits_of(rows)
        self._wait()
        self._milliseconds.append(1000 * (time.perf_counter() - started) / len(rows))
        return logits

    @property
    def milliseconds(self) -> float:
        """Of one image, in the median pass: the first one may have warmed up; nan before any."""
        return statistics.median(self._milliseconds) if self._milliseconds else float("nan")

    def _wait(self) -> None:
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)


def costs(model: nn.Module, timer: ForwardTimer, members: Sequence[Mapping[str, float]] = ()) -> dict[str, float]:
    """A model's costs by name, with those of the models that it needs. A cost that is unknown of one is left out.

    members: the scores of each model that runs before this one, as often as it runs.
    """
    own = {MILLISECONDS: timer.milliseconds, PARAMETERS: sum(p.numel() for p in model.parameters()) / 1e6}
    return {
        name: value + sum(member[name] for member in members)
        for name, value in own.items()
        if all(name in member for member in members)
    }
