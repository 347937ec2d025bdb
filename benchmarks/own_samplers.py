"""What samplers find among our own base models, in searches that train them.

python benchmarks/own_samplers.py CAMVID --out RUNS [--space base-small] [--trials 30] [--seeds 2]

For each seed one search a sampler, at 60x80, 9 epochs a trial, none stopped early; in turn, since the machine drifts. A
search that is there already is not made again, and one that was cut short goes on. Printed: the best val mIoU after a
quarter, a half and all of the trials of each search; what random search comes to, with a 95% interval, where as many
trials are drawn 10,000 times from all random ones; and the mean mIoU of what was proposed after the tenth trial, from
where a Gaussian process knows something, with the share of it that is better than the median random trial.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
from pathlib import Path

import numpy as np

from ensemble_tune.tune.ledger import LEDGER, Ledger

BLIND = 10
"""So many of a search's first proposals are random with every sampler."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--space", default="base-small")
    parser.add_argument("--samplers", default="gp,random")
    parser.add_argument("--trials", type=int, default=30)
    parser.add_argument("--epochs", type=int, default=9)
    parser.add_argument("--seeds", type=int, default=2)
    options = parser.parse_args()
    samplers = options.samplers.split(",")
    found: dict[str, list[list[float]]] = {name: [] for name in samplers}
    for seed in range(options.seeds):
        for sampler in samplers:
            found[sampler].append(search(options, sampler, seed))
    show(found, options.trials)


def search(options: argparse.Namespace, sampler: str, seed: int) -> list[float]:
    """The best score of each trial of a search, by number; 0 of one that failed."""
    out = options.out / f"{options.space}-{sampler}-{seed}"
    command = [sys.executable, "-m", "ensemble_tune", "search", "base", "--data", options.data, "--out", out]
    command += ["--size", "60x80", "--space", options.space, "--sampler", sampler, "--scheduler", "none", "--cpu"]
    command += ["--trials", options.trials, "--epochs", options.epochs, "--seed", seed]
    subprocess.run([str(word) for word in command], check=True, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    trials = Ledger(out / LEDGER).trials("base")
    print(f"{out.name}: {len(trials)} trials, {sum(trial.seconds for trial in trials):.0f} s of training", flush=True)
    return [trial.score or 0.0 for trial in trials]


def show(found: dict[str, list[list[float]]], trials: int) -> None:
    """Prints a row a search, and one for what random search comes to."""
    parts = [trials // 4, trials // 2, trials]
    names = ("search", *(f"best of {part}" for part in parts), f"mean after {BLIND}", "above random's median")
    print("{:12}{:>22}{:>22}{:>22}{:>16}{:>24}".format(*names))
    pool = np.array([score for scores in found.get("random", []) for score in scores])
    median = float(np.median(pool)) if len(pool) else None
    if len(pool):
        drawn = np.random.default_rng(0).choice(pool, (10_000, trials))
        cells = []
        for part in parts:
            best = drawn[:, :part].max(axis=1)
            low, high = np.quantile(best, (0.025, 0.975))
            cells.append(f"{best.mean():.3f} ({low:.3f}, {high:.3f})")
        print(f"{'random anew':12}{cells[0]:>22}{cells[1]:>22}{cells[2]:>22}{pool.mean():16.3f}{'50%':>24}")
    for sampler, searches in found.items():
        for seed, scores in enumerate(searches):
            told = [f"{max(scores[:part]):.3f}" for part in parts]
            after = scores[BLIND:]
            above = "" if median is None else f"{sum(score > median for score in after) / len(after):.0%}"
            mean = statistics.fmean(after)
            print(f"{f'{sampler} {seed}':12}{told[0]:>22}{told[1]:>22}{told[2]:>22}{mean:16.3f}{above:>24}")


if __name__ == "__main__":
    main()
