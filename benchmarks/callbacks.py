"""What the search's own decisions cost its driver: CPU time a trial and a result, with the ledger on disk.

python benchmarks/callbacks.py [RESULTS_A_SECOND] [TRIALS ...]

A conductor with all that a real search gives it (asha-promote, random proposals, a ledger in a folder) is told the
results of trials that do not exist, 16 at a time, as if so many came in a second; no Ray, no training. The time of
proposals is told apart: by TPE it is Optuna's, and compared with Optuna alone on the same study.
"""

from __future__ import annotations

import random
import resource
import statistics
import sys
import tempfile
import time
from collections import deque
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import TypeVar

import optuna

from ensemble_tune.tune.conductor import Assignment, Conductor
from ensemble_tune.tune.decisions import Goal
from ensemble_tune.tune.ledger import Ledger
from ensemble_tune.tune.record import EpochRecord, Status, TrialRecord
from ensemble_tune.tune.sampler import make_sampler
from ensemble_tune.tune.scheduler import Decision, make_scheduler
from ensemble_tune.tune.search_space import SearchSpace

SLOTS, EPOCHS = 16, 27
GOAL = Goal(stage="base", metric="miou", keep=12, sampler="random")
SCORES = ("loss", "train_loss", "small_miou", *(f"iou.class-{number}" for number in range(11)))
T = TypeVar("T")


class Stopwatch:
    """Adds up CPU time by what it is spent on."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    def time(self, name: str, call: Callable[[], T]) -> T:
        """What the call returns."""
        started = time.process_time()
        try:
            return call()
        finally:
            self.seconds[name] = self.seconds.get(name, 0.0) + time.process_time() - started


def main(rate: float, sizes: list[int]) -> None:
    """Prints a row a size, then the proposals."""
    print(f"{rate:g} results a second  CPU ms a trial  CPU ms a result, ledger included  most memory, MiB")
    for trials in sizes:
        found = [search(trials, rate) for _ in range(3)]
        a_trial, a_result = (sorted(each[place] for each in found) for place in (0, 1))
        memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        print(
            f"{trials:6} trials  {statistics.median(a_trial):.3f} ({a_trial[0]:.3f}, {a_trial[-1]:.3f})  "
            f"{statistics.median(a_result):.3f} ({a_result[0]:.3f}, {a_result[-1]:.3f})  {memory:.0f}",
            flush=True,
        )
    print("a TPE proposal, ms: ours, Optuna's ask of the same study, ratio")
    for trials in (10, 100, 1000):
        ours, bare = proposals(trials)
        print(f"{trials:6} trials  {1000 * ours:.2f}  {1000 * bare:.2f}  {ours / bare:.2f}", flush=True)


def search(trials: int, rate: float) -> tuple[float, float]:
    """CPU milliseconds a trial, without its proposal, and a result."""
    watch = Stopwatch()
    chance = random.Random(0)
    clock = [0.0]
    space = SearchSpace.load("base")
    sampler = make_sampler("random", space, seed=0, objectives=GOAL.objectives)
    propose, spent = sampler.propose, Stopwatch()
    sampler.propose = lambda number: spent.time("propose", lambda: propose(number))  # type: ignore[method-assign]
    with tempfile.TemporaryDirectory() as folder:
        # The ledger's own time passes too, or it would not know what it takes.
        ledger = Ledger(Path(folder) / "ledger", clock=lambda: clock[0] + time.process_time())
        ledger.open()
        conductor = Conductor(
            GOAL,
            sampler=sampler,
            scheduler=make_scheduler("asha-promote", max_epochs=EPOCHS, mode="max"),
            ledger=ledger,
            checkpoints=Path(folder) / "checkpoints",
            trials=trials,
        )
        running: deque[tuple[Assignment, int]] = deque()
        results = 0
        while True:
            while len(running) < SLOTS and (given := watch.time("trial", conductor.next)) is not None:
                running.append((given, given.record.epochs))
            if not running:
                break
            assignment, done = running.popleft()
            row = epoch_row(assignment.record, done + 1, chance)
            results += 1
            decision = watch.time("result", lambda row=row: conductor.epoch(row))  # type: ignore[misc]
            watch.time("result", conductor.look)
            clock[0] += 1 / rate
            if decision is Decision.GO_ON and done + 1 < EPOCHS:
                running.append((assignment, done + 1))
            else:
                watch.time("trial", lambda name=assignment.trial: conductor.ended(name))  # type: ignore[misc]
        watch.time("result", conductor.close)
        ledger.close()
        assert all(record.status in (Status.FINISHED, Status.STOPPED) for record in conductor.records())
    a_trial = watch.seconds["trial"] - spent.seconds["propose"]
    return 1000 * a_trial / trials, 1000 * watch.seconds["result"] / results


def epoch_row(record: TrialRecord, epoch: int, chance: random.Random) -> EpochRecord:
    """A result as a base trial's."""
    score = 0.5 * random.Random(record.seed).random() + 0.3 * (1 - 1 / epoch) + 0.02 * chance.random()
    return EpochRecord(
        trial=record.trial,
        stage=record.stage,
        number=record.number,
        attempt=1,
        epoch=epoch,
        scores={"miou": score, **dict.fromkeys(SCORES, score)},
        seconds={"load": 0.1, "train": 20.0, "evaluate": 2.0, "predict": 0.0, "checkpoint": 0.2, "other": 0.0},
        reported=datetime.now(UTC),
        worker=f"host/{record.number % SLOTS}",
    )


def proposals(trials: int) -> tuple[float, float]:
    """Seconds of CPU of a proposal after so many trials: ours, and Optuna's ask and the same draws."""
    space = SearchSpace.load("base")
    sampler = make_sampler("tpe", space, seed=0, objectives=GOAL.objectives)
    bare = optuna.create_study(
        direction="maximize",
        sampler=optuna.samplers.TPESampler(seed=0, multivariate=True, group=True, constant_liar=True),
    )
    began = datetime(2026, 1, 1, tzinfo=UTC)
    for number in range(trials):
        score = random.Random(number).random()
        params = sampler.propose(number)
        record = TrialRecord(
            trial=f"base-{number:04d}", stage="base", number=number, status=Status.FINISHED, params=params, seed=0,
            started=began, ended=began, epochs=1, best_epoch=1, score=score, scores={"miou": score},
        )  # fmt: skip
        sampler.observe(record, {1: score})
        trial = bare.ask()
        space.draw(trial)  # type: ignore[arg-type]
        bare.tell(trial, score)
    ours, alone = Stopwatch(), Stopwatch()
    for more in range(10):
        ours.time("ask", lambda more=more: sampler.propose(trials + more))  # type: ignore[misc]
        alone.time("ask", lambda: space.draw(bare.ask()))  # type: ignore[arg-type]
    return ours.seconds["ask"] / 10, alone.seconds["ask"] / 10


if __name__ == "__main__":
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    main(
        float(sys.argv[1]) if len(sys.argv) > 1 else 100.0, [int(word) for word in sys.argv[2:]] or [100, 1000, 10_000]
    )
