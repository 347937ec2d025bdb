import io
import math
import random
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from rich.console import Console
from written_run import base, write_run

from ensemble_tune.errors import ConfigError, RunError
from ensemble_tune.plan import PlanRow, Spread, _Recorded, plan, plan_table
from ensemble_tune.report.run_view import RunView
from ensemble_tune.tune.ledger import LEDGER, Ledger
from ensemble_tune.tune.record import EpochRecord, Mode, Status, TrialRecord, best_epoch, trial_name
from ensemble_tune.tune.session import SessionRecord

BEGIN = datetime(2026, 1, 2, tzinfo=UTC)
HOUR = 3600.0
STOPPED, FAILED = Status.STOPPED, Status.FAILED
SESSION = SessionRecord(
    stage="base",
    session=1,
    started=BEGIN,
    updated=BEGIN,
    ended=BEGIN + timedelta(hours=2),
    slots=8,
    node_hours=4.0,
    host="host",
    pid=1,
)


def write(
    out: Path,
    *curves: Sequence[float],
    status: Mapping[int, Status] | None = None,
    mode: Mode = "max",
    first: Mapping[str, float] | None = None,
    session: SessionRecord | None = None,
) -> Path:
    """A run of stage base; an epoch takes an hour. first: further seconds of every trial's first epoch."""
    ledger = Ledger(out / LEDGER)
    ledger.open()
    for number, curve in enumerate(curves):
        name = trial_name("base", number)
        rows = [
            EpochRecord(
                trial=name,
                stage="base",
                number=number,
                attempt=1,
                epoch=epoch,
                scores={"loss": 1 - score, "miou": score},
                seconds={"train": HOUR, **((first or {}) if epoch == 1 else {})},
                reported=BEGIN + timedelta(hours=epoch),
            )
            for epoch, score in enumerate(curve, 1)
        ]
        best = best_epoch(rows, "miou", mode)
        scores = rows[best - 1].scores if best else {}
        ledger.put_trial(
            TrialRecord(
                trial=name,
                stage="base",
                number=number,
                status=(status or {}).get(number, Status.FINISHED),
                params={},
                seed=1,
                started=BEGIN,
                epochs=len(curve),
                best_epoch=best,
                score=scores.get("miou"),
                scores=scores,
            )
        )
        for row in rows:
            ledger.put_epoch(row)
    if session is not None:
        ledger.put_session(session)
    ledger.close()
    return out


def exactly(value: float) -> Spread:
    return Spread(*[pytest.approx(value)] * 3)


def only(rows: Sequence[PlanRow]) -> PlanRow:
    (row,) = rows
    return row


def lines(run: Path) -> list[list[float]]:
    return [line.scores for line in _Recorded.read(run, "base").lines]


@pytest.mark.parametrize(("slots", "hours"), [(1, 12), (2, 6), (3, 6), (4, 3), (9, 3)])
def test_four_trials_of_three_hours_take_what_their_slots_let_them(tmp_path: Path, slots: int, hours: float) -> None:
    run = write(tmp_path, [0.1, 0.2, 0.3], [0.2, 0.4, 0.1])
    row = only(plan(run, slots=[slots], schedulers=["none"], trials=4, price=2.0).rows)
    assert (row.hours, row.slot_hours) == (exactly(hours), exactly(slots * hours))
    assert row.cost == exactly(slots * hours * 2.0)
    assert (row.score, row.finished, row.share) == (exactly(0.4), exactly(4), exactly(1.0))


def test_a_worker_s_start_and_every_trial_s_set_up_take_their_time(tmp_path: Path) -> None:
    run = write(tmp_path, [0.1], [0.2], first={"start": HOUR / 2, "set_up": HOUR / 4, "wait": 99.0})
    row = only(plan(run, slots=[1], schedulers=["none"], trials=4).rows)
    assert row.hours == exactly(0.5 + 4 * (0.25 + 1.0))


def test_a_machine_has_as_many_slots_as_in_the_run_and_is_paid_for_whole(tmp_path: Path) -> None:
    run = write(tmp_path, [0.1], [0.2], session=SESSION)
    result = plan(run, slots=[4, 5], schedulers=["none"], trials=20, price=3.0)
    assert [row.cost for row in result.rows] == [exactly(5 * 3.0), exactly(4 * 2 * 3.0)]
    assert result.slots_a_machine == 4


