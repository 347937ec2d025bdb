"""What packing cards by what each trial takes is worth, against one share for all that a careful user would pick.

python benchmarks/packing.py [TRIALS]

In a virtual time, on the decisions that Tune executes: two cards of 16 GiB and one of 80, trials that take 2 to 40 GiB
for 2 to 6 minutes. The careful user takes the smallest part of a card that holds the largest trial, and only the cards
that have it. Starting a worker counts as 10 s, taking one over as nothing.
"""

from __future__ import annotations

import heapq
import random
import statistics
import sys
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from ensemble_tune.tune.conductor import Assignment
from ensemble_tune.tune.packing import Bookings, Placement
from ensemble_tune.tune.record import Status, TrialRecord, trial_name
from ensemble_tune.tune.resources import GIB, Machine, Resources
from ensemble_tune.tune.stage import Handed, Stage

SMALL = Machine("small", {"CPU": 64.0, "GPU": 2.0}, 16 * GIB)
LARGE = Machine("large", {"CPU": 64.0, "GPU": 1.0}, 80 * GIB)
SIZES, START, ROUNDS = (2, 4, 4, 5, 8, 10, 20, 40), 10.0, 20


def main(trials: int) -> None:
    """Prints medians over random orders."""
    found: dict[str, list[tuple[float, float, float]]] = {"by need": [], "half a card for all": []}
    for seed in range(ROUNDS):
        chance = random.Random(seed)
        records = [
            record(number, {"gib": chance.choice(SIZES), "seconds": chance.uniform(120, 360)})
            for number in range(trials)
        ]
        by_need = Bookings(lambda params: Resources(cpus=0.5, gpu_memory=float(params["gib"])), [SMALL, LARGE])
        found["by need"].append(run(records, by_need))
        # Half of 80 GiB holds 40; half of 16 does not.
        alike = Bookings(lambda params: Resources(cpus=0.5, gpus=0.5), [LARGE])
        found["half a card for all"].append(run(records, alike))
    print(f"{trials} trials, medians of {ROUNDS} orders: minutes  memory given while trials wait  workers taken over")
    for name, each in found.items():
        seconds, filled, taken_over = (statistics.median(column) for column in zip(*each, strict=True))
        print(f"{name:25} {seconds / 60:8.0f} {filled:20.0%} {taken_over:25.0%}")


def run(records: list[TrialRecord], bookings: Bookings) -> tuple[float, float, float]:
    """Seconds until all have ended; the shares of GPU memory that was given meanwhile, and of workers taken over."""
    told: Any = Told(records)
    stage = Stage(told, None, bookings)
    ends: list[tuple[float, str]] = []
    now = given = waited = 0.0
    taken_over = 0

    def begin(handed: Handed, start: float) -> None:
        stage.live[handed.assignment.trial] = handed
        heapq.heappush(ends, (now + start + float(handed.assignment.params["seconds"]), handed.assignment.trial))

    while True:
        while (handed := stage.next(Placement(share=Resources(gpus=0)))) is not None:
            begin(handed, START)
        if not ends:
            return now, given / waited / (112 * GIB), taken_over / len(records)
        then, trial = heapq.heappop(ends)
        if stage.window or told.waiting:
            given += (then - now) * sum(handed.placement.gpu_bytes or 0 for handed in stage.live.values())
            waited += then - now
        now = then
        follower = stage.next_like(trial)
        stage.free(stage.live.pop(trial))
        if follower is not None:
            taken_over += 1
            begin(follower, 0.0)


class Told:
    """A conductor that has a list of trials."""

    reason = None

    def __init__(self, records: list[TrialRecord]) -> None:
        self.waiting = list(records)

    def next(self) -> Assignment | None:
        """The first one."""
        return Assignment(self.waiting.pop(0)) if self.waiting else None

    def ended(self, trial: str, status: Status | None = None, error: str | None = None) -> None:
        """Only where one fits nowhere."""
        raise AssertionError(f"{trial}: {error}")


def record(number: int, params: Mapping[str, float]) -> TrialRecord:
    name = trial_name("packed", number)
    now = datetime.now(UTC)
    return TrialRecord(
        trial=name, stage="packed", number=number, status=Status.RUNNING, params=params, seed=1, started=now
    )


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 200)
