"""What saturates first as a cluster grows: the costs measured here, then 100 and 1,000 GPUs simulated with them.

python benchmarks/scale.py [SLOTS ...] [--dead SECONDS]

Measured, in CPU time:

- a result and a trial's start through Ray Tune on a logical cluster (trials of epochs that take no time, 32 side by
  side): of the driver, the ledger's flushes included; beside it of Ray's own processes on the head, all but workers;
- a proposal by each sampler at the end of a search of eight trials a slot, with a trial on every slot;
- a flush of the ledger, by the parts that it writes anew.

Simulated, with the search's own decisions and simulator: asha-promote over trials of up to 27 epochs. Results and
proposals are then served one after another by a driver that takes as long as was measured; a result's wait is what its
slot idles. A promoted trial is a new one to Tune and pays its start again. Every proposal is charged as the last of the
search, which costs most. "saturated": the driver is busy all the time, or results wait for longer than slots train; in
the simulation they come all the same, so how long they wait then means nothing.
"""

from __future__ import annotations

import argparse
import os
import random
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import timedelta
from pathlib import Path

import psutil
from ledger import epoch_record, trial_record

from ensemble_tune.trial import Checkpoint, EpochResult, Params
from ensemble_tune.tune.decisions import Decisions, Goal
from ensemble_tune.tune.ledger import Ledger
from ensemble_tune.tune.record import EpochRecord, Objective, Status, TrialRecord
from ensemble_tune.tune.resources import Resources
from ensemble_tune.tune.sampler import make_sampler
from ensemble_tune.tune.scheduler import make_scheduler
from ensemble_tune.tune.search import Search
from ensemble_tune.tune.search_space import SearchSpace
from ensemble_tune.tune.simulator import BEGIN, simulate
from ensemble_tune.tune.workers import Workers

EPOCHS, MEASURED_SLOTS, TRIALS_A_SLOT = 27, 32, 8
EPOCH_SECONDS = (1.0, 10.0, 60.0)
GPUS_A_MACHINE, LOST_AN_HOUR = 4, 0.05
"""Of a spot cluster: how many GPUs go with a machine, and the share of machines that is taken back in an hour."""
DEAD_SECONDS = 31.0
"""From the kill of a host's every process to the first epoch that one of its trials ended elsewhere, as
tests/cluster/test_hosts.py prints it (-s): 11 and 31 s, three hosts on two cores that much else ran on, epochs of 2 s.
A host that falls silent is given up later, after health checks of Ray's that it missed: not measured."""
EPOCHS_A_PART, TRIALS_A_PART = 64, 256
"""How many trials' rows a part of the ledger's two tables holds."""
SPACE = SearchSpace.parse("""
[parameters]
learning_rate = { low = 1e-4, high = 1.0, log = true }
momentum = { low = 0.1, high = 0.99 }
width = { low = 8, high = 512, log = true }
kind = { choices = ["plain", "dilated", "depthwise"] }
""")
SAMPLERS = ("random", "tpe")


