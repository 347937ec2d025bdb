"""What saturates first as a cluster grows: the costs measured here, then 100 and 1,000 GPUs simulated with them.

python benchmarks/scale.py [SLOTS ...] [--dead SECONDS]

Measured, as CPU time of the driver alone: a result and a trial's start through Ray Tune on a logical cluster (trials of
epochs that take no time, 32 side by side), a proposal by each sampler after so many trials, the flush of the ledger. A
machine that dies costs its trials half an epoch, and --dead seconds until they train again elsewhere.

Simulated, with the search's own decisions and simulator: asha-promote over trials of up to 27 epochs. Results and
proposals are then served one after another by a driver that takes as long as was measured; a result's wait is what its
slot idles.
"""

from __future__ import annotations

import argparse
import os
import random
import statistics
import tempfile
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

from ensemble_tune.trial import Checkpoint, EpochResult, Params
from ensemble_tune.tune.decisions import Decisions, Goal
from ensemble_tune.tune.record import EpochRecord, Objective, TrialRecord
from ensemble_tune.tune.resources import Resources
from ensemble_tune.tune.sampler import make_sampler
from ensemble_tune.tune.scheduler import make_scheduler
from ensemble_tune.tune.search import Search
from ensemble_tune.tune.search_space import SearchSpace
from ensemble_tune.tune.simulator import simulate
from ensemble_tune.tune.workers import Workers

EPOCHS, MEASURED_SLOTS = 27, 32
GPUS_A_MACHINE, LOST_AN_HOUR = 4, 0.05
"""Of a spot cluster: how many GPUs go with a machine, and the share of machines that is taken back in an hour."""
SPACE = SearchSpace.parse("""
[parameters]
learning_rate = { low = 1e-4, high = 1.0, log = true }
momentum = { low = 0.1, high = 0.99 }
width = { low = 8, high = 512, log = true }
kind = { choices = ["plain", "dilated", "depthwise"] }
""")


def main() -> None:
    """Prints what was measured, then a row a size, sampler and epoch."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("slots", type=int, nargs="*", default=[32, 100, 1_000])
    parser.add_argument("--dead", type=float, default=30.0, help="seconds until a dead machine's trials train again")
    given = parser.parse_args()
    result, start = driver_costs()
    print(f"measured with {MEASURED_SLOTS} slots: a result {result * 1e3:.2f} ms, a trial's start {start * 1e3:.1f} ms")
    proposals = {sampler: [proposal(sampler, before) for before in (100, 1_000)] for sampler in ("random", "tpe")}
    for sampler, seconds in proposals.items():
        print(f"a proposal by {sampler} after 100 and 1,000 trials: {', '.join(f'{s * 1e3:.2f} ms' for s in seconds)}")
    print(
        "slots  sampler  epoch s  results/s  driver busy  slots idle for it  lost to dead machines  saturates at slots"
    )
    for slots in given.slots:
        for sampler, seconds in proposals.items():
            for epoch in (1.0, 10.0, 60.0):
                a_trial = start + seconds[-1 if slots > 100 else 0]
                print(row(slots, sampler, epoch, result, a_trial, given.dead), flush=True)


def driver_costs() -> tuple[float, float]:
    """CPU seconds of the driver for one result, and for one trial beside its results."""
    took = {}
    workers = Workers(Resources(cpus=len(os.sched_getaffinity(0)) / MEASURED_SLOTS, gpus=0))
    with tempfile.TemporaryDirectory() as folder, workers:
        for epochs, trials in ((1, MEASURED_SLOTS), (1, 160), (26, 160)):  # the first brings the workers up
            search = Search(
                trial=at_once,
                metric="score",
                keep=1,
                out=Path(folder) / f"{epochs}-{trials}",
                max_epochs=epochs,
                points=[{"epochs": epochs, "seed": number} for number in range(trials)],
                workers=workers,
            )
            before = time.process_time()
            search.run()
            took[epochs, trials] = time.process_time() - before
    a_result = (took[26, 160] - took[1, 160]) / (25 * 160)
    return a_result, took[1, 160] / 160 - a_result


def at_once(params: Params, resume: Checkpoint | None) -> Iterator[EpochResult]:
    for epoch in range(resume.epoch + 1 if resume else 1, int(params["epochs"]) + 1):
        yield EpochResult(epoch=epoch, scores={"score": 1.0})


def proposal(sampler: str, before: int) -> float:
    """CPU seconds of one proposal after so many trials; the median of twenty."""
    asked = make_sampler(sampler, SPACE, seed=0, objectives=[Objective("score")])
    goal = Goal(stage="base", metric="score", keep=10, sampler=sampler)
    scheduler = make_scheduler("none", max_epochs=1, mode="max")
    done = simulate(Decisions(goal, sampler=asked, scheduler=scheduler, trials=before), one_epoch, slots=8)
    took = []
    for number in range(before, before + 20):
        started = time.process_time()
        asked.propose(number)
        took.append(time.process_time() - started)
    assert len(done.records) == before
    return statistics.median(took)


def row(slots: int, sampler: str, epoch: float, result: float, a_trial: float, dead: float) -> str:
    """A simulated search of eight trials a slot."""
    goal = Goal(stage="base", metric="score", keep=10, sampler="random")
    decisions = Decisions(
        goal,
        # Who proposes does not change how many results come, and when; what a proposal takes is in `a_trial`.
        sampler=make_sampler("random", SPACE, seed=0, objectives=[Objective("score")]),
        scheduler=make_scheduler("asha-promote", max_epochs=EPOCHS, mode="max"),
        trials=8 * slots,
    )
    ends: list[tuple[float, bool]] = []

    def note(record: EpochRecord) -> None:
        ends.append((record.reported.timestamp(), record.epoch == 1))

    done = simulate(decisions, lambda record: curve(record, epoch), slots=slots, on_epoch=note)
    free, waited, served = 0.0, 0.0, 0.0
    for at, first in ends:
        takes = result + (a_trial if first else 0.0)
        begins = max(free, at)
        free, waited, served = begins + takes, waited + begins + takes - at, served + takes
    busy = served / done.seconds
    machines = slots / GPUS_A_MACHINE
    lost = machines * LOST_AN_HOUR / 3600 * GPUS_A_MACHINE * (epoch / 2 + dead) / slots
    return (
        f"{slots:5,}  {sampler:7}  {epoch:7g}  {len(ends) / done.seconds:9.1f}  {100 * busy:10.1f}%"
        f"  {100 * waited / (done.seconds * slots):16.2f}%  {100 * lost:20.3f}%  {slots / busy:18,.0f}"
    )


def curve(record: TrialRecord, epoch: float) -> Iterator[tuple[Mapping[str, float], float]]:
    """Rises with noise; an epoch takes as long as is said, give or take half."""
    chance = random.Random(record.seed)
    worth, seconds = chance.random(), epoch * (0.5 + chance.random())
    for number in range(record.epochs + 1, EPOCHS + 1):
        yield {"score": worth * (1 - 0.7 * 0.8**number)}, seconds


def one_epoch(record: TrialRecord) -> Iterator[tuple[Mapping[str, float], float]]:
    yield {"score": random.Random(record.seed).random()}, 1.0


if __name__ == "__main__":
    main()
