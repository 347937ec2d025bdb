"""What the search adds to training: wall time of a search against the bare training loop of the same trials.

python benchmarks/search_overhead.py CAMVID [ROUNDS]

Three U-Nets a core of two epochs at 96x128, 20 s and more each, one thread a trial, one trial a core.
The bare loop is one process a core that trains its share of them, trial after trial, without search or checkpoints.
From the search's ledger come the share of a step that waits for its batch, and what a second trial of a worker needs
before its first step. Frames are decoded before.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from datetime import timedelta
from itertools import pairwise
from pathlib import Path

from ensemble_tune.ensemble.base_trial import BaseTrial
from ensemble_tune.ensemble.config import BaseConfig
from ensemble_tune.settings import METRIC, Settings
from ensemble_tune.trial import Value
from ensemble_tune.tune.ledger import LEDGER, Ledger
from ensemble_tune.tune.record import EpochRecord
from ensemble_tune.tune.search import Search

CONFIG = BaseConfig(architecture="unet", size=(96, 128), epochs=2, batch_size=8)
SLOTS = len(os.sched_getaffinity(0))
TRIALS = 3 * SLOTS


def main(data: str, rounds: int) -> None:
    """Prints every round, then the medians."""
    with tempfile.TemporaryDirectory() as folder:
        cache = Path(folder) / "cache"
        frames = Settings(data=data, out=Path(folder), cache=cache).stage_data()
        frames.training(CONFIG.size)
        frames.held_out(CONFIG.size)
        ratios = []
        for number in range(rounds):
            out = Path(folder) / f"run-{number}"
            bare = seconds([["bare", data, str(cache), str(slot)] for slot in range(SLOTS)])
            searched = seconds([["search", data, str(cache), str(out)]])
            ratios.append(searched / bare)
            print(f"round {number + 1}  bare {bare:.1f} s  search {searched:.1f} s  ratio {ratios[-1]:.3f}")
            tell(Ledger(out / LEDGER).epochs())
    print(f"search over bare loop: median {statistics.median(ratios):.3f} ({min(ratios):.3f}, {max(ratios):.3f})")


def seconds(commands: list[list[str]]) -> float:
    """Wall time of whole processes side by side."""
    started = time.perf_counter()
    running = [subprocess.Popen([sys.executable, __file__, *words], stdout=subprocess.DEVNULL) for words in commands]
    if any(process.wait() for process in running):
        raise SystemExit("a process failed")
    return time.perf_counter() - started


def tell(rows: list[EpochRecord]) -> None:
    """What the ledger says of a step's wait and of a worker's second trial."""
    load, train = (sum(row.seconds[part] for row in rows) for part in ("load", "train"))
    by_worker: dict[str, list[EpochRecord]] = defaultdict(list)
    for row in sorted(rows, key=lambda row: row.reported):
        by_worker[row.worker].append(row)
    gaps = []
    for own in by_worker.values():
        for before, after in pairwise(own):
            if before.trial != after.trial:
                in_epoch = sum(after.seconds[part] for part in ("load", "train", "evaluate"))
                first_step = after.reported - timedelta(seconds=in_epoch)
                gaps.append((first_step - before.reported).total_seconds() - before.seconds["checkpoint"])
    print(
        f"  a step waits for its batch {100 * load / (load + train):.2f}% of its time; a worker's next trial, from "
        f"the end of the one before to its first step: median {statistics.median(gaps):.2f} s, most {max(gaps):.2f} s; "
        f"workers start in {max(row.seconds.get('start', 0.0) for row in rows):.1f} s"
    )


def points() -> list[dict[str, Value]]:
    return [{**CONFIG.to_params(), "seed": number} for number in range(TRIALS)]


def bare(data: str, cache: str, slot: int) -> None:
    trial = BaseTrial(data=Settings(data=data, out=Path(), cache=Path(cache)).stage_data())
    for point in points()[slot::SLOTS]:
        for _ in trial(point, None):
            pass


def search(data: str, cache: str, out: str) -> None:
    settings = Settings(data=data, out=Path(out), cache=Path(cache))
    Search(
        trial=BaseTrial(data=settings.stage_data()),
        metric=METRIC,
        stage="base",
        keep=TRIALS,
        out=settings.out,
        max_epochs=CONFIG.epochs,
        points=points(),
        workers=settings.workers,
    ).run()


if __name__ == "__main__":
    if sys.argv[1] == "bare":
        bare(sys.argv[2], sys.argv[3], int(sys.argv[4]))
    elif sys.argv[1] == "search":
        search(sys.argv[2], sys.argv[3], sys.argv[4])
    else:
        main(sys.argv[1], int(sys.argv[2]) if len(sys.argv) > 2 else 3)
