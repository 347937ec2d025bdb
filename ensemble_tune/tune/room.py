"""What is left of a machine, what a trial wishes for, and what it holds there."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass

from ensemble_tune.tune.resources import GIB, Machine, Resources

_TINY = 1e-6


@dataclass(frozen=True, slots=True)
class Wish:
    """What a trial asks for."""

    trial: str
    share: Resources
    """The number of devices may be open."""
    least: int = 0
    """Bytes of a card that it must have: with less it ran out of memory."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Placement:
    """Where a trial runs, and what it holds there."""

    share: Resources
    """With the number of devices settled."""
    machine: str | None = None
    """Ray's id; None leaves the choice to Ray."""
    card: int | None = None
    """Bytes of its card; None where it has none, or one of unknown size."""
    gpu_bytes: int | None = None
    """Of that, its own."""

    def is_like(self, other: Placement) -> bool:
        """Whether a worker of the one serves the other: the same request to Ray."""
        return self.machine == other.machine and self.share.bundle() == other.share.bundle()

    @property
    def part(self) -> float:
        """Of each of its cards; not as Ray counts it: thirds and twelfths, cut short, would add up to more than one."""
        if self.card and self.gpu_bytes is not None:
            return self.gpu_bytes / self.card
        return min(self.share.gpus or 0.0, 1.0)

    @property
    def figures(self) -> dict[str, float]:
        """For the ledger: `share` of a device, `given` and `estimated` bytes of its memory, where they are known."""
        if not self.share.gpus:
            return {}
        given = {} if self.gpu_bytes is None else {"given": float(self.gpu_bytes)}
        estimated = {} if self.share.gpu_memory is None else {"estimated": estimated_bytes(self.share)}
        return {"share": self.share.gpus, **given, **estimated}


class Room:
    """What is left of a machine."""

    def __init__(self, machine: Machine) -> None:
        self.machine = machine
        self.cards = [1.0] * int(machine.resources.get("GPU", 0.0))
        self._left = {kind: machine.resources.get(kind, 0.0) for kind in ("CPU", "memory")}

    def of(self, placement: Placement, besides: Collection[int] = ()) -> tuple[int, ...] | None:
        """The numbers of the cards on which a trial has room; None where it has none here.

        Of the cards that have room for a fraction the one on which least is left then; Ray chooses alike.
        """
        bundle = placement.share.bundle()
        if any(bundle.get(kind, 0.0) > left + _TINY for kind, left in self._left.items()):
            return None
        each, count = placement.part, math.ceil(placement.share.gpus or 0.0)
        wide = sorted((left, i) for i, left in enumerate(self.cards) if left >= each - _TINY and i not in besides)
        return tuple(i for _, i in wide[:count]) if len(wide) >= count else None

    def take(self, placement: Placement, cards: Iterable[int], sign: int = 1) -> None:
        """Hands a share out; with sign -1 takes it back."""
        for kind in self._left:
            self._left[kind] -= sign * placement.share.bundle().get(kind, 0.0)
        for card in cards:
            left = self.cards[card] - sign * placement.part
            self.cards[card] = 1.0 if left > 1.0 - _TINY else left  # a whole one, where sums of parts are none

    def left(self, cards: Sequence[int]) -> float:
        """Of these cards, or of the processors where there are none."""
        return sum(self.cards[card] for card in cards) if cards else self._left["CPU"]


def estimated_bytes(share: Resources) -> float:
    """In bytes, whole ones: trials of equal estimates are told by it."""
    return float(round((share.gpu_memory or 0.0) * GIB))