def test_early_stopping_costs_less_and_finds_as_much_where_curves_never_cross(tmp_path: Path) -> None:
    run = write(tmp_path, *[[worth / 20 * part for part in (0.5, 0.8, 0.9, 1.0)] for worth in range(12)])
    rows = {row.scheduler: row for row in plan(run, slots=[2], schedulers=["none", "asha-promote"], trials=12).rows}
    none, promoting = rows["none"], rows["asha-promote"]
    assert promoting.hours.high < none.hours.low
    assert promoting.share.high < 0.85 and promoting.finished.high < none.finished.low
    assert promoting.score == none.score == exactly(11 / 20)


def test_no_trial_is_drawn_twice_before_all_have_been(tmp_path: Path) -> None:
    recorded = _Recorded.read(write(tmp_path, *[[0.1]] * 5), "base")
    drawn = [point["recorded"] for point in recorded.draw(12, random.Random(1))]
    assert sorted(drawn[:5]) == sorted(drawn[5:10]) == [0, 1, 2, 3, 4]
    assert len(drawn) == 12 and drawn[:5] != drawn[5:10]


class TestCurvesThatEndedEarly:
    def test_go_on_by_the_steps_of_the_nearest_finished_one(self, tmp_path: Path) -> None:
        run = write(tmp_path, [0.1, 0.2, 0.4], [0.5, 0.6, 0.65], [0.45, 0.5], status={2: STOPPED})
        assert lines(run)[2] == pytest.approx([0.45, 0.5, 0.55])
        assert plan(run, trials=3, repeats=1).continued == 1

    def test_never_go_beyond_what_a_finished_one_reached(self, tmp_path: Path) -> None:
        run = write(tmp_path, [0.1, 0.2, 0.6, 0.5], [0.4, 0.5], status={1: STOPPED})
        assert lines(run)[1] == pytest.approx([0.4, 0.5, 0.6, 0.6])

    def test_stay_without_a_score_where_the_last_one_was_none(self, tmp_path: Path) -> None:
        run = write(tmp_path, [0.1, 0.2, 0.6], [0.4, math.nan], status={1: STOPPED})
        assert math.isnan(lines(run)[1][2]) and len(lines(run)[1]) == 3

    def test_fail_again_where_they_failed(self, tmp_path: Path) -> None:
        run = write(tmp_path, [0.1, 0.2, 0.6], [0.4], [], status={1: FAILED, 2: FAILED})
        row = only(plan(run, slots=[1], schedulers=["none"], trials=6).rows)
        assert (row.finished, row.hours) == (exactly(2), exactly(2 * 3 + 2 * 1))


def test_a_score_to_be_made_low_is_seen_as_one(tmp_path: Path) -> None:
    run = write(tmp_path, [0.5, 0.3, 0.4], [0.9, 0.6, 0.7], mode="min")
    row = only(plan(run, slots=[1], schedulers=["none"], trials=2).rows)
    assert row.score == exactly(0.3)


def test_the_same_seed_gives_the_same_plan_and_every_repeat_another_order(tmp_path: Path) -> None:
    run = write(tmp_path, *[[0.1 * n, 0.1 * n + 0.05] for n in range(9)])
    one, same, other = (plan(run, slots=[2], schedulers=["asha"], trials=7, grace=1, seed=seed) for seed in (0, 0, 1))
    assert one == same != other
    assert one.rows[0].hours.low < one.rows[0].hours.high


def test_the_table_fits_80_columns_and_says_what_was_guessed(tmp_path: Path) -> None:
    curves = [[worth / 30.1 * part for part in (0.123, 0.456, 0.789, 1.0)] for worth in range(20)]
    run = write(tmp_path, *curves, [0.1], status={20: STOPPED})
    result = plan(run, slots=[1, 16, 128], schedulers=["asha-promote", "none"], trials=300, price=12.5, repeats=3)
    console = Console(width=80, file=io.StringIO(), record=True)
    console.print(plan_table(result))
    printed = console.export_text()
    assert "…" not in printed
    for row in result.rows:
        line = next(line for line in printed.splitlines() if line.split()[:2] == [str(row.slots), row.scheduler])
        assert row.cost is not None
        said = [row.hours.median, row.slot_hours.median, row.cost.median, row.score.median]
        assert all((f"{value:,.0f}" if value >= 100 else f"{value:.3g}") in line.split() for value in said)
    assert "Drawn from 21 recorded trials; 1 of their curves ended early" in " ".join(printed.split())


