"""Searches of made-up learning curves: one call each, with what a test does not care about filled in."""

import random
from collections.abc import Iterator, Mapping
from typing import Any

from ensemble_tune.errors import TrainingError
from ensemble_tune.tune.decisions import Decisions, Goal
from ensemble_tune.tune.record import Mode, TrialRecord
from ensemble_tune.tune.sampler import NoSampler, make_sampler
from ensemble_tune.tune.scheduler import make_scheduler
from ensemble_tune.tune.search_space import SearchSpace
from ensemble_tune.tune.simulator import Curves

SPACE = SearchSpace.parse("[parameters]\nworth = { low = 0.0, high = 1.0 }")
EPOCHS = 9


def decide(
    scheduler: str = "none",
    *,
    sampler: str | None = "random",
    trials: int = 9,
    mode: Mode = "max",
    grace: int = 1,
    factor: int = 3,
    max_epochs: int = EPOCHS,
    seed: int = 0,
    last_epoch: int | None = None,
    **others: Any,
) -> Decisions:
    """Decisions over a space of one parameter, or over given points alone."""
    goal = Goal(stage="base", metric="score", mode=mode, keep=3, sampler=sampler or "given", seed=seed)
    return Decisions(
        goal,
        sampler=make_sampler(sampler, SPACE, seed=seed, objectives=goal.objectives) if sampler else NoSampler(),
        scheduler=make_scheduler(scheduler, max_epochs=max_epochs, mode=mode, grace=grace, factor=factor),
        trials=trials if sampler else 0,
        max_epochs=last_epoch,
        **others,
    )


def learning(epochs: int = EPOCHS, seconds: float | None = None, fails: Mapping[int, int] | None = None) -> Curves:
    """Curves that rise towards `worth`; the same for a trial whenever they are asked for.

    seconds: of an epoch; None is another number for each, so that no two epochs end at the same time. fails: the epoch
    at which a trial of a number raises.
    """

    def curves(record: TrialRecord) -> Iterator[tuple[Mapping[str, float], float]]:
        for epoch in range(record.epochs + 1, epochs + 1):
            if (fails or {}).get(record.number) == epoch:
                raise TrainingError("the loss is nan")
            chance = random.Random(f"{record.seed}/{epoch}")
            score = float(record.params["worth"]) * (1 - 0.6**epoch) + chance.gauss(0.0, 0.02)
            yield {"score": score}, chance.uniform(1.0, 5.0) if seconds is None else seconds

    return curves
