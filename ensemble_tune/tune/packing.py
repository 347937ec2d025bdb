"""Where trials of different shares have room: their shares of GPUs, by what they take and what each card holds."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

from ensemble_tune.errors import ConfigError, OutOfMemoryError
from ensemble_tune.trial import Params
from ensemble_tune.tune.record import TrialRecord
from ensemble_tune.tune.resources import GIB, Machine, Requirements
from ensemble_tune.tune.room import Placement, Room, Wish, estimated_bytes

_MOST = 100
"""Trials on a card."""
_MARGIN = 1.1
"""On what was measured: another trial of the same kind may take a little more."""
_MORE = 1.25
"""Than a share that was too small the next is so many times as large at least: a 19th is hardly more than a 20th."""
_PARTS = 10_000
"""Ray counts in so many parts of a device."""


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
        self._seen: dict[str, Machine] = {}
        """All machines that have been there: one that has gone may come back."""
        self._booked: dict[str, tuple[Placement, tuple[int, ...]]] = {}
        self._measured: dict[float, float] = {}
        """The most bytes that trials of an estimate took."""
        self._too_little: dict[float, int] = {}
        """The bytes of a card that trials of an estimate must have, since with less one of them ran out."""
        self._raised: dict[str, Wish] = {}
        self._recalled: dict[str, int] = {}
        """The bytes that trials must have which ran out of memory in an earlier call."""
        self._smallest: Wish | None = None
        """Of all trials so far the one that asked for least: of a GPU, then of processors."""
        self._kept: tuple[str, str, int] | None = None
        """A trial, and the machine and the card that no other gets."""
        self.meet(machines)
        for record in known:
            self.learn(record.gpu)
            if not record.status.is_end and (least := _must_have(record.gpu)):
                self._recalled[record.trial] = least

    def meet(self, machines: Sequence[Machine]) -> None:
        """The machines that there are from now on."""
        self._rooms = {machine.id: self._rooms.get(machine.id) or Room(machine) for machine in machines}
        self._seen |= {machine.id: machine for machine in machines}
        if self._smallest and not any(self._settled(self._smallest, machine) for machine in machines):
            self._smallest = None
        if self._kept is not None and self._kept[1] not in self._rooms:
            self._kept = None

    def learn(self, figures: Mapping[str, float | str]) -> None:
        """Takes what a trial was estimated and measured to take, from the ledger's figures."""
        if "estimated" in figures and "measured" in figures:
            estimated = float(figures["estimated"])
            self._measured[estimated] = max(self._measured.get(estimated, 0.0), float(figures["measured"]))

    def wish(self, trial: str, params: Params) -> Wish:
        """What a trial asks for. Raises as `check` does."""
        wish = self._raised.get(trial) or self._first(trial, params)
        self.check(wish)
        if self._smallest is None or self._size(wish) < self._size(self._smallest):
            self._smallest = wish
        return wish

    def check(self, wish: Wish) -> None:
        """Raises ConfigError where no machine that is or was there could hold a trial, were it empty; OutOfMemoryError
        where that is known from one like it."""
        if self._grows:
            return
        machines = list(self._seen.values())
        if any(self._settled(wish, machine) for machine in machines):
            return
        nodes = [machine.resources for machine in machines]
        wish.share.on(nodes).slots(nodes)
        largest, takes = max((machine.card or 0 for machine in machines), default=0), self._takes(wish) or 0
        if self._must_have(wish) > largest:
            raise OutOfMemoryError(
                f"a trial must fit on one GPU, but one like it ran out of memory with all {largest / GIB:.3g} GiB of "
                "the largest; lower its batch size, or the size of its frames"
            )
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
            if like is not None and not anywhere.is_like(like):
                return None
            self._booked[wish.trial] = anywhere, ()
            return anywhere
        found = []
        for room in self._rooms.values():
            there = self._cards(wish, room)
            if there is not None and (like is None or there[0].is_like(like)):
                placement, cards = there
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
        """Whether there is room for another trial like the smallest so far, or a whole card for a smaller one; also as
        long as there was none."""
        smallest, rooms = self._smallest, self._rooms.values()
        if self._grows or smallest is None:
            return True
        return any(self._cards(smallest, room) or (room.left(()) > 0 and 1.0 in room.cards) for room in rooms)

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
            return any(self._raise(Wish(trial, replace(share, memory=more))) for more in self._more(share.memory))
        if not share.gpus or share.gpus > 1:
            return False
        if placement.card is None or placement.gpu_bytes is None:
            share = replace(share, gpus=_part(max(1, _fewer(round(1 / share.gpus)))))
        else:
            parts = _fewer(placement.card // max(1, placement.gpu_bytes))
            least = placement.card // parts if parts > 0 else placement.card + 1
            if share.gpu_memory is not None:
                key = estimated_bytes(share)
                self._too_little[key] = max(least, self._too_little.get(key, 0))
            share = replace(share, gpus=None)
        return share.gpus != placement.share.gpus and self._raise(Wish(trial, share, least))

    @property
    def recalled(self) -> set[str]:
        """Trials that ran out of memory in an earlier call, and ask for more since."""
        return set(self._recalled)

    @property
    def booked(self) -> Mapping[str, tuple[Placement, tuple[int, ...]]]:
        """The place of each trial that has one, with the numbers of its cards there."""
        return self._booked

    def held(self, kind: str) -> float:
        """What trials have of CPU, GPU or memory (bytes)."""
        return sum(placement.share.bundle().get(kind, 0.0) for placement, _ in self._booked.values())

    def _first(self, trial: str, params: Params) -> Wish:
        """What a trial asks for that has not run out of memory in this call."""
        share, least = self._requirements(params), self._recalled.get(trial, 0)
        return Wish(trial, replace(share, gpus=None) if least else share, least)

    def _raise(self, wish: Wish) -> bool:
        """Makes a trial ask for so much from now on; whether any machine has it."""
        try:
            self.check(wish)
        except (ConfigError, OutOfMemoryError):
            return False
        self._raised[wish.trial] = wish
        return True

    def _more(self, memory: float) -> list[float]:
        """GiB of a machine's memory that are more: twice as much, or else all that one has."""
        there = {room.machine.resources.get("memory", 0.0) / GIB for room in self._rooms.values()}
        return [2 * memory, *sorted((each for each in there if memory < each < 2 * memory), reverse=True)]

    def _must_have(self, wish: Wish) -> int:
        """Bytes of a card: with less it, or one like it, ran out of memory; 0 where none did."""
        alike = 0 if wish.share.gpu_memory is None else self._too_little.get(estimated_bytes(wish.share), 0)
        return max(wish.least, alike)

    def _takes(self, wish: Wish) -> int | None:
        """The bytes of a card that a trial takes, as far as is known."""
        if wish.share.gpu_memory is None:
            return wish.least or None
        takes = estimated_bytes(wish.share)
        if (measured := self._measured.get(takes)) is not None:
            # What fitted on a whole card fits there again, without a margin.
            largest = max((room.machine.card or 0 for room in self._rooms.values()), default=0)
            takes = min(measured * _MARGIN, max(measured, largest))
        return max(self._must_have(wish), math.ceil(takes))

    def _size(self, wish: Wish) -> tuple[float, float]:
        """How much a trial asks for."""
        gpus = wish.share.gpus
        return 0.0 if gpus == 0 else self._takes(wish) or GIB * (gpus or 1.0), wish.share.cpus

    def _cards(self, wish: Wish, room: Room) -> tuple[Placement, tuple[int, ...]] | None:
        """What a trial would hold of a machine now, and the cards that have it; None where there is no room."""
        placement = self._settled(wish, room.machine)
        cards = None if placement is None else room.of(placement, self._besides(wish.trial, room.machine))
        return None if placement is None or cards is None else (placement, cards)

    def _settled(self, wish: Wish, machine: Machine) -> Placement | None:
        """What a trial would hold of a machine; None where that is more than the machine has."""
        there, takes, gpus, own = machine.resources.get("GPU", 0.0), self._takes(wish), wish.share.gpus, None
        if gpus is None and not any(each.resources.get("GPU", 0.0) >= 1 for each in self._seen.values()):
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


def _must_have(figures: Mapping[str, float]) -> int:
    """The bytes of a card that a trial must have by its figures in the ledger, after it ran out of memory; 0 where it
    did not, or no card's size was known."""
    if "ran_out" not in figures or not figures.get("given") or not 0 < figures.get("share", 0.0) <= 1:
        return 0
    given, parts = figures["given"], round(1 / figures["share"])
    if figures["share"] > figures["ran_out"]:  # it has had more since
        return int(given)
    return int(given * parts / _fewer(parts)) if _fewer(parts) else int(given) + 1


def _part(parts: int) -> float:
    """1 / parts, such that Ray finds room for so many of them on a device."""
    return math.floor(_PARTS / parts) / _PARTS
