"""Where trials of different shares have room: their shares of GPUs, by what they take and what each card holds."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from ensemble_tune.errors import ConfigError
from ensemble_tune.trial import Params
from ensemble_tune.tune.record import TrialRecord
from ensemble_tune.tune.resources import GIB, Machine, Requirements, Resources

_MOST = 100
"""Trials on a card."""
_MARGIN = 1.1
"""On what was measured: another trial of the same kind may take a little more."""
_MORE = 1.25
"""Than a share that was too small the next is so many times as large at least: a 19th is hardly more than a 20th."""
_PARTS = 10_000
"""Ray counts in so many parts of a device."""
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
        estimated = {} if self.share.gpu_memory is None else {"estimated": _estimated(self.share)}
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
            self.cards[card] -= sign * placement.part

    def left(self, cards: Sequence[int]) -> float:
        """Of these cards, or of the processors where there are none."""
        return sum(self.cards[card] for card in cards) if cards else self._left["CPU"]


class Bookings:
    """What trials of different shares hold, card by card, and where there is room for another.

    Trials of equal estimates are taken to be alike: what one was measured to take is what the next one asks for.
    """

    def __init__(
        self,
        requirements: Requirements,
        machines: Sequence[Machine],
        known: Iterable[TrialRecord] = (),
        *,
        grows: bool = False,
    ) -> None:
        """known: the trials of the stage so far, which may have been measured. grows: whether machines come when they
        are asked for; then there is room for any trial, and Ray chooses where."""
        self._requirements = requirements
        self._grows = grows
        self._rooms: dict[str, Room] = {}
        self._booked: dict[str, tuple[Placement, tuple[int, ...]]] = {}
        self._measured: dict[float, float] = {}
        """The most bytes that trials of an estimate took."""
        self._raised: dict[str, Wish] = {}
        self._kept: tuple[str, str, int] | None = None
        """A trial, and the machine and the card that no other gets."""
        self.meet(machines)
        for record in known:
            self.learn(record.gpu)

    def meet(self, machines: Sequence[Machine]) -> None:
        """The machines that there are from now on."""
        self._rooms = {machine.id: self._rooms.get(machine.id) or Room(machine) for machine in machines}
        if self._kept is not None and self._kept[1] not in self._rooms:
            self._kept = None

    def learn(self, figures: Mapping[str, float | str]) -> None:
        """Takes what a trial was estimated and measured to take, from the ledger's figures."""
        if "estimated" in figures and "measured" in figures:
            self._learn(float(figures["estimated"]), float(figures["measured"]))

    def wish(self, trial: str, params: Params) -> Wish:
        """What a trial asks for. Raises ConfigError where no machine could hold it, were it empty."""
        wish = self._raised.get(trial) or Wish(trial, self._requirements(params))
        self.check(wish)
        return wish

    def check(self, wish: Wish) -> None:
        """Raises ConfigError where no machine could hold a trial, were it empty."""
        if self._grows:
            return
        machines = [room.machine for room in self._rooms.values()]
        if any(self._settled(wish, machine) for machine in machines):
            return
        nodes = [machine.resources for machine in machines]
        wish.share.on(nodes).slots(nodes)
        largest, takes = max((machine.card or 0 for machine in machines), default=0), self._takes(wish) or 0
        if wish.share.gpus is not None and takes <= largest:
            raise ConfigError(
                f"a share of a GPU must hold what its trial takes, but {wish.share.gpus:g} of the largest, which has "
                f"{largest / GIB:.3g} GiB, is {wish.share.gpus * largest / GIB:.3g}, and this trial takes "
                f"{takes / GIB:.3g}; give --gpus-per-trial {_part(largest // max(1, takes)):g}, or auto"
            )
        raise ConfigError(
            f"a trial must fit on one GPU, but it takes {takes / GIB:.3g} GiB and the largest has {largest / GIB:.3g}; "
            "lower its batch size, or the size of its frames"
        )

    def place(self, wish: Wish, like: Placement | None = None) -> Placement | None:
        """Room for a trial now, on the smallest card that has it, then where least is left; None where there is none.

        like: only a place of this kind will do.
        """
        if self._grows:
            gpus = float(wish.share.gpu_memory is not None) if wish.share.gpus is None else wish.share.gpus
            anywhere = Placement(share=replace(wish.share, gpus=gpus))
            self._booked[wish.trial] = anywhere, ()
            return anywhere
        found = []
        for room in self._rooms.values():
            placement = self._settled(wish, room.machine)
            if placement is None or (like is not None and not placement.is_like(like)):
                continue
            cards = room.of(placement, self._besides(wish.trial, room.machine))
            if cards is not None:
                size = (room.machine.card or math.inf) if cards else len(room.cards)
                found.append((size, room.left(cards), room.machine.id, placement, cards))
        if not found:
            return None
        _, _, machine, best, cards = min(found, key=lambda each: each[:3])
        self._rooms[machine].take(best, cards)
        self._booked[wish.trial] = best, cards
        if self._kept is not None and self._kept[0] == wish.trial:
            self._kept = None
        return best

    def keep(self, wish: Wish) -> None:
        """Lets nobody else onto the emptiest card that could hold a trial, until it is placed; one trial at a time."""
        cards = [
            (left, room.machine.id, i)
            for room in self._rooms.values()
            if self._settled(wish, room.machine)
            for i, left in enumerate(room.cards)
        ]
        if self._kept is None and cards:
            self._kept = wish.trial, *max(cards)[1:]

    @property
    def has_room(self) -> bool:
        """Whether something is left that a trial may fit into: of a card, or where there is none of a processor."""
        cards = any(room.cards for room in self._rooms.values())
        return self._grows or any(
            room.left(()) > 0 and (not cards or max(room.cards, default=0) >= 1 / _MOST)
            for room in self._rooms.values()
        )

    def free(self, trial: str) -> None:
        """Takes a share back; nothing where the trial had none."""
        placement, cards = self._booked.pop(trial, (None, ()))
        if placement is not None and placement.machine in self._rooms:
            self._rooms[placement.machine].take(placement, cards, sign=-1)

    def raised(self, trial: str, placement: Placement, *, on_gpu: bool) -> bool:
        """Makes a trial that ran out of memory ask for the next larger share; whether there is one.

        Trials of the same estimate ask for it too. on_gpu: whose memory was short, its card's or the machine's.
        """
        share, least = placement.share, 0
        if not on_gpu:
            share = replace(share, memory=2 * share.memory)
        elif not share.gpus or share.gpus > 1:
            return False
        elif placement.card is None or placement.gpu_bytes is None:
            share = replace(share, gpus=_part(max(1, _fewer(round(1 / share.gpus)))))
        else:
            parts = _fewer(placement.card // max(1, placement.gpu_bytes))
            least = placement.card // parts if parts > 0 else placement.card + 1
            if share.gpu_memory is not None:
                self._learn(_estimated(share), least / _MARGIN)
            share = replace(share, gpus=None)
        wish = Wish(trial, share, least)
        try:
            self.check(wish)
        except ConfigError:
            return False
        self._raised[trial] = wish
        return (share.gpus, share.memory) != (placement.share.gpus, placement.share.memory)

    @property
    def booked(self) -> Mapping[str, tuple[Placement, tuple[int, ...]]]:
        """The place of each trial that has one, with the numbers of its cards there."""
        return self._booked

    def held(self, kind: str) -> float:
        """What trials have of CPU, GPU or memory (bytes)."""
        return sum(placement.share.bundle().get(kind, 0.0) for placement, _ in self._booked.values())

    def _learn(self, estimated: float, took: float) -> None:
        self._measured[estimated] = max(self._measured.get(estimated, 0.0), took)

    def _takes(self, wish: Wish) -> int | None:
        """The bytes of a card that a trial takes, as far as is known."""
        if wish.share.gpu_memory is None:
            return wish.least or None
        key = _estimated(wish.share)
        return max(wish.least, math.ceil(self._measured[key] * _MARGIN if key in self._measured else key))

    def _settled(self, wish: Wish, machine: Machine) -> Placement | None:
        """What a trial would hold of a machine; None where that is more than the machine has."""
        there, takes, gpus, own = machine.resources.get("GPU", 0.0), self._takes(wish), wish.share.gpus, None
        if gpus is None and not any(room.cards for room in self._rooms.values()):
            gpus = 0.0
        if gpus is None:
            parts = 1 if takes is None or machine.card is None else min(machine.card // takes, _MOST)
            if parts < 1:
                return None
            gpus, own = _part(parts), None if machine.card is None else machine.card // parts
        elif gpus > 0 and machine.card is not None:
            own = int(min(gpus, 1.0) * machine.card)
            # 1%: a third, as a user writes it, is no third.
            if takes is not None and takes > 1.01 * own * max(1.0, gpus):
                return None
        share = replace(wish.share, gpus=gpus)
        bundle = share.bundle()
        if gpus > there or any(bundle.get(kind, 0.0) > machine.resources.get(kind, 0.0) for kind in ("CPU", "memory")):
            return None
        return Placement(share=share, machine=machine.id, card=machine.card if gpus else None, gpu_bytes=own)

    def _besides(self, trial: str, machine: Machine) -> tuple[int, ...]:
        """The cards of a machine that are kept for another trial."""
        if self._kept is None or self._kept[0] == trial or self._kept[1] != machine.id:
            return ()
        return (self._kept[2],)


def _fewer(parts: int) -> int:
    """Into how many parts a card is cut for the next larger share; 0 where that is more than the card."""
    return min(parts - 1, int(parts / _MORE))


def _part(parts: int) -> float:
    """1 / parts, such that Ray finds room for so many of them on a device."""
    return math.floor(_PARTS / parts) / _PARTS


def _estimated(share: Resources) -> float:
    """In bytes, whole ones: trials of equal estimates are told by it."""
    return float(round((share.gpu_memory or 0.0) * GIB))
