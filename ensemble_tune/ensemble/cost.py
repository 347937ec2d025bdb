"""What a model costs whoever uses it: time an image, parameters, memory."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor, nn

from ensemble_tune.ensemble.score_names import MEMORY, MILLISECONDS, PARAMETERS

_BYTES_A_PARAMETER = 4


class ForwardTimer:
    """Times the forward passes in which a model is scored, since those are made anyway.

    inputs_of: rows of frames to what the model takes, on `device`. Making it is not timed: what a fusion takes is read
    from a store here, and comes out of other models where it is used.
    """

    def __init__(
        self,
        model: Callable[..., Tensor],
        inputs_of: Callable[[Sequence[int]], Sequence[Tensor]],
        device: torch.device,
    ) -> None:
        self._model = model
        self._inputs_of = inputs_of
        self._device = device
        self._milliseconds: list[float] = []

    def __call__(self, rows: Sequence[int]) -> Tensor:
        """The logits of these rows."""
        inputs = self._inputs_of(rows)
        self._wait()
        started = time.perf_counter()
        logits = self._model(*inputs)
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


def costs(
    model: nn.Module, timer: ForwardTimer, megabytes: float, members: Sequence[Mapping[str, float]] = ()
) -> dict[str, float]:
    """A model's costs by name, with those of the models that it needs. A cost that is unknown of one is left out.

    megabytes: what the model holds while it segments one image. members: the scores of each model that runs before this
    one, as often as it runs: the weights of all are there all the time, features of one at a time.
    """
    own = {
        MILLISECONDS: timer.milliseconds,
        PARAMETERS: sum(p.numel() for p in model.parameters()) / 1e6,
        MEMORY: megabytes,
    }
    models = [own, *members]
    totals = {name: sum(found[name] for found in models) for name in own if all(name in member for member in members)}
    if {MEMORY, PARAMETERS} <= set(totals):
        features = max(found[MEMORY] - _BYTES_A_PARAMETER * found[PARAMETERS] for found in models)
        totals[MEMORY] = _BYTES_A_PARAMETER * totals[PARAMETERS] + features
    return totals
