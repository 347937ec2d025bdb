"""How well schedulers spend a budget on learning curves of our own base models, in the simulator.

python benchmarks/own_curves.py RUN [SEEDS]

RUN: a folder with base trials that were all trained to their end, for example by
ensemble-tune search base --data CamVid --out RUN --size 60x80 --space base-small --trials 24 --epochs 9
--sampler random --scheduler none. A search draws its trials from those with replacement, as random search would draw
new ones; TPE cannot be asked about configurations that nobody trained. It has 4 slots, as many epochs as 30 full
trainings, and epochs that take as long as they took. Figures as in quality.py, with intervals over the searches.

Apart, what any early stopping has to go by: for each epoch the rank correlation (Spearman's) of its scores with the
trials' best, and how many times faster than random search one would be who knew after that epoch, without error,
which trial reaches the best tenth.
"""

from __future__ import annotations

import statistics
import sys
from collections import defaultdict
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
from lcbench import epochs_to, interval, score_after
from scipy.stats import spearmanr  # type: ignore[import-untyped]

from ensemble_tune.defaults import BASE
from ensemble_tune.tune.budget import Budget, Meter
from ensemble_tune.tune.decisions import Decisions, Goal
from ensemble_tune.tune.ledger import LEDGER, Ledger
from ensemble_tune.tune.record import Status, TrialRecord
from ensemble_tune.tune.sampler import make_sampler
from ensemble_tune.tune.scheduler import make_scheduler
from ensemble_tune.tune.search_space import SearchSpace
from ensemble_tune.tune.simulator import Find, simulate

METRIC, SLOTS, FULL_TRAININGS = "miou", 4, 30
METHODS = {
    "none": ("none", False),
    "median": ("median", False),
    "asha": ("asha", False),
    "asha-promote": ("asha-promote", False),
    "asha, late rungs": ("asha", True),
    "asha-promote, late rungs": ("asha-promote", True),
}
"""A scheduler by its name, and whether with the rungs that base models have in place of its own."""

Curve = list[tuple[float, float]]
"""The score and the seconds of each epoch."""


def main(run: Path, seeds: int) -> None:
    """Prints a row a method."""
    curves = read(run)
    epochs = len(curves[0])
    finals = sorted(max(score for score, _ in curve) for curve in curves)
    best, median, target = finals[-1], statistics.median(finals), statistics.quantiles(finals, n=10)[-1]
    budget = FULL_TRAININGS * epochs
    print(f"{len(curves)} trials of {epochs} epochs: best {best:.3f}, median {median:.3f}, best tenth {target:.3f}")
    reach = sum(score >= target for score in finals) / len(finals)
    scores = np.array([[score for score, _ in curve] for curve in curves])
    for epoch in range(1, epochs):
        known = float(spearmanr(scores[:, epoch - 1], scores.max(axis=1)).statistic)
        # One trial in 1 / reach gets there; only that one is trained on.
        bound = epochs / (epoch + (epochs - epoch) * reach)
        print(f"after epoch {epoch}: rank correlation {known:5.2f}, faster by at most {bound:.1f}")
    found: dict[str, list[list[Find]]] = defaultdict(list)
    for name in METHODS:
        found[name] = [search(curves, name, seed, budget) for seed in range(seeds)]
    print(
        f"{'':25}{'regret at 1/4':>22}{'1/2':>22}{'the full budget':>22}{'epochs to the best tenth':>26}{'faster':>20}"
    )
    slow = [epochs_to(finds, target, budget) for finds in found["none"]]
    for name in METHODS:
        cells = []
        for part in (4, 2, 1):
            reached = [score_after(finds, budget // part) for finds in found[name]]
            cells.append("{:.3f} ({:.3f}, {:.3f})".format(*interval([(best - s) / (best - median) for s in reached])))
        own = [epochs_to(finds, target, budget) for finds in found[name]]
        share = sum(epochs < budget for epochs in own) / len(own)
        ratios = [statistics.fmean(slow) / each for each in interval([float(epochs) for epochs in own])]
        faster = f"{ratios[0]:.2f} ({ratios[2]:.2f}, {ratios[1]:.2f})"
        print(
            f"{name:25}{cells[0]:>22}{cells[1]:>22}{cells[2]:>22}"
            f"{f'{statistics.fmean(own):.0f} (reached {share:.0%})':>26}{faster:>20}"
        )


def read(run: Path) -> list[Curve]:
    """The curves of all trials that were trained to the end."""
    ledger = Ledger(run / LEDGER)
    rows = ledger.epochs("base")
    finished = [record.trial for record in ledger.trials("base") if record.status is Status.FINISHED]
    curves = [[(row.scores[METRIC], row.busy) for row in rows if row.trial == name] for name in finished]
    if not curves or len({len(curve) for curve in curves}) != 1:
        sys.exit(f"{run} needs base trials that were all trained to the same end; search with --scheduler none")
    return curves


def search(curves: list[Curve], method: str, seed: int, budget: int) -> list[Find]:
    """What one search finds."""
    scheduler, late = METHODS[method]
    epochs = len(curves[0])
    space = SearchSpace.parse(f"[parameters]\ntrial = {{ choices = {list(range(len(curves)))} }}")
    goal = Goal(stage="base", metric=METRIC, keep=1, sampler="random", seed=seed)

    def curve(record: TrialRecord) -> Iterator[tuple[Mapping[str, float], float]]:
        for score, seconds in curves[int(record.params["trial"])][record.epochs :]:
            yield {METRIC: score}, seconds

    decisions = Decisions(
        goal,
        sampler=make_sampler("random", space, seed=seed, objectives=goal.objectives),
        scheduler=make_scheduler(
            scheduler,
            max_epochs=epochs,
            mode="max",
            grace=BASE.grace(epochs) if late else None,
            factor=BASE.factor if late else 3,
        ),
        trials=budget,
        budget=Budget(hours=1e6),
        meter=Meter(since=0.0, places=SLOTS),
    )
    # More than the budget is trained; what was found later is not looked at.
    return simulate(decisions, curve, slots=SLOTS).finds


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else 200)
