from pathlib import Path

import pytest
from processes import on_its_own_cluster

from ensemble_tune.tune.ledger import LEDGER, Ledger
from ensemble_tune.tune.record import Status


@pytest.fixture(scope="module")
def searched(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[str]]:
    """What both searches left, and what was printed."""
    out = tmp_path_factory.mktemp("away")
    return out, on_its_own_cluster("away_search.py", out, seconds=150)


@pytest.mark.parametrize("name", ["back", "late"])
def test_a_trial_whose_machine_went_goes_on_once_one_is_back(searched: tuple[Path, list[str]], name: str) -> None:
    ledger = Ledger(searched[0] / name / LEDGER)
    found = [(trial.status, trial.epochs, trial.attempt) for trial in ledger.trials()]
    assert found == [(Status.FINISHED, 2, 2), (Status.FINISHED, 2, 1)]
    rows = sorted((row.trial, row.epoch, row.attempt) for row in ledger.epochs())
    each_once = [("packed-0000", 1, 1), ("packed-0000", 2, 2), ("packed-0001", 1, 1), ("packed-0001", 2, 1)]
    assert rows == each_once, "it went on from its checkpoint"


def test_one_call_is_enough_where_the_machine_is_soon_back(searched: tuple[Path, list[str]]) -> None:
    assert searched[1][0] == "gone on"
    assert len(Ledger(searched[0] / "back" / LEDGER).sessions("packed")) == 1


def test_a_search_that_waited_in_vain_ends_in_one_line(searched: tuple[Path, list[str]]) -> None:
    (error,) = [line for line in searched[1] if line.startswith("error:")]
    assert "a search needs a machine that can hold its trials, but those that could hold packed-0000" in error
    assert searched[1][-1] == "ended"