def main() -> None:
    """Prints what was measured, then a row a size, sampler and epoch."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("slots", type=int, nargs="*", default=[32, 100, 1_000])
    parser.add_argument("--dead", type=float, default=DEAD_SECONDS, help="seconds until a dead host's trials go on")
    given = parser.parse_args()
    driver, head = driver_costs()
    print(f"measured with {MEASURED_SLOTS} slots, CPU ms   a result  a trial's start")
    for who, cost in (("the driver", driver), ("Ray's processes on the head", head)):
        print(f"{who:37}  {cost.result * 1e3:8.2f}  {cost.start * 1e3:15.1f}", flush=True)
    flush_costs(given.slots)
    proposals = {}
    for slots in given.slots:
        for sampler in SAMPLERS:
            cost_of = proposals[sampler, slots] = proposal(sampler, TRIALS_A_SLOT * slots, slots)
            trials = TRIALS_A_SLOT * slots
            print(
                f"a proposal by {sampler} after {trials:,} trials, {slots:,} running: {cost_of * 1e3:.2f} ms",
                flush=True,
            )
    dead(given.dead)
    print("slots  trials  sampler  epoch s  results/s  driver busy  slots idle for it  saturated from slots")
    for slots in given.slots:
        events = search(slots)
        for sampler in SAMPLERS:
            for epoch in EPOCH_SECONDS:
                print(row(slots, sampler, epoch, events, driver, proposals[sampler, slots]), flush=True)


@dataclass(frozen=True)
class Cost:
    """CPU seconds."""

    result: float
    start: float
    """Of a trial, beside its results."""


def driver_costs() -> tuple[Cost, Cost]:
    """Of the driver, and of what Ray runs beside it on the head."""
    took: dict[tuple[int, int], tuple[float, float]] = {}
    workers = Workers(Resources(cpus=len(os.sched_getaffinity(0)) / MEASURED_SLOTS, gpus=0))
    with tempfile.TemporaryDirectory() as folder, workers:
        for epochs, trials in ((1, MEASURED_SLOTS), (1, 160), (26, 160)):  # the first brings the workers up
            points = [{"epochs": epochs, "seed": number} for number in range(trials)]
            out = Path(folder) / f"{epochs}-{trials}"
            whole = Search(
                trial=at_once, metric="score", keep=1, out=out, max_epochs=epochs, points=points, workers=workers
            )
            driver, head = time.process_time(), head_seconds()
            whole.run()
            after = head_seconds()
            grown = sum(seconds - head.get(pid, 0.0) for pid, seconds in after.items())
            took[epochs, trials] = time.process_time() - driver, grown
    few, many = took[1, 160], took[26, 160]
    results = [(many[who] - few[who]) / (25 * 160) for who in (0, 1)]
    return Cost(results[0], few[0] / 160 - results[0]), Cost(results[1], few[1] / 160 - results[1])


def head_seconds() -> dict[int, float]:
    """CPU seconds of each of Ray's processes that this one has started, workers left out, by process."""
    found = {}
    for process in psutil.Process().children(recursive=True):
        try:
            words = process.cmdline()
            if words and not words[0].startswith("ray::") and not any("default_worker" in word for word in words):
                times = process.cpu_times()
                found[process.pid] = times.user + times.system
        except psutil.Error:
            """It has ended."""
    return found


def at_once(params: Params, resume: Checkpoint | None) -> Iterator[EpochResult]:
    for epoch in range(resume.epoch + 1 if resume else 1, int(params["epochs"]) + 1):
        yield EpochResult(epoch=epoch, scores={"score": 1.0})


