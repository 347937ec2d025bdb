"""What the search adds to training: wall time of a search against the bare training loop of the same trials.

python benchmarks/search_overhead.py CAMVID [--trials 6] [--rounds 3]

U-Nets of two epochs at 96x128, 20 s and more each, one thread a trial, one trial a core; 30 of them show what is left
of a search's fixed part in a longer one. The bare loop is one process a core that trains its share of them, trial after
trial, without search or checkpoints. Both sides tell the seconds in which they loaded, trained and evaluated; so what
training itself lost beside the search stands apart from what the search adds once. From the search's ledger come the
share of a step that waits for its batch, and what a second trial of a worker needs before its first step. What Ray's
and Tune's own processes take of the cores meanwhile is read off the system's clocks. Frames are decoded before.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections import defaultdict
from contextlib import suppress
from datetime import timedelta
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING

import psutil

from ensemble_tune.ensemble.base_trial import BaseTrial
from ensemble_tune.ensemble.config import BaseConfig
from ensemble_tune.ensemble.stage_data import StageData
from ensemble_tune.trial import Value

if TYPE_CHECKING:  # the bare loop shall import nothing of a search
    from ensemble_tune.tune.record import EpochRecord

CONFIG = BaseConfig(architecture="unet", size=(96, 128), epochs=2, batch_size=8)
SLOTS = len(os.sched_getaffinity(0))
PARTS = ("load", "train", "evaluate")
_STARTED_SECONDS = 25.0
"""By then the first trials train."""


def main(data: str, trials: int, rounds: int) -> None:
    """Prints every round, then the medians."""
    from ensemble_tune.tune.ledger import LEDGER, Ledger

    with tempfile.TemporaryDirectory() as folder:
        cache = Path(folder) / "cache"
        frames = StageData(data=data, cache=cache)
        frames.training(CONFIG.size)
        frames.held_out(CONFIG.size)
        ratios, slowed, fixed = [], [], []
        for number in range(rounds):
            out = Path(folder) / f"run-{number}"
            bare, said, _ = seconds([["bare", data, str(cache), str(trials), str(slot)] for slot in range(SLOTS)])
            searched, _, beside_workers = seconds([["search", data, str(cache), str(trials), str(out)]])
            rows = Ledger(out / LEDGER).epochs()
            alone = sum(json.loads(line) for line in said)
            beside = sum(row.seconds[part] for row in rows for part in PARTS)
            ratios.append(searched / bare)
            slowed.append(100 * (beside / alone - 1))
            fixed.append(searched - bare - (beside - alone) / SLOTS)
            print(
                f"round {number + 1}  bare {bare:.1f} s  search {searched:.1f} s  ratio {ratios[-1]:.3f}  "
                f"training slowed by {slowed[-1]:.1f}%  the rest {fixed[-1]:.1f} s"
            )
            tell(rows)
            print(f"  beside its workers, once they train, the search takes {beside_workers:.1f}% of a core")
    for name, own in (("search over bare loop", ratios), ("training slowed, %", slowed), ("the rest, s", fixed)):
        print(f"{name}: median {statistics.median(own):.3f} ({min(own):.3f}, {max(own):.3f}), {trials} trials")


def seconds(commands: list[list[str]]) -> tuple[float, list[str], float]:
    """Wall time of whole processes side by side, the last line of each, and `Beside.share` of the first."""
    started = time.perf_counter()
    running = [
        subprocess.Popen([sys.executable, __file__, *words], stdout=subprocess.PIPE, text=True) for words in commands
    ]
    beside = Beside(running[0].pid)
    said = [(process.communicate()[0].splitlines() or [""])[-1] for process in running]
    if any(process.returncode for process in running):
        raise SystemExit("a process failed")
    return time.perf_counter() - started, said, beside.share()


class Beside(threading.Thread):
    """Reads every few seconds how much CPU time a process and all below it have used, those that train left out."""

    def __init__(self, pid: int) -> None:
        """pid: the process; it is watched until it ends."""
        super().__init__(daemon=True)
        self._top = psutil.Process(pid)
        self._first: dict[int, float] = {}
        self._last: dict[int, float] = {}
        self._between = 0.0
        self.start()

    def run(self) -> None:
        """Until the process has ended."""
        time.sleep(_STARTED_SECONDS)
        began = time.perf_counter()
        with suppress(psutil.NoSuchProcess):
            self._first = self._used()
            while self._top.status() != psutil.STATUS_ZOMBIE:
                self._last, self._between = self._used(), time.perf_counter() - began
                time.sleep(2)

    def share(self) -> float:
        """Percent of a core from `_STARTED_SECONDS` on; 0 where the process did not live so long."""
        used = sum(seconds - self._first.get(pid, 0.0) for pid, seconds in self._last.items())
        return 100 * used / self._between if self._between else 0.0

    def _used(self) -> dict[int, float]:
        found = {}
        for process in (self._top, *self._top.children(recursive=True)):
            with suppress(psutil.NoSuchProcess):
                if not " ".join(process.cmdline()).startswith("ray::RayTrial"):
                    times = process.cpu_times()
                    found[process.pid] = times.user + times.system
        return found


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
                in_epoch = sum(after.seconds[part] for part in PARTS)
                first_step = after.reported - timedelta(seconds=in_epoch)
                gaps.append((first_step - before.reported).total_seconds() - before.seconds["checkpoint"])
    print(
        f"  a step waits for its batch {100 * load / (load + train):.2f}% of its time; a worker's next trial, from "
        f"the end of the one before to its first step: median {statistics.median(gaps):.2f} s, most {max(gaps):.2f} s; "
        f"workers start in {max(row.seconds.get('start', 0.0) for row in rows):.1f} s"
    )


def points(trials: int) -> list[dict[str, Value]]:
    return [{**CONFIG.to_params(), "seed": number} for number in range(trials)]


def bare(data: str, cache: str, trials: int, slot: int) -> None:
    trial = BaseTrial(data=StageData(data=data, cache=Path(cache)))
    results = (result for point in points(trials)[slot::SLOTS] for result in trial(point, None))
    print(sum(result.seconds[part] for result in results for part in PARTS))


def search(data: str, cache: str, trials: int, out: str) -> None:
    from ensemble_tune.settings import METRIC, Settings
    from ensemble_tune.tune.search import Search

    settings = Settings(data=data, out=Path(out), cache=Path(cache))
    Search(
        trial=BaseTrial(data=settings.stage_data()),
        metric=METRIC,
        stage="base",
        keep=trials,
        out=settings.out,
        max_epochs=CONFIG.epochs,
        points=points(trials),
        workers=settings.workers,
    ).run()


if __name__ == "__main__":
    if sys.argv[1] == "bare":
        bare(sys.argv[2], sys.argv[3], int(sys.argv[4]), int(sys.argv[5]))
    elif sys.argv[1] == "search":
        search(sys.argv[2], sys.argv[3], int(sys.argv[4]), sys.argv[5])
    else:
        parser = argparse.ArgumentParser()
        parser.add_argument("camvid")
        parser.add_argument("--trials", type=int, default=6)
        parser.add_argument("--rounds", type=int, default=3)
        asked = parser.parse_args()
        main(asked.camvid, asked.trials, asked.rounds)
