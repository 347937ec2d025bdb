"""A trial on a machine that was told to go moves at its next checkpoint, and that is no failure of it."""

from typing import Any

import pytest
from records import trial_record

from ensemble_tune.tune.conductor import Assignment
from ensemble_tune.tune.machines import Machines
from ensemble_tune.tune.record import Status
from ensemble_tune.tune.resources import Resources
from ensemble_tune.tune.room import Placement
from ensemble_tune.tune.stage import Handed, Stage
from ensemble_tune.tune.trainable import REPORT, Report
from ensemble_tune.tune.tune_hooks import End, Proposals

GOES, STAYS = "a" * 56, "b" * 56


class Told:
    """A conductor that notes how trials end."""

    reason = None
    done = False

    def __init__(self) -> None:
        self.ended_as: list[tuple[str, Status | None]] = []

    def ended(self, trial: str, status: Status | None = None, error: str | None = None) -> None:
        self.ended_as.append((trial, status))


class Quiet(Machines):
    """Machines whose kernels have killed nobody."""

    def killed_for_memory(self, machine: str | None) -> bool:
        return False


@pytest.fixture
def proposals() -> Proposals:
    made = Proposals(Resources(), End(), Quiet())
    made.leaving.ids = frozenset({GOES})
    made.stage = Stage(conductor=Told(), shared=None)  # type: ignore[arg-type]
    return made


def dies(
    proposals: Proposals, times: int, *, at: str = "", why: str = "see Ray's logs"
) -> list[tuple[str, Status | None]]:
    """One trial's worker dies, again and again, after a step on machine `at`."""
    assert proposals.stage is not None
    record = trial_record(0)
    for number in range(times):
        name = f"{number}.{record.trial}"
        proposals.stage.live[name] = Handed(Assignment(record), Placement(share=Resources()))
        if at:
            proposals.must_move(name, {REPORT: Report(node=at)})
        proposals.why[name] = why
        proposals.on_trial_complete(name, error=True)
    told: Any = proposals.stage.conductor
    ended: list[tuple[str, Status | None]] = told.ended_as
    return ended


def test_a_trial_moves_from_a_machine_that_goes_and_from_no_other(proposals: Proposals) -> None:
    assert proposals.must_move("1.base-0000", {REPORT: Report(node=GOES)})
    assert not proposals.must_move("2.base-0001", {REPORT: Report(node=STAYS)})


def test_a_worker_that_dies_with_a_machine_that_goes_does_not_count(proposals: Proposals) -> None:
    assert dies(proposals, 9, at=GOES) == []
    assert proposals.stage is not None and len(proposals.stage.again) == 9


def test_nor_does_one_that_had_reported_nothing_yet(proposals: Proposals) -> None:
    assert dies(proposals, 9, why=f"The actor died because its node has died. Node Id: {GOES}") == []


def test_any_other_death_counts(proposals: Proposals) -> None:
    assert dies(proposals, 4, at=STAYS, why=f"Node Id: {STAYS}") == [("base-0000", Status.LOST)]