class TestRefused:
    def test_a_folder_without_a_run(self, tmp_path: Path) -> None:
        with pytest.raises(RunError, match="no search is in"):
            plan(tmp_path)

    def test_a_run_without_a_finished_trial(self, tmp_path: Path) -> None:
        run = write(tmp_path, [0.1], status={0: STOPPED})
        with pytest.raises(RunError, match="a plan needs a finished trial to learn from, but stage base of"):
            plan(run)

    def test_a_stage_that_was_not_searched(self, tmp_path: Path) -> None:
        with pytest.raises(RunError, match=r"but stage meta of .* has none"):
            plan(write(tmp_path, [0.1]), stage="meta")

    @pytest.mark.parametrize(
        ("slots", "trials", "said"), [([0], 9, "--slots 0"), ([], 9, "--slots none"), ([1], 0, "--trials 0")]
    )
    def test_less_than_one_of_anything(self, tmp_path: Path, slots: list[int], trials: int, said: str) -> None:
        with pytest.raises(ConfigError, match=f"at least 1 slot, 1 trial and 1 repeat, but got .*{said}"):
            plan(write(tmp_path, [0.1]), slots=slots, trials=trials)

    def test_an_unknown_scheduler(self, tmp_path: Path) -> None:
        with pytest.raises(ConfigError, match=r"no scheduler is called 'ashapromote'; did you mean 'asha-promote'\?"):
            plan(write(tmp_path, [0.1]), schedulers=["ashapromote"])

    @pytest.mark.parametrize("seconds", [math.nan, math.inf, -1.0])
    @pytest.mark.parametrize("name", ["train", "start", "set_up"])
    def test_an_epoch_that_took_no_number_of_seconds(self, tmp_path: Path, name: str, seconds: float) -> None:
        run = write(tmp_path, [0.1, 0.2], first={name: seconds})
        with pytest.raises(RunError, match=r"a number of seconds from 0, but .*ledger has another one of base-0000, e"):
            plan(run)

    def test_trials_that_no_calendar_holds(self, tmp_path: Path) -> None:
        run = write(tmp_path, [0.1, 0.2], first={"train": 1e12})
        with pytest.raises(
            RunError, match=r"9 trials like those in .* would take longer than any calendar; plan fewer"
        ):
            plan(run, trials=9)

    def test_scores_of_which_none_was_gone_after(self, tmp_path: Path) -> None:
        run = write_run(tmp_path, replace(base(0, 0.4), score=0.3), replace(base(1, 0.5), score=0.2))
        for read in (plan, RunView.of):
            with pytest.raises(RunError, match=r"every base trial's score must be one .*ledger/trials none is; restor"):
                read(run)  # type: ignore[operator]

    def test_machines_that_took_no_time_or_all_of_it_count_as_one(self, tmp_path: Path) -> None:
        for hours in (math.nan, math.inf):
            run = write(tmp_path / str(hours), [0.1], session=replace(SESSION, node_hours=hours))
            assert plan(run, trials=2).slots_a_machine == 1
        ended = SESSION.started + timedelta(microseconds=1)
        run = write(tmp_path / "short", [0.1], session=replace(SESSION, ended=ended, node_hours=1e308))
        assert plan(run, trials=2).slots_a_machine == 1

    def test_a_price_of_nothing(self, tmp_path: Path) -> None:
        with pytest.raises(ConfigError, match="--price must be above 0, but got 0; leave it out"):
            plan(write(tmp_path, [0.1]), price=0.0)


def test_a_plan_needs_neither_torch_nor_ray() -> None:
    code = "import sys, ensemble_tune.plan; print({'torch', 'ray'} & set(sys.modules))"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "set()"
