from pathlib import Path

import pytest
from counting_trial import check
from processes import on_its_own_cluster

from ensemble_tune.errors import ConfigError
from ensemble_tune.tune.ledger import LEDGER, Ledger
from ensemble_tune.tune.record import Status
from ensemble_tune.tune.resources import Resources
from ensemble_tune.tune.workers import Workers


def test_a_search_starts_where_no_machine_is_up_and_uses_the_one_that_comes(tmp_path: Path) -> None:
    printed = on_its_own_cluster("growing_search.py", tmp_path)
    assert "before: 0" in printed and "ended: True" in printed
    assert "asked for: 2" in printed, "for a trial that waits, an autoscaler would start a machine"
    ledger = Ledger(tmp_path / LEDGER)
    check(ledger.trials(), ledger.epochs())
    assert [(trial.status, trial.epochs) for trial in ledger.trials()] == [(Status.FINISHED, 3)] * 4
    assert ledger.sessions("base")[0].slots == 2


def test_slots_need_a_trial_s_share_and_at_least_one() -> None:
    with pytest.raises(ConfigError, match="--gpus-per-trial is missing; give it, or --cpu"):
        Workers(Resources(), slots=8)
    with pytest.raises(ConfigError, match="at least 1, but got 0"):
        Workers(Resources(gpus=0.5), slots=0)
