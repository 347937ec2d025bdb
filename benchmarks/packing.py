"""What packing cards by what each trial takes is worth, against one share for all that a careful user would pick.

python benchmarks/packing.py [TRIALS]
python benchmarks/packing.py ray [ROUNDS]

In a virtual time, on the decisions that Tune executes: trials that take 2 to 40 GiB for 2 to 6 minutes, on two cards of
16 GiB beside one of 80, and on three of 80. Starting a worker counts as 10 s, taking one over as nothing. `ray` runs
the searches themselves on Ray's test cluster with such cards, logical ones: 30 trials that take 8 to 40 GiB and sleep
for 10 to 30 s. Workers start on the machine's own processors, whatever the cluster is told of them, and few trials by
need take a worker over: trials of 2 to 6 s, no longer than a start, ended sooner with half a card for all.

Against it, half a card for all: the smallest part of the largest card that holds the largest trial. As Tune knows
nothing of a card's size, such a user gives it only the cards on which half is enough for any trial; on two sizes the
small ones idle. That is the baseline that is meant. Half of any card that holds a trial is more than a careful user has
without our packing: each trial's need is known there, and only its share is not.
"""

from __future__ import annotations

import heapq
import math
import os
import random
import statistics
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from ensemble_tune.tune.conductor import Assignment
from ensemble_tune.tune.packing import Bookings
from ensemble_tune.tune.record import Status, TrialRecord, trial_name
from ensemble_tune.tune.resources import GIB, Machine, Requirements, Resources
from ensemble_tune.tune.room import Placement
from ensemble_tune.tune.stage import Handed, Stage

TESTS = Path(__file__).parents[1] / "tests" / "tune"
SMALL = Machine("small", {"CPU": 64.0, "GPU": 2.0}, 16 * GIB)
LARGE = Machine("large", {"CPU": 64.0, "GPU": 1.0}, 80 * GIB)
EQUAL = Machine("equal", {"CPU": 64.0, "GPU": 3.0}, 80 * GIB)
CLUSTERS = {"2 cards of 16 GiB, 1 of 80": [SMALL, LARGE], "3 cards of 80 GiB": [EQUAL]}
START, ROUNDS, RAY_TRIALS, RAY_ROUNDS = 10.0, 20, 30, 3

SHARES: dict[str, Requirements] = {
    "by need": lambda params: Resources(cpus=0.5, gpu_memory=float(params["gib"])),
    # Half of 80 GiB holds 40; half of 16 does not.
    "half a card for all": lambda params: Resources(cpus=0.5, gpus=0.5, gpu_memory=40.0),
    "half of any that holds it": lambda params: Resources(cpus=0.5, gpus=0.5, gpu_memory=float(params["gib"])),
}


def main(trials: int) -> None:
    """Prints medians over random orders."""
    print(
        f"{trials} trials, medians of {ROUNDS} orders; of all cards' memory while trials wait: given to trials, needed"
    )
    for cluster, machines in CLUSTERS.items():
        print(f"{cluster:27} minutes   given  needed  workers taken over")
        for name, share in SHARES.items():
            found = []
            for seed in range(ROUNDS):
                chance = random.Random(seed)
                records = [
                    record(number, {"gib": size(chance, 2), "seconds": chance.uniform(120, 360)})
                    for number in range(trials)
                ]
                found.append(run(records, Bookings(share, machines), machines))
            seconds, given, needed, taken_over = (statistics.median(column) for column in zip(*found, strict=True))
            print(f"  {name:25} {seconds / 60:7.0f} {given:7.0%} {needed:7.0%} {taken_over:19.0%}")


