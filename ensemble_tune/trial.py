"""The seam between training and searching: a trial is a generator of epoch results.

A trial knows nothing of who consumes it. A search on Ray is one consumer, the final training another, a test a third.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol, TypeAlias, runtime_checkable

from ensemble_tune.storage import Location, fetched

Value: TypeAlias = str | int | float | bool
"""What a parameter may hold: what TOML, Parquet and JSON agree on. The text "none" stands for nothing."""

Params: TypeAlias = Mapping[str, Value]
"""One trial's parameters by name. A search adds `seed`, the trial's own seed, to what its space proposes."""


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A folder that holds a trial's state after an epoch; on this machine, for as long as the trial runs."""

    folder: Path
    epoch: int


@dataclass(frozen=True, slots=True)
class StoredCheckpoint:
    """A checkpoint where the run keeps it, on a disk or in an object store."""

    folder: Location
    epoch: int
    scores: Mapping[str, float] | None = field(default=None, compare=False)
    """What the epoch scored, where that was looked up."""

    @contextmanager
    def fetched(self) -> Iterator[Checkpoint]:
        """The checkpoint on this machine, until the `with` ends.

        Raises FileNotFoundError where it is gone, StorageError where the store fails.
        """
        with fetched(self.folder) as folder:
            yield Checkpoint(folder, self.epoch)


def _save_nothing(folder: Path) -> None:
    """A trial without state has nothing to save."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EpochResult:
    """What one epoch of one trial gave."""

    epoch: int
    """Counted from 1."""
    scores: Mapping[str, float]
    """By name, for example miou, loss, iou.car; nan where a score is undefined."""
    seconds: Mapping[str, float] = field(default_factory=dict)
    """Wall-clock seconds by part, for example train, evaluate."""
    gpu_bytes: int | None = None
    """The most bytes of a GPU that the trial's process has taken so far; None where it has none, or cannot tell."""
    save: Callable[[Path], None] = _save_nothing
    """Writes the trial's state after this epoch into an existing, empty folder; valid until the trial is advanced."""


class Trial(Protocol):
    """Trains one configuration, epoch by epoch.

    Resumed from the checkpoint of epoch k, it yields epochs k+1, k+2, ... exactly as if it had never been interrupted.
    """

    def __call__(self, params: Params, resume: Checkpoint | None, /) -> Iterator[EpochResult]:
        """Trains; `resume` is the checkpoint to go on from, None at the start."""


@runtime_checkable
class SizedTrial(Protocol):
    """A trial that says what it needs of a GPU before it runs."""

    def gpu_bytes(self, params: Params, /) -> int:
        """Bytes of a card's memory that its process will take, CUDA's own among them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Share:
    """What a trial was given of its machine."""

    cpus: float
    """Processor cores."""
    gpus: float
    """Devices."""
    gpu_bytes: int | None = None
    """Of its card's memory; None where it has no card, or one of unknown size."""


_given: Share | None = None


def give_share(share: Share | None) -> None:
    """Says what the trial of this process has from now on; for whoever runs it."""
    global _given
    _given = share


def given_share() -> Share | None:
    """What the trial of this process was given; None where nobody said."""
    return _given
