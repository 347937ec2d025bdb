"""Two runners, one core: told the same, Tune and the simulator decide the same."""

from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path

import pytest
from counting_search import search
from counting_trial import CountingTrial

from ensemble_tune.tune.budget import Budget
from ensemble_tune.tune.decisions import Decisions, Goal
from ensemble_tune.tune.ledger import LEDGER, Ledger
from ensemble_tune.tune.record import EpochRecord, TrialRecord
from ensemble_tune.tune.resources import Resources
from ensemble_tune.tune.sampler import make_sampler
from ensemble_tune.tune.scheduler import make_scheduler
from ensemble_tune.tune.simulator import simulate
from ensemble_tune.tune.usable_cores import usable_cores
from ensemble_tune.tune.workers import Workers

EPOCHS, TRIALS = 9, 9
ONE_AT_A_TIME = Resources(cpus=usable_cores(), gpus=0)
"""So that the order of events is the same, however fast the machine is; the next trial is still proposed ahead."""


def curves(record: TrialRecord) -> Iterator[tuple[Mapping[str, float], float]]:
    """The counting trial's, from the epoch that the record has reached."""
    for result in CountingTrial()({**record.params, "seed": record.seed}, None):
        if result.epoch > record.epochs:
            yield result.scores, 1.0


@pytest.mark.usefixtures("local_ray")
@pytest.mark.parametrize("sampler", ["random", "tpe"])
@pytest.mark.parametrize("scheduler", ["none", "asha", "asha-promote", "median"])
def test_tune_and_the_simulator_decide_alike(tmp_path: Path, scheduler: str, sampler: str) -> None:
    budget = Budget(patience=8)
    whole = search(tmp_path, TRIALS, EPOCHS, 0.0)
    workers = Workers(ONE_AT_A_TIME)
    on_tune = replace(whole, sampler=sampler, scheduler=scheduler, grace=1, budget=budget, workers=workers).run()
    assert whole.space is not None
    goal = Goal(stage="base", metric="score", keep=2, sampler=sampler)
    told: list[EpochRecord] = []
    simulated = simulate(
        Decisions(
            goal,
            sampler=make_sampler(sampler, whole.space, seed=0, objectives=goal.objectives),
            scheduler=make_scheduler(scheduler, max_epochs=EPOCHS, mode="max", grace=1),
            trials=TRIALS,
            budget=budget,
        ),
        curves,
        slots=1,
        on_epoch=told.append,
    )

    def decided(record: TrialRecord) -> tuple[object, ...]:
        return (record.trial, record.params, record.seed, record.status, record.epochs, record.best_epoch, record.score)

    assert [decided(record) for record in on_tune.records] == [decided(record) for record in simulated.records]
    assert on_tune.reason == simulated.reason
    rows = sorted(Ledger(tmp_path / LEDGER).epochs(), key=lambda row: row.reported)
    assert [(row.trial, row.epoch) for row in rows] == [(row.trial, row.epoch) for row in told], "in the same order"
