from dataclasses import FrozenInstanceError, fields, replace
from datetime import timedelta
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from records import BEGIN, epoch_record, trial_record

from ensemble_tune.errors import RunError
from ensemble_tune.tune.ledger import Ledger
from ensemble_tune.tune.session import SessionRecord


def session(number: int, stage: str = "base") -> SessionRecord:
    return SessionRecord(
        stage=stage,
        session=number,
        started=BEGIN + timedelta(hours=number),
        updated=BEGIN + timedelta(hours=number, minutes=5),
        slots=4,
        node_hours=0.25,
        gpu_hours=0.5,
        host="node",
        pid=1234,
        goal={"metric": "miou", "mode": "max"},
        limit={"trials": 60.0, "hours": 2.0},
        use={"nodes": 1.0},
    )


def test_a_session_is_a_value() -> None:
    with pytest.raises(FrozenInstanceError):
        session(1).session = 2  # type: ignore[misc]
    assert session(1) == session(1) != session(2)
    assert session(1).ended is None and session(1).reason is None


def test_sessions_are_written_replaced_and_read_back_by_stage_and_number(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / "ledger")
    ledger.open()
    for record in (session(2), session(1, "meta"), session(1)):
        ledger.put_session(record)
    ledger.flush()
    ended = replace(
        session(2), ended=BEGIN + timedelta(days=1), reason="target miou=0.6 reached by base-0007", limit={}
    )
    ledger.put_session(ended)
    ledger.close()
    again = Ledger(tmp_path / "ledger")
    assert again.sessions() == [session(1), ended, session(1, "meta")]
    assert again.sessions("meta") == [session(1, "meta")]
    again.open()
    again.put_session(session(3))
    again.close()
    assert [record.session for record in again.sessions("base")] == [1, 2, 3]
    assert sorted(path.name for path in (tmp_path / "ledger" / "sessions").iterdir()) == [
        "base.parquet",
        "meta.parquet",
    ]


def test_every_field_of_a_session_is_a_column(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / "ledger")
    ledger.open()
    ledger.put_session(session(1))
    ledger.close()
    table = pq.read_table(tmp_path / "ledger" / "sessions")
    groups = ["goal.metric", "goal.mode", "limit.hours", "limit.trials", "use.nodes"]
    core = [field.name for field in fields(SessionRecord) if field.name not in ("goal", "limit", "use")]
    assert table.column_names == [*core, *groups]


def test_sessions_from_before_limits_were_kept_are_read(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / "ledger")
    ledger.open()
    old = replace(session(1), goal={}, limit={}, use={})
    ledger.put_session(old)
    ledger.close()
    assert "limit.hours" not in pq.read_table(tmp_path / "ledger" / "sessions").column_names
    assert Ledger(tmp_path / "ledger").sessions() == [old]


def test_a_ledger_from_before_there_were_sessions_has_none(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / "ledger")
    ledger.open()
    ledger.put_trial(trial_record(0))
    ledger.put_epoch(epoch_record(0, 1))
    ledger.close()
    (tmp_path / "ledger" / "sessions").rmdir()
    old = Ledger(tmp_path / "ledger")
    assert old.sessions() == old.sessions("base") == []
    old.open()
    old.put_session(session(1))
    old.close()
    assert old.sessions() == [session(1)] and len(old.trials()) == 1


@pytest.mark.parametrize("wrong", [-1.0, float("-inf"), float("nan")])
def test_a_limit_that_is_no_amount_is_refused(tmp_path: Path, wrong: float) -> None:
    ledger = Ledger(tmp_path / "ledger")
    ledger.open()
    ledger.put_session(replace(session(1), limit={"trials": wrong}))
    ledger.close()
    with pytest.raises(RunError, match=rf"its column limit\.trials has {wrong}, which is no amount"):
        Ledger(tmp_path / "ledger").sessions()
