"""A conductor at work on machines: what has been handed out, what waits for room, for more memory or another worker."""

from __future__ import annotations

import logging
import threading
import time
from collections import Counter, deque
from collections.abc import Container, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from ensemble_tune.errors import ConfigError, OutOfMemoryError
from ensemble_tune.tune.conductor import Assignment, Conductor
from ensemble_tune.tune.packing import Bookings
from ensemble_tune.tune.record import Status
from ensemble_tune.tune.resources import Machine
from ensemble_tune.tune.room import Placement, Wish

log = logging.getLogger(__name__)

_WORKER_DEATHS = 3
"""How often a trial's worker may die before the trial counts as lost."""
_AHEAD = 16
"""Trials that are looked at for one that fits, or that takes an idle worker over as it is."""
_OVERTAKEN = 16
"""How often a trial may be overtaken by others that fit before a card is kept for it."""


@dataclass
class Waiting:
    """A trial that waits for room."""

    assignment: Assignment
    wish: Wish
    overtaken: int = 0


@dataclass(frozen=True, slots=True)
class Handed:
    """A trial with its place."""

    assignment: Assignment
    placement: Placement


@dataclass
class Stage:
    """A conductor at work."""

    conductor: Conductor
    shared: Any
    """Ray's reference to what all its trials share, for workers to fetch."""
    bookings: Bookings | None = None
    """What of GPUs and of bounded memory each trial has; None where they have nothing of either."""
    live: dict[str, Handed] = field(default_factory=dict)
    """What Tune has been given and has not ended, by Tune's ids."""
    again: deque[Assignment] = field(default_factory=deque)
    """Trials whose worker died, or ran out of memory."""
    window: list[Waiting] = field(default_factory=list)
    """The next trials, where each has a share of its own."""
    deaths: Counter[str] = field(default_factory=Counter)
    """How often each trial's worker died."""
    forgiven: set[str] = field(default_factory=set)
    """Trials that were run once more since they ran out of memory, in an earlier call too."""
    done: threading.Event = field(default_factory=threading.Event)
    """Set when every trial has ended."""

    def next(self, placement: Placement) -> Handed | None:
        """The next trial with its place, if there is room; placement: where all have the same."""
        if self.bookings is None:
            assignment = self._assignment()
            return None if assignment is None else Handed(assignment, placement)
        return self._seek(self.bookings)

    def next_like(self, name: str) -> Handed | None:
        """The next trial that can take over the place and the worker of one that ends, by Tune's id."""
        if self.bookings is None or name not in self.live:
            return None
        handed = self.live[name]
        self.bookings.free(handed.assignment.trial)
        return self._seek(self.bookings, handed.placement)

    def ended(self, handed: Handed, status: Status | None = None, error: str | None = None) -> None:
        """A trial trains no further; status, error: what went wrong and why."""
        self.conductor.ended(handed.assignment.trial, status, error)

    def free(self, handed: Handed) -> None:
        """A trial gives its place back."""
        if self.bookings is not None:
            self.bookings.free(handed.assignment.trial)

    def side_by_side(self, places: int) -> int:
        """How many trials have a place now; places: as many as there are, where all have the same share."""
        return places if self.bookings is None else len(self.bookings.booked)

    @property
    def stuck(self) -> bool:
        """Whether nothing runs, though trials wait: the machines that could hold them have gone."""
        return bool(self.window) and not self.live

    @property
    def waits(self) -> bool:
        """Whether a trial waits for room."""
        return bool(self.window or self.again)

    def meet(self, machines: Sequence[Machine]) -> None:
        """The machines that there are from now on."""
        if self.bookings is not None:
            self.bookings.meet(machines)

    def learn(self, figures: Mapping[str, float | str]) -> None:
        """Takes what a trial's row says of its memory."""
        if self.bookings is not None:
            self.bookings.learn(figures)

    def worker_died(self, handed: Handed, why: str, *, counts: bool) -> None:
        """Gives the trial to another worker, unless it has cost too many; counts: whether this is a failure of it."""
        trial = handed.assignment.trial
        self.deaths[trial] += counts
        if self.deaths[trial] > _WORKER_DEATHS:
            last = f"its worker died {self.deaths[trial]} times; the last time: {why}"
            self.conductor.ended(trial, Status.LOST, last)
        elif self.conductor.reason is None:
            self.again.append(handed.assignment)

    def ran_out(self, handed: Handed, why: str, *, on_gpu: bool) -> None:
        """Runs a trial whose memory did not suffice once more with more of it, from its checkpoint, if there is more.

        on_gpu: whose memory it was, its card's or the machine's.
        """
        trial, placement = handed.assignment.trial, handed.placement
        self.conductor.note_gpu(trial, {**placement.figures, "ran_out": placement.share.gpus or 0.0})
        first = trial not in self.forgiven
        # Where nothing was booked, others may have had the memory.
        booked = self.bookings if on_gpu or placement.share.memory else None
        if first and (booked is None or booked.raised(trial, placement, on_gpu=on_gpu)):
            log.info("%s ran out of memory with %s; it is run once more: %s", trial, _told(placement), why)
            self.forgiven.add(trial)
            if self.conductor.reason is None:
                self.again.append(handed.assignment)
        else:
            times = "" if first else ", the second time"
            self.conductor.ended(trial, Status.OUT_OF_MEMORY, f"out of memory with {_told(placement)}{times}: {why}")

    def moves(self, name: str, there: Container[str]) -> bool:
        """Whether a trial, by Tune's id, waits for a place on a machine that is not there any more; it gets another."""
        handed = self.live.get(name)
        if handed is None or handed.placement.machine is None or handed.placement.machine in there:
            return False
        self.free(self.live.pop(name))
        self.again.append(handed.assignment)
        return True

    def clear(self) -> None:
        """Nothing is started any more."""
        self.again.clear()
        self.window.clear()

    def settle(self) -> None:
        """Ends the stage once nothing of it is left."""
        if self.conductor.done and not self.live and not self.again and not self.window:
            self.done.set()

    def _assignment(self) -> Assignment | None:
        return replace(self.again.popleft(), proposed=time.time()) if self.again else self.conductor.next()

    def _seek(self, bookings: Bookings, like: Placement | None = None) -> Handed | None:
        """A trial that fits, or with `like` one that fits there; looks no further ahead than it must for one."""
        while self.again:
            self._take(bookings, at=0)
        handed = self._fitting(bookings, like)
        while handed is None and len(self.window) < _AHEAD and (like is not None or not self.live or bookings.has_room):
            if not self._take(bookings, at=len(self.window)):
                break
            handed = self._fitting(bookings, like)
        return handed

    def _take(self, bookings: Bookings, at: int) -> bool:
        """Takes a trial into the window, or lets it fail where it fits on no machine; whether there was one."""
        assignment = self._assignment()
        if assignment is None:
            return False
        wish = self._wish(bookings, assignment)
        if wish is not None:
            self.window.insert(at, Waiting(assignment, wish))
        return True

    def _wish(self, bookings: Bookings, assignment: Assignment) -> Wish | None:
        """What a trial asks for; where no machine can ever hold it, it ends."""
        try:
            return bookings.wish(assignment.trial, assignment.params)
        except OutOfMemoryError as error:
            self.conductor.ended(assignment.trial, Status.OUT_OF_MEMORY, str(error))
        except ConfigError as error:
            self.conductor.ended(assignment.trial, Status.FAILED, str(error))
        return None

    def _fitting(self, bookings: Bookings, like: Placement | None = None) -> Handed | None:
        """The first trial of the window that has room, after those that have been overtaken for too long."""
        for place, waiting in enumerate(self.window):
            placement = bookings.place(waiting.wish, like)
            if placement is not None:
                del self.window[place]
                for overtaken in self.window[:place]:
                    overtaken.overtaken += 1
                # Until now it waited for room, not for a worker.
                return Handed(replace(waiting.assignment, proposed=time.time()), placement)
            if waiting.overtaken >= _OVERTAKEN:
                bookings.keep(waiting.wish)
        return None


def _told(placement: Placement) -> str:
    """A share in words."""
    share = placement.share
    words = [f"{share.gpus:g} GPU" if share.gpus else "no GPU"]
    words += [f"({placement.gpu_bytes / 2**30:.3g} GiB)"] if placement.gpu_bytes else []
    words += [f"and {share.memory:g} GiB of the machine"] if share.memory else []
    return " ".join(words)