def run(records: list[TrialRecord], bookings: Bookings, machines: list[Machine]) -> tuple[float, float, float, float]:
    """Seconds until all have ended; the shares of all cards' memory that was given and needed while trials waited, and
    of workers taken over. Raises AssertionError where a card has promised more than it is."""
    told: Any = Told(records)
    stage = Stage(told, None, bookings)
    there = sum(machine.resources["GPU"] * (machine.card or 0) for machine in machines)
    ends: list[tuple[float, str]] = []
    now = given = needed = waited = 0.0
    taken_over = 0

    def begin(handed: Handed, start: float) -> None:
        stage.live[handed.assignment.trial] = handed
        check(bookings, stage.live)
        heapq.heappush(ends, (now + start + float(handed.assignment.params["seconds"]), handed.assignment.trial))

    while True:
        while (handed := stage.next(Placement(share=Resources(gpus=0)))) is not None:
            begin(handed, START)
        if not ends:
            return now, given / waited / there, needed / waited / there, taken_over / len(records)
        then, trial = heapq.heappop(ends)
        if stage.window or told.waiting:
            given += (then - now) * sum(handed.placement.gpu_bytes or 0 for handed in stage.live.values())
            needed += (then - now) * sum(need(handed) for handed in stage.live.values())
            waited += then - now
        now = then
        follower = stage.next_like(trial)
        stage.free(stage.live.pop(trial))
        if follower is not None:
            taken_over += 1
            begin(follower, 0.0)


def size(chance: random.Random, least: float) -> float:
    """GiB, up to 40: as many between 4 and 8 as between 20 and 40, and none of a size that divides a card."""
    return round(least * math.pow(40 / least, chance.random()), 2)


def need(handed: Handed) -> float:
    return float(handed.assignment.params["gib"]) * GIB


def check(bookings: Bookings, live: Mapping[str, Handed]) -> None:
    """Counts each card anew, by what its trials were promised and by what they need."""
    promised: Counter[tuple[str, int]] = Counter()
    needed: Counter[tuple[str, int]] = Counter()
    size: dict[tuple[str, int], int] = {}
    for trial, (placement, cards) in bookings.booked.items():
        for card in cards:
            key = str(placement.machine), card
            size[key] = placement.card or 0
            promised[key] += placement.gpu_bytes or 0
            needed[key] += int(need(live[trial])) if trial in live else 0
    for key, card in size.items():
        # A fraction that a user gives may be too small by a hundredth: a third, as it is written, is no third.
        kept = needed[key] <= 1.01 * promised[key] and promised[key] <= card
        assert kept, f"{key} has {card}, promises {promised[key]} for {needed[key]}"


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


def on_ray(rounds: int) -> None:
    """Prints the seconds that searches take on a logical cluster, their workers' starts among them."""
    # Ray's servers read both when they start; what runs here lives on loopback, and as long as this process.
    os.environ.update(RAY_AUTH_MODE="disabled", PYTHONPATH=os.pathsep.join([str(TESTS), *sys.path[1:]]))
    sys.path.insert(0, str(TESTS))
    import packing_search  # type: ignore[import-not-found]  # of the tests
    import ray

    from ensemble_tune.tune.workers import Workers

    print(f"{RAY_TRIALS} trials, medians of {rounds} rounds: seconds (each round)")
    for name, machines in CLUSTERS.items():
        cluster = packing_search.cluster(
            {each.id: (int(each.resources["GPU"]), (each.card or 0) // GIB) for each in machines}
        )
        found: dict[str, list[float]] = {"by need": [], "half a card for all": []}
        for seed in range(rounds):
            for share, each in found.items():
                with tempfile.TemporaryDirectory() as out, Workers(Resources(cpus=0.5), cluster.address) as workers:
                    started = time.monotonic()
                    packing_search.search(Path(out), workers, packing_search.trial, points(seed), SHARES[share])
                    each.append(time.monotonic() - started)
        ray.shutdown()
        cluster.shutdown()
        for share, each in found.items():
            all_rounds = ", ".join(f"{seconds:.0f}" for seconds in each)
            print(f"{name:27} {share:20} {statistics.median(each):4.0f} ({all_rounds})", flush=True)


def points(seed: int) -> list[dict[str, float]]:
    chance = random.Random(seed)
    return [
        {"gib": size(chance, 8), "seconds": chance.uniform(5, 15), "seed": number}  # an epoch of two
        for number in range(RAY_TRIALS)
    ]


if __name__ == "__main__":
    numbers = [int(argument) for argument in sys.argv[1:] if argument.isdecimal()]
    if "ray" in sys.argv[1:]:
        on_ray(numbers[0] if numbers else RAY_ROUNDS)
    else:
        main(numbers[0] if numbers else 200)
