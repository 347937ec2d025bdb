import os
import subprocess
import sys
from pathlib import Path

import pytest

from ensemble_tune.tune.ledger import LEDGER, Ledger
from ensemble_tune.tune.record import Status


@pytest.fixture(scope="module")
def searched(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[str]]:
    """What both searches left, and what was printed."""
    out = tmp_path_factory.mktemp("away")
    environment = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    environment["RAY_AUTH_MODE"] = "disabled"  # of this cluster, which lives on loopback and as long as the process
    environment["PYTHONPATH"] = f"{Path(__file__).parent}:{environment.get('PYTHONPATH', '')}"
    command = [sys.executable, str(Path(__file__).with_name("away_search.py")), str(out)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=150)
    assert done.returncode == 0, done.stderr
    return out, done.stdout.splitlines()


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
