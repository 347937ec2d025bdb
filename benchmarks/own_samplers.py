"""What samplers find among our own base models, in searches that train them.

python benchmarks/own_samplers.py CAMVID --out RUNS [--space base-small] [--searches gp:30,random:20] [--seeds 1]

For each seed a search of so many trials by each sampler, at 60x80, 9 epochs a trial, none stopped early. A search that
is there already is not made again, and one that was cut short goes on. The first trial of each is the defaults, and the
next nine are random. Printed: the best val mIoU after 7, 15 and 30 trials of each search; what random search comes to,
with a 95% interval, where the trials after the first are drawn 10,000 times from all random ones; and the mean mIoU of
what was proposed later, when a Gaussian process knows something, with the share of it above the median random trial.
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
"""From here on, a sampler that learns proposes what it has learnt."""
PARTS = (7, 15, 30)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--space", default="base-small")
    parser.add_argument("--searches", default="gp:30,random:20")
    parser.add_argument("--epochs", type=int, default=9)
    parser.add_argument("--seeds", type=int, default=1)
    options = parser.parse_args()
    found: dict[tuple[str, int], list[float]] = {}
    wanted = [(sampler, int(trials)) for sampler, _, trials in (s.partition(":") for s in options.searches.split(","))]
    if min(trials for _, trials in wanted) <= BLIND:
        sys.exit(f"the first {BLIND} trials are random with every sampler: give each search more")
    for seed in range(options.seeds):
        for sampler, trials in wanted:
            found[sampler, seed] = search(options, sampler, trials, seed)
    show(found)


def search(options: argparse.Namespace, sampler: str, trials: int, seed: int) -> list[float]:
    """The best score of each trial of a search, by number; 0 of one that failed."""
    out = options.out / f"{options.space}-{sampler}-{seed}"
    command = [sys.executable, "-m", "ensemble_tune", "search", "base", "--data", options.data, "--out", out]
    command += ["--size", "60x80", "--space", options.space, "--sampler", sampler, "--scheduler", "none", "--cpu"]
    command += ["--trials", trials, "--epochs", options.epochs, "--seed", seed]
    subprocess.run([str(word) for word in command], check=True, stdout=subprocess.DEVNULL)
    records = Ledger(out / LEDGER).trials("base")
    print(f"{out.name}: {len(records)} trials, {sum(each.seconds for each in records):.0f} s of training", flush=True)
    return [record.score or 0.0 for record in records]


def show(found: dict[tuple[str, int], list[float]]) -> None:
    """Prints what random search comes to, then a row a search."""
    names = ("search", *(f"best of {part}" for part in PARTS), "mean later", "above median")
    print("{:14}{:>22}{:>22}{:>22}{:>12}{:>14}".format(*names))
    random = [score for (name, _), scores in found.items() for score in scores[1 : None if name == "random" else BLIND]]
    defaults = statistics.fmean(scores[0] for scores in found.values())
    median, drawn = statistics.median(random), np.random.default_rng(0).choice(random, (10_000, max(PARTS) - 1))
    cells = []
    for part in PARTS:
        best = np.maximum(defaults, drawn[:, : part - 1].max(axis=1))
        low, high = np.quantile(best, (0.025, 0.975))
        cells.append(f"{best.mean():.3f} ({low:.3f}, {high:.3f})")
    mean = statistics.fmean(random)
    print(f"{f'{len(random)} random':14}{cells[0]:>22}{cells[1]:>22}{cells[2]:>22}{mean:12.3f}{'50%':>14}")
    for (sampler, seed), scores in found.items():
        told = [f"{max(scores[:part]):.3f}" if len(scores) >= part else "" for part in PARTS]
        later = scores[BLIND:]
        above = f"{sum(score > median for score in later) / len(later):.0%}"
        mean = statistics.fmean(later)
        print(f"{f'{sampler}, seed {seed}':14}{told[0]:>22}{told[1]:>22}{told[2]:>22}{mean:12.3f}{above:>14}")


if __name__ == "__main__":
    main()
