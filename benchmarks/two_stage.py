"""The two-stage search against `plain_tune.py`, a plain Ray Tune script: whole processes, in turn, never side by side.

python benchmarks/two_stage.py CAMVID [ROUNDS]

Both train the same six base models for 2 epochs, then four meta-models of the same width, learning rates and batch
sizes for 2 epochs, at 96x128 on two cores, and start from nothing: our cache of decoded frames is built within the
time. The peer's meta-models are plain stacks of convolutions; ours have residual paths and attention on top. The peer
stacks in-sample, so we do too; our out-of-fold stacking, which also trains the folds, is timed once beside it.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

HERE = Path(__file__).parent
PEER = ("96", "128", "6", "2", "4", "2", "32")
"""Height, width, base trials and epochs, meta trials and epochs, meta width."""


def main(data: str, rounds: int) -> None:
    """Prints every round, then the medians."""
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:2])  # as many as the peer asks Ray for
    seconds: dict[str, list[float]] = {"peer": [], "in-sample": [], "out-of-fold": []}
    for number in range(rounds):
        for name in seconds:
            if number and name == "out-of-fold":
                continue
            started = time.perf_counter()
            said = run(name, data)
            seconds[name].append(time.perf_counter() - started)
            print(f"round {number + 1}  {name:12} {seconds[name][-1]:6.1f} s  {said}", flush=True)
    print(f"{'':12} median  least   most   times as fast as the peer (median, least, most)")
    for name, own in seconds.items():
        ratios = [other / mine for other, mine in zip(seconds["peer"], own, strict=False)]
        print(
            f"{name:12} {statistics.median(own):6.1f} {min(own):6.1f} {max(own):6.1f}   "
            f"{statistics.median(ratios):.2f} ({min(ratios):.2f}, {max(ratios):.2f})"
        )


def run(name: str, data: str) -> str:
    """One whole process; what it said last."""
    with tempfile.TemporaryDirectory() as folder:
        ours = [str(HERE / "two_stage_search.py"), data, folder, name]
        words = [str(HERE / "plain_tune.py"), data, *PEER] if name == "peer" else ours
        ended = subprocess.run([sys.executable, *words], capture_output=True, text=True, check=True)
    return json.dumps(json.loads(ended.stdout.strip().splitlines()[-1]))


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]) if len(sys.argv) > 2 else 3)
