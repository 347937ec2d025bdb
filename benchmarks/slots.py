"""How well many slots are kept busy: trials that sleep on a logical cluster of 1 to 32 slots, time against the ideal.

python benchmarks/slots.py [ROUNDS]

Each slot gets four trials of five epochs of a second. Workers are up before, all of them: their start is timed beside
it, Ray's own included, and on this machine they share its cores, as on no real cluster of that size. Beside it stands
the mean gap between a slot's trials, by the ledger: from the last epoch of one to the first step of the next.
"""

from __future__ import annotations

import os
import statistics
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

from ensemble_tune.trial import Checkpoint, EpochResult, Params
from ensemble_tune.tune.ledger import LEDGER, Ledger
from ensemble_tune.tune.record import EpochRecord
from ensemble_tune.tune.resources import Resources
from ensemble_tune.tune.search import Search
from ensemble_tune.tune.workers import Workers

EPOCHS, SECONDS, TRIALS_A_SLOT = 5, 1.0, 4


def main(rounds: int) -> None:
    """Prints a row a size."""
    print(
        "slots  ideal s  took s (median, least, most)  share of the ideal (median)  workers up in s  "
        "gap between trials s (median, least, most)"
    )
    for slots in (1, 2, 4, 8, 16, 32):
        took, up, gaps = [], [], []
        for _ in range(rounds):
            workers = Workers(Resources(cpus=len(os.sched_getaffinity(0)) / slots, gpus=0))
            with tempfile.TemporaryDirectory() as folder, workers:
                up.append(run(workers, Path(folder) / "first", slots, epochs=0))
                took.append(run(workers, Path(folder) / "second", slots * TRIALS_A_SLOT, EPOCHS))
                gaps.append(mean_gap(Ledger(Path(folder) / "second" / LEDGER).epochs()))
        ideal = EPOCHS * SECONDS * TRIALS_A_SLOT
        print(
            f"{slots:5}  {ideal:7.1f}  {statistics.median(took):6.1f} ({min(took):.1f}, {max(took):.1f})"
            f"  {100 * ideal / statistics.median(took):.1f}%  {statistics.median(up):.1f}"
            f"  {statistics.median(gaps):.3f} ({min(gaps):.3f}, {max(gaps):.3f})",
            flush=True,
        )


def run(workers: Workers, out: Path, trials: int, epochs: int) -> float:
    """Seconds of a search of sleeping trials."""
    started = time.perf_counter()
    Search(
        trial=sleeping if epochs else Meeting(out, trials),
        metric="score",
        keep=1,
        out=out,
        max_epochs=max(1, epochs),
        points=[{"epochs": epochs, "seed": number} for number in range(trials)],
        workers=workers,
    ).run()
    return time.perf_counter() - started


def mean_gap(rows: list[EpochRecord]) -> float:
    """Seconds from a worker's last epoch of a trial to its first step of the next, on average."""
    by_worker: dict[str, list[EpochRecord]] = defaultdict(list)
    for row in sorted(rows, key=lambda row: row.reported):
        by_worker[row.worker].append(row)
    return statistics.fmean(
        (after.reported - before.reported).total_seconds() - after.seconds["train"]
        for own in by_worker.values()
        for before, after in pairwise(own)
        if before.trial != after.trial
    )


@dataclass(frozen=True)
class Meeting:
    """A trial that ends when as many as there are slots have begun, each in a worker of its own."""

    folder: Path
    slots: int

    def __call__(self, params: Params, resume: Checkpoint | None) -> Iterator[EpochResult]:
        """Waits for the others."""
        (self.folder / f"here-{params['seed']}").touch()
        while sum(1 for _ in self.folder.glob("here-*")) < self.slots:
            time.sleep(0.05)
        yield EpochResult(epoch=1, scores={"score": 1.0})


def sleeping(params: Params, resume: Checkpoint | None) -> Iterator[EpochResult]:
    for epoch in range(1, int(params["epochs"]) + 1):
        time.sleep(SECONDS)
        yield EpochResult(epoch=epoch, scores={"score": 1.0}, seconds={"train": SECONDS})


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 3)
