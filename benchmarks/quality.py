"""How well sampler and scheduler spend a budget: regret on LCBench's learning curves, in the simulator.

python benchmarks/quality.py LCBENCH [--set main|grid|rungs|more|gp|base] [--tasks 20] [--seeds 10] [--processes 2]

A search has 4 slots and as many epochs as 30 full trainings of 52 epochs; an epoch takes one virtual second. It is
worth the best score of any epoch so far. Regret is the distance to the best score known of the task (from 2,000 random
full trainings and all runs here), in units of that score minus the median of the random trainings: 0 is the best, 1
a random configuration. It is averaged over seeds, then over tasks, with a 95% interval from a bootstrap over tasks.
Apart: the regret at the full budget less the default's, task by task, with its interval. Faster: how many times fewer
epochs than random search without early stopping it takes to reach what the best 10% of random full trainings reach,
the mean over seeds for each task, then the median over tasks with its interval. A run that never got there counts with
its whole budget, which flatters random search.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import statistics
import time
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from lcbench import EPOCHS, METRIC, SPACE, TASKS, Reference, Task, epochs_to, interval, score_after

from ensemble_tune.tune.budget import Budget, Meter
from ensemble_tune.tune.decisions import Decisions, Goal
from ensemble_tune.tune.sampler import make_sampler
from ensemble_tune.tune.scheduler import make_scheduler
from ensemble_tune.tune.simulator import Find, simulate

SLOTS = 4
BUDGET = 30 * EPOCHS


@dataclass(frozen=True, slots=True)
class Method:
    """A sampler and a scheduler with its settings."""

    sampler: str
    scheduler: str = "none"
    grace: int | None = None
    factor: int = 3

    def __str__(self) -> str:
        settings = "" if self.scheduler == "none" else f" {self.grace or 'auto'}/{self.factor}"
        return f"{self.sampler} {self.scheduler}{settings}"


BASELINE = Method("random")
DEFAULT = Method("random", "asha-promote", 2)
SETS = {
    "main": [
        Method(sampler, scheduler, *(() if scheduler == "none" else (2, 3)))
        for sampler in ("random", "tpe")
        for scheduler in ("none", "asha", "asha-promote")
    ],
    "grid": [BASELINE]
    + [
        Method(sampler, scheduler, grace, factor)
        for sampler in ("random", "tpe")
        for scheduler in ("asha", "asha-promote")
        for grace in (1, 2, 6)
        for factor in (3, 4)
    ],
    "rungs": [BASELINE]
    + [
        Method(sampler, "asha-promote", grace, factor)
        for sampler in ("random", "qmc", "tpe")
        for grace, factor in ((2, 2), (3, 2), (2, 3), (3, 3), (4, 3), (2, 4), (4, 4))
    ],
    "more": [BASELINE, DEFAULT]
    + [Method(name, "median", 6) for name in ("random", "tpe")]
    + [method for name in ("qmc", "gp") for method in (Method(name), Method(name, "asha-promote", 6))],
    # A proposal takes 0.3 s and more: minutes a search.
    "gp": [BASELINE, DEFAULT, *(Method(name, "asha-promote", grace) for name in ("tpe", "gp") for grace in (2, 6))],
    # The first rung at 40%, and every second goes on.
    "base": [BASELINE, DEFAULT, *(Method(name, "asha-promote", 21, 2) for name in ("random", "gp"))],
}
"""What is compared: the table, how its rungs were chosen, more of that, further samplers and schedulers, the slow
Gaussian process where it matters, and both with the scheduler that base models have."""

Run = tuple[list[Find], int]
"""What a search found, and how many trials it began."""
Runs = dict[tuple[Method | str, int], Run]
"""One task's searches by method and seed."""


