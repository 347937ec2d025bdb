"""What twenty minutes on two cores buy: `ensemble-tune run` against a usual Ray Tune search of single models.

python benchmarks/twenty_minutes.py CAMVID [--minutes 20] [--seeds 1] [--size 120x160] [--out FOLDER] [-- OPTION ...]

Whole processes in turn, never beside each other, on the same two cores, and each from nothing: our cache of decoded
frames is built within the time. Ours is the run's exported ensemble, with the shipped small spaces; what stands after
-- goes to `ensemble-tune run`. The peer is the mean of the best three models of `twenty_minutes_tune.py`, which says
how it searches; its best single model stands beside it. All mIoU is over one confusion matrix at the frames' full size.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import statistics
import subprocess
import sys
import tempfile
import time
import tomllib
from collections.abc import Sequence
from pathlib import Path

HERE = Path(__file__).parent
SPLITS = ("val", "test")
Scores = dict[str, float]


def main(words: Sequence[str]) -> None:
    """Prints every round, then the ratios."""
    cut = words.index("--") if "--" in words else len(words)
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("camvid")
    parser.add_argument("--minutes", type=float, default=20.0)
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--size", default="120x160")
    parser.add_argument("--out", type=Path, help="keep the runs and what the peer said here (default: keep nothing)")
    given = parser.parse_args(words[:cut])
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:2])  # as many as the peer asks Ray for
    common = ["--size", given.size, "--seed"]
    rounds: list[tuple[Scores, Scores]] = []
    print("seed  who                     minutes  val mIoU  test mIoU  small objects (test)", flush=True)
    with tempfile.TemporaryDirectory() as scratch:
        for seed in range(given.seeds):
            folder = (given.out or Path(scratch)) / f"seed-{seed}"
            folder.mkdir(parents=True)  # fails where a run is: it would go on, and be timed for less than it took
            minutes, scores = ours(given.camvid, folder, given.minutes, [*common, str(seed), *words[cut + 1 :]])
            tell(seed, "ensemble-tune run", minutes, scores)
            minutes, single, three = peer(given.camvid, folder, given.minutes, [*common, str(seed)])
            tell(seed, "peer: best single model", minutes, single)
            tell(seed, "peer: mean of best three", minutes, three)
            rounds.append((scores, three))
    for split in SPLITS:
        ratios = [theirs[split] / own[split] for own, theirs in rounds]
        print(
            f"{split}: the peer reaches {statistics.median(ratios):.2f} of ours "
            f"(median; {min(ratios):.2f} to {max(ratios):.2f} over {len(ratios)} seeds)"
        )


def ours(camvid: str, folder: Path, minutes: float, options: Sequence[str]) -> tuple[float, Scores]:
    """Minutes and scores of `ensemble-tune run`, with its run folder in `folder`."""
    run = folder / "run"
    words = ["run", "--data", camvid, "--out", str(run), "--cache", str(folder / "cache"), "--cpu"]
    words += ["--base-space", "base-small", "--meta-space", "meta-small", "--hours", str(minutes / 60), *options]
    taken, _ = timed(["-m", "ensemble_tune", *words])
    chosen = tomllib.loads((run / "best.toml").read_text())["scores"]
    measured = json.loads((run / "final" / "metrics.json").read_text())
    if measured["split"] != "test":
        raise SystemExit(f"the data must have a test split, but the run measured {measured['split']}")
    own = measured["scores"]
    return taken, {"val": chosen["fusion_miou"], "test": own["miou"], "small": own.get("small_miou", math.nan)}


def peer(camvid: str, folder: Path, minutes: float, options: Sequence[str]) -> tuple[float, Scores, Scores]:
    """Minutes of the peer, scores of its best single model, and of the mean of its best three."""
    taken, told = timed([str(HERE / "twenty_minutes_tune.py"), camvid, "--minutes", str(minutes), *options])
    said = json.loads(told.strip().splitlines()[-1])
    (folder / "peer.json").write_text(json.dumps(said, indent=1))
    single, three = (
        {**{split: said[f"{who}_{split}"] for split in SPLITS}, "small": said[f"{who}_test_small"]}
        for who in ("single", "three")
    )
    print(f"{'':6}peer: {said['trials']} trials, {said['epochs']} epochs, fused {', '.join(said['averaged'])}")
    return taken, single, three


def timed(words: Sequence[str]) -> tuple[float, str]:
    """Minutes of one whole process, and what it said on standard output."""
    started = time.perf_counter()
    ended = subprocess.run([sys.executable, *words], capture_output=True, text=True)
    if ended.returncode:
        raise SystemExit(f"{' '.join(words)} ended with {ended.returncode}:\n{ended.stderr[-2000:]}")
    return (time.perf_counter() - started) / 60, ended.stdout


def tell(seed: int, who: str, minutes: float, scores: Scores) -> None:
    print(
        f"{seed:4}  {who:24}{minutes:7.1f}{scores['val']:10.3f}{scores['test']:11.3f}{scores['small']:22.3f}",
        flush=True,
    )


if __name__ == "__main__":
    main(sys.argv[1:])
