"""How well many slots are kept busy: trials that sleep on a logical cluster of 1 to 32 slots, time against the ideal.

python benchmarks/slots.py [ROUNDS]

Each slot gets four trials of five epochs of a second. Workers are up before, all of them: their start is timed beside
it, Ray's own included, and on this machine they share its cores, as on no real cluster of that size.
"""

from __future__ import annotations

import os
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from ensemble_tune.trial import Checkpoint, EpochResult, Params
from ensemble_tune.tune.resources import Resources
from ensemble_tune.tune.search import Search
from ensemble_tune.tune.workers import Workers

EPOCHS, SECONDS, TRIALS_A_SLOT = 5, 1.0, 4


def main(rounds: int) -> None:
    """Prints a row a size."""
    print("slots  ideal s  took s (median, least, most)  share of the ideal (median)  workers up in s")
    for slots in (1, 2, 4, 8, 16, 32):
        took, up = [], []
        for _ in range(rounds):
            workers = Workers(Resources(cpus=len(os.sched_getaffinity(0)) / slots, gpus=0))
            with tempfile.TemporaryDirectory() as folder, workers:
                up.append(run(workers, Path(folder) / "first", slots, epochs=0))
                took.append(run(workers, Path(folder) / "second", slots * TRIALS_A_SLOT, EPOCHS))
        ideal = EPOCHS * SECONDS * TRIALS_A_SLOT
        print(
            f"{slots:5}  {ideal:7.1f}  {statistics.median(took):6.1f} ({min(took):.1f}, {max(took):.1f})"
            f"  {100 * ideal / statistics.median(took):.1f}%  {statistics.median(up):.1f}",
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