def search(task: Task, method: Method, seed: int) -> Run:
    """One search in the simulator."""
    goal = Goal(stage="base", metric=METRIC, keep=1, sampler=method.sampler, seed=seed)
    decisions = Decisions(
        goal,
        sampler=make_sampler(method.sampler, SPACE, seed=seed, objectives=goal.objectives),
        scheduler=make_scheduler(
            method.scheduler, max_epochs=EPOCHS, mode="max", grace=method.grace, factor=method.factor
        ),
        trials=BUDGET,
        # Half a second more: the epochs that end with the budget count.
        budget=Budget(hours=(BUDGET / SLOTS + 0.5) / 3600),
        meter=Meter(since=0.0, places=SLOTS),
    )
    done = simulate(decisions, task.curve, slots=SLOTS)
    return done.finds, len(done.records)


def of_task(job: tuple[Path, str, int, list[Method]]) -> tuple[str, Reference, Runs, float]:
    """All searches of one task; the seconds of CPU that they took."""
    folder, name, seeds, methods = job
    began = time.process_time()
    task = Task(folder, name)
    reference = Reference.measure(task)
    runs: Runs = {(method, seed): search(task, method, seed) for seed in range(seeds) for method in methods}
    return name, with_best(reference, runs), runs, time.process_time() - began


def with_best(reference: Reference, runs: Runs) -> Reference:
    """The reference, if no run found better."""
    return replace(reference, best=max(reference.best, *(score_after(finds, BUDGET) for finds, _ in runs.values())))


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("--set", choices=SETS, default="main")
    parser.add_argument("--tasks", type=int, default=len(TASKS))
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--processes", type=int, default=2)
    options = parser.parse_args()
    methods = SETS[options.set]
    os.environ["OMP_NUM_THREADS"] = "1"  # of each process
    jobs = [(options.folder, task, options.seeds, methods) for task in TASKS[: options.tasks]]
    began = time.perf_counter()
    with multiprocessing.get_context("spawn").Pool(options.processes) as pool:
        results = []
        for result in pool.imap_unordered(of_task, jobs):
            results.append(result)
            print(f"task {result[0]} in {result[3]:.0f} s of CPU", flush=True)
    print(f"{len(jobs)} tasks x {options.seeds} seeds in {time.perf_counter() - began:.0f} s\n")
    show(methods, [(reference, runs) for _, reference, runs, _ in results])


def show(methods: Sequence[Method | str], results: Sequence[tuple[Reference, Runs]]) -> None:
    """Prints a line a method; each result is a task's."""
    titles = ("", "regret at 1/4", "1/2", "the full budget", "apart", "faster", "trials")
    print("{:25}{:>22}{:>22}{:>22}{:>24}{:>16}{:>7}".format(*titles))
    for method in methods:
        regrets: dict[int, list[float]] = defaultdict(list)
        apart, faster, trials = [], [], []
        for reference, runs in results:
            own, base, default = (
                [run for (other, _), run in runs.items() if other == each] for each in (method, BASELINE, DEFAULT)
            )
            for part in (4, 2, 1):
                regrets[part].append(_regret(reference, own, BUDGET // part))
            apart.append(regrets[1][-1] - _regret(reference, default, BUDGET))
            faster.append(_epochs(reference, base) / _epochs(reference, own))
            trials += [count for _, count in own]
        cells = ["{:.3f} ({:.3f}, {:.3f})".format(*interval(regrets[part])) for part in (4, 2, 1)]
        cells.append("{:+.3f} ({:+.3f}, {:+.3f})".format(*interval(apart)))
        cells.append("{:.1f} ({:.1f}, {:.1f})".format(*interval(faster, median=True)))
        cells.append(f"{statistics.median(trials):.0f}")
        print("{:25}{:>22}{:>22}{:>22}{:>24}{:>16}{:>7}".format(str(method), *cells))


def _regret(reference: Reference, runs: Sequence[Run], epochs: int) -> float:
    """The mean over seeds."""
    return statistics.fmean(reference.regret(score_after(finds, epochs)) for finds, _ in runs)


def _epochs(reference: Reference, runs: Sequence[Run]) -> float:
    """To the target, the mean over seeds."""
    return statistics.fmean(epochs_to(finds, reference.top_tenth, BUDGET) for finds, _ in runs)


if __name__ == "__main__":
    main()