def flush_costs(sizes: list[int]) -> None:
    """Prints what it costs to write a part of each table anew, and a flush that writes all parts of a search."""
    parts, seconds = 16, {}
    with tempfile.TemporaryDirectory() as folder:
        ledger = Ledger(Path(folder) / "ledger")
        ledger.open()
        for number in range(parts * TRIALS_A_PART):
            record = trial_record(number)
            for epoch in range(1, EPOCHS + 1):
                if number < parts * EPOCHS_A_PART:
                    ledger.put_epoch(epoch_record(number, epoch))
                record = record.with_epoch(epoch_record(number, epoch), "miou", "max", "best")
            ledger.put_trial(record)
        ledger.flush()

        def flush(put: Callable[[int], None], size: int, count: int) -> float:
            """CPU seconds of a flush after one row of each of so many parts has changed; the median of nine."""
            took = []
            for _ in range(9):
                for part in range(count):
                    put(part * size)
                began = time.process_time()
                ledger.flush()
                took.append(time.process_time() - began)
            return statistics.median(took)

        for table, size, rows, put in (
            ("epochs", EPOCHS_A_PART, EPOCHS_A_PART * EPOCHS, lambda number: ledger.put_epoch(epoch_record(number, 1))),
            ("trials", TRIALS_A_PART, TRIALS_A_PART, lambda number: ledger.put_trial(trial_record(number))),
        ):
            # What a flush costs beside its parts falls out of the difference.
            seconds[table] = (flush(put, size, parts) - flush(put, size, 1)) / (parts - 1)
            each = seconds[table] / rows * 1e6
            print(f"a part of the ledger's {table}, {rows:,} rows: {seconds[table] * 1e3:.2f} ms, {each:.2f} us a row")
        ledger.close()
    for slots in sizes:
        trials = TRIALS_A_SLOT * slots
        counts = {"epochs": -(-trials // EPOCHS_A_PART), "trials": -(-trials // TRIALS_A_PART)}
        whole = sum(counts[table] * seconds[table] for table in counts)
        print(f"a flush of all {sum(counts.values()):,} parts of {trials:,} trials: {whole * 1e3:.0f} ms", flush=True)


def proposal(sampler: str, before: int, slots: int) -> float:
    """CPU seconds of one proposal after so many trials that have ended and one on each slot; the median of twenty."""
    objectives = [Objective("score")]
    asked = make_sampler(sampler, SPACE, seed=0, objectives=objectives)
    drawn = make_sampler("random", SPACE, seed=0, objectives=objectives)
    for number in range(before):
        epochs = 1 if number % 3 else EPOCHS
        record = replace(
            trial_record(number), params=drawn.propose(number), epochs=epochs, score=random.Random(number).random()
        )
        if number < before - slots:
            record = replace(record, status=Status.FINISHED if epochs == EPOCHS else Status.PAUSED)
        asked.observe(record, {epochs: record.score or 0.0})
    took = []
    for number in range(before, before + 20):
        began = time.process_time()
        asked.propose(number)
        took.append(time.process_time() - began)
    return statistics.median(took)


def dead(seconds: float) -> None:
    """Prints what dying machines cost: the same share of the GPUs' time however many they are."""
    print(
        f"a machine that dies costs each of its {GPUS_A_MACHINE} GPUs half an epoch and {seconds:g} s; where "
        f"{100 * LOST_AN_HOUR:g}% of the machines die in an hour, of all GPU time "
        f"{LOST_AN_HOUR:g} x (epoch / 2 + {seconds:g} s) / 3600 s: "
        + ", ".join(
            f"{100 * LOST_AN_HOUR * (epoch / 2 + seconds) / 3600:.2f}% at {epoch:g} s" for epoch in EPOCH_SECONDS
        )
    )


@dataclass(frozen=True)
class Event:
    """A result, as it comes to the driver."""

    at: float
    """In epochs' times since the search began."""
    proposed: bool
    """Whether it is the first of a trial, which was proposed and started for it."""
    started: bool
    """Whether it is the first of an attempt: a trial, or one that was promoted."""


def search(slots: int) -> list[Event]:
    """The results of a simulated search of eight trials a slot whose epochs take 1 s; another time stretches it."""
    decisions = Decisions(
        Goal(stage="base", metric="score", keep=10, sampler="random"),
        # Who proposes does not change how many results come, and when.
        sampler=make_sampler("random", SPACE, seed=0, objectives=[Objective("score")]),
        scheduler=make_scheduler("asha-promote", max_epochs=EPOCHS, mode="max"),
        trials=TRIALS_A_SLOT * slots,
    )
    events: list[Event] = []
    attempts: set[tuple[int, int]] = set()

    def note(record: EpochRecord) -> None:
        started = (record.number, record.attempt) not in attempts
        attempts.add((record.number, record.attempt))
        events.append(Event((record.reported - BEGIN) / timedelta(seconds=1), record.epoch == 1, started))

    simulate(decisions, curve, slots=slots, on_epoch=note)
    return events


def row(slots: int, sampler: str, epoch: float, events: list[Event], driver: Cost, proposed: float) -> str:
    """One driver serves all results, one after another."""
    free, waited, served = 0.0, 0.0, 0.0
    for event in events:
        takes = driver.result + driver.start * event.started + proposed * event.proposed
        begins = max(free, event.at * epoch)
        free, waited, served = begins + takes, waited + begins + takes - event.at * epoch, served + takes
    seconds = events[-1].at * epoch
    busy = served / seconds
    idles = waited / (seconds * slots)
    idle = "saturated" if max(busy, idles) >= 1 else f"{100 * idles:.2f}%"
    return (
        f"{slots:5,}  {TRIALS_A_SLOT * slots:6,}  {sampler:7}  {epoch:7g}  {len(events) / seconds:9.1f}"
        f"  {100 * busy:10.1f}%  {idle:>17}  {slots / busy:20,.0f}"
    )


def curve(record: TrialRecord) -> Iterator[tuple[Mapping[str, float], float]]:
    """Rises with noise; an epoch takes a second, give or take half."""
    chance = random.Random(record.seed)
    worth, seconds = chance.random(), 0.5 + chance.random()
    for number in range(record.epochs + 1, EPOCHS + 1):
        yield {"score": worth * (1 - 0.7 * 0.8**number)}, seconds


if __name__ == "__main__":
    main()
