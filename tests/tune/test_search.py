import os
import random
import signal
import sys
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from counting_search import search
from counting_trial import CountingTrial, check
from processes import session, wait_for

from ensemble_tune.errors import ConfigError, RunError
from ensemble_tune.trial import Value
from ensemble_tune.tune.budget import Budget, Target
from ensemble_tune.tune.interrupts import Interrupted
from ensemble_tune.tune.ledger import LEDGER, Ledger
from ensemble_tune.tune.record import Status, TrialRecord
from ensemble_tune.tune.resources import Resources
from ensemble_tune.tune.search import Search, versions
from ensemble_tune.tune.usable_cores import usable_cores
from ensemble_tune.tune.workers import Workers

DRIVER = Path(__file__).with_name("counting_search.py")


def log(out: Path) -> list[list[str]]:
    """Seed, epoch and process of every epoch trained so far."""
    path = out / "log"
    return [line.split()[:3] for line in path.read_text().splitlines()] if path.exists() else []


CORES = usable_cores()


def checked(out: Path) -> list[TrialRecord]:
    ledger = Ledger(out / LEDGER)
    trials = ledger.trials()
    check(trials, ledger.epochs())
    return trials


def given(out: Path, *points: dict[str, Any], **options: Any) -> Search:
    return Search(
        trial=CountingTrial(log=out / "log"),
        metric="score",
        stage="base",
        keep=9,
        out=out,
        max_epochs=3,
        points=points,
        **options,
    )


@pytest.mark.usefixtures("local_ray")
class TestOnLocalRay:
    def test_a_search_trains_every_trial_and_goes_on_where_it_ended(self, tmp_path: Path) -> None:
        told: list[str] = []
        first = replace(search(tmp_path, 4, 3, 0.0), on_end=lambda record: told.append(record.trial)).run()
        trials = checked(tmp_path)
        assert [t.status for t in trials] == [Status.FINISHED] * 4
        assert [t.trial for t in first.records] == [t.trial for t in trials] == sorted(told)
        assert len({process for _, _, process in log(tmp_path)}) <= CORES, "trials share processes"
        search(tmp_path, 4, 3, 0.0).run()
        assert len(log(tmp_path)) == 12, "a finished search trains nothing"
        longer = search(tmp_path, 6, 3, 0.0).run()
        trials = checked(tmp_path)
        assert len(trials) == 6 and len(log(tmp_path)) == 18, "an extended one trains what is missing"
        assert longer.best is not None and longer.best.score == max(t.score or 0 for t in trials)
        kept = {path.name for path in (tmp_path / "checkpoints").iterdir()}
        assert kept == {t.trial for t in sorted(trials, key=lambda t: t.score or 0)[-2:]}

    def test_known_values_are_the_first_proposal_after_the_points_and_count_as_one(self, tmp_path: Path) -> None:
        known = {"rate": 0.75, "epochs": 9}
        result = replace(search(tmp_path, 2, 1, 0.0), start=known).run()
        assert [(t.params["rate"] == 0.75, t.params["epochs"], t.sampler) for t in result.records] == [
            (True, 1, "random"),
            (False, 1, "random"),
        ]
        result = replace(search(tmp_path / "given", 1, 1, 0.0), start=known, points=[{"rate": 0.5, "epochs": 1}]).run()
        assert [t.params["rate"] for t in result.records] == [0.5, 0.75]

    def test_known_values_are_tried_first_by_each_search_of_a_folder_and_once(self, tmp_path: Path) -> None:
        known = {"rate": 0.75, "epochs": 1}
        one = replace(search(tmp_path, 2, 1, 0.0), start=known, belongs=lambda record: record.number < 2)
        one.run()
        other = replace(one, trials=1, belongs=lambda record: record.number >= 2)
        other.run()
        replace(other, trials=2).run()
        assert [t.params["rate"] == 0.75 for t in checked(tmp_path)] == [True, False, True, False]

    def test_a_failure_is_one_row_and_a_killed_worker_none(self, tmp_path: Path) -> None:
        points: list[dict[str, Any]] = [{"rate": rate, "epochs": 4} for rate in (0.1, 0.2, 0.3)]
        points[1]["fails"] = 3
        points[2]["dies"] = 1
        result = given(tmp_path, *points).run()
        assert [(t.status, t.epochs, t.attempt, t.error) for t in checked(tmp_path)] == [
            (Status.FINISHED, 4, 1, None),
            (Status.FAILED, 2, 1, "ValueError: line one"),
            (Status.FINISHED, 4, 2, None),
        ]
        assert len(log(tmp_path)) == 10, "a trial whose worker was killed goes on from its checkpoint"
        assert result.best is not None and result.best.number != 1

    def test_a_trial_whose_workers_keep_dying_is_lost_and_says_why(self, tmp_path: Path) -> None:
        given(tmp_path, {"rate": 0.5, "epochs": 4, "dies": 9}).run()
        (record,) = checked(tmp_path)
        assert (record.status, record.epochs) == (Status.LOST, 1)
        assert record.error is not None and record.error.startswith("its worker died 4 times; the last time: ")
        assert "OOM" in record.error and "\n" not in record.error

    def test_points_are_trained_once_and_a_failed_one_again(self, tmp_path: Path) -> None:
        first, other, fails = (
            {"rate": 0.5, "epochs": 1, "seed": 1},
            {"rate": 0.5, "epochs": 1, "seed": 2},
            {"rate": 0.6, "epochs": 1, "fails": 1},
        )
        given(tmp_path, first, fails).run()
        given(tmp_path, first).run()
        assert len(checked(tmp_path)) == 2
        given(tmp_path, first, other, fails).run()
        assert [(t.seed, t.status) for t in checked(tmp_path) if "fails" not in t.params] == [
            (1, Status.FINISHED),
            (2, Status.FINISHED),
        ]
        assert [t.status for t in checked(tmp_path) if "fails" in t.params] == [Status.FAILED, Status.FAILED]
        given(tmp_path, first, again=True).run()
        assert checked(tmp_path)[-1].seed == 1 and len(checked(tmp_path)) == 5

    def test_the_scheduler_stops_trials(self, tmp_path: Path) -> None:
        replace(search(tmp_path, 8, 9, 0.0), scheduler="asha").run()
        trials = checked(tmp_path)
        assert {t.status for t in trials} == {Status.FINISHED, Status.STOPPED}
        assert all((t.epochs == 9) == (t.status is Status.FINISHED) for t in trials)

    def test_paused_trials_are_promoted_and_train_no_epoch_twice(self, tmp_path: Path) -> None:
        done = replace(search(tmp_path, 9, 9, 0.0), scheduler="asha-promote", grace=1).run()
        trials = checked(tmp_path)
        assert done.reason == "all trials have ended"
        assert {t.epochs for t in trials} == {1, 3, 9}
        assert [t.status for t in trials if t.epochs == 9] == [Status.FINISHED]
        assert all(t.status is Status.STOPPED for t in trials if t.epochs < 9)
        assert len(log(tmp_path)) == sum(t.epochs for t in trials)

    def test_a_budget_of_time_ends_a_search_that_another_call_goes_on_with(self, tmp_path: Path) -> None:
        whole = search(tmp_path, 4, 6, 0.5)
        told: list[str] = []
        with Workers() as workers:
            replace(search(tmp_path / "first", CORES, 1, 0.0), workers=workers).run()  # their start is no part of it
            short = replace(whole, workers=workers, budget=Budget(hours=4 / 3600), say=told.append)
            started = time.monotonic()
            result = short.run()
            assert time.monotonic() - started < 25
            trials = checked(tmp_path)
            assert result.reason == "0.00111111 hours used" and result.best is not None
            assert told == [
                f"base search: at most 4 trials x 6 epochs on {CORES} slots, 0.00111111 hours",
                "base search ends: 0.00111111 hours used",
            ]
            assert {t.status for t in trials} & {Status.PAUSED} and Status.RUNNING not in {t.status for t in trials}
            session, *others = Ledger(tmp_path / LEDGER).sessions("base")
            assert not others and (session.reason, session.slots) == (result.reason, CORES)
            assert 4 <= 3600 * session.node_hours < 8 and session.gpu_hours == 0
            again = replace(short, say=lambda line: None).run()
            assert again.reason == result.reason, "what an earlier call used counts"
            assert replace(whole, workers=workers).run().reason == "all trials have ended"
        assert [(t.status, t.epochs) for t in checked(tmp_path)] == [(Status.FINISHED, 6)] * 4
        assert len(log(tmp_path)) <= 24 + CORES, "no more than the epochs in progress are trained twice"
        reasons = [session.reason for session in Ledger(tmp_path / LEDGER).sessions("base")]
        assert reasons[0] == result.reason and reasons[-1] == "all trials have ended"

    def test_a_target_and_patience_end_a_search(self, tmp_path: Path) -> None:
        whole = search(tmp_path, 30, 2, 0.0)
        with Workers() as workers:
            first = replace(whole, workers=workers, budget=Budget(target=Target("score", 0.9))).run()
            assert first.best is not None and first.best.score is not None and first.best.score >= 0.9
            assert first.reason == f"target score=0.9 reached by {first.best.trial}"
            assert len(checked(tmp_path)) < 30
            second = replace(whole, workers=workers, budget=Budget(patience=5)).run()
            assert second.reason.startswith("no new best in ") and len(checked(tmp_path)) < 30

    def test_workers_that_a_limit_ended_are_given_to_no_other_trial(self, tmp_path: Path) -> None:
        """More of them than the next trial could survive."""

        def quarter(params: Mapping[str, Value]) -> Resources:
            return Resources(cpus=0.25, gpus=0, memory=0.25)

        first, second = tmp_path / "first", tmp_path / "second"
        first.mkdir()
        second.mkdir()
        many = 4 * CORES
        points = [{"rate": 0.5, "epochs": 60, "meets": many, "seed": number} for number in range(many)]
        with Workers() as workers:
            long = replace(given(first, *points), trial=CountingTrial(0.5, first / "log"), max_epochs=60)
            limited = replace(long, workers=workers, requirements=quarter, budget=Budget(target=Target("score", 0.0)))
            assert limited.run().reason.startswith("target score=0 reached")
            after = given(second, {"rate": 0.5, "epochs": 2, "seed": 1}, workers=workers, requirements=quarter)
            (trial,) = after.run().records
        assert (trial.status, trial.epochs, trial.error) == (Status.FINISHED, 2, None)
        assert len(log(second)) == 2

    def test_each_trial_may_ask_for_its_own_share(self, tmp_path: Path) -> None:
        """Trials of half a core run side by side, one of the whole machine alone; one that fits nowhere fails."""

        def share(params: Mapping[str, Value]) -> Resources:
            return Resources(cpus=float(params["cpus"]), gpus=0, memory=0.25)

        halves = 2 * CORES
        half = {"rate": 0.5, "epochs": 2, "cpus": 0.5, "meets": halves}
        points = [half | {"seed": number} for number in range(halves)]
        points += [{"rate": 0.5, "epochs": 2, "cpus": cpus, "seed": 99} for cpus in (CORES + 1.0, float(CORES))]
        replace(given(tmp_path, *points), requirements=share).run()
        *side_by_side, failed, alone = checked(tmp_path)
        assert [t.status for t in (*side_by_side, alone)] == [Status.FINISHED] * (halves + 1)
        assert failed.status is Status.FAILED and f"it asks for {CORES + 1} CPUs" in (failed.error or "")
        rows = Ledger(tmp_path / LEDGER).epochs()
        assert max(row.reported for row in rows if row.trial != alone.trial) < min(
            row.reported for row in rows if row.trial == alone.trial
        )

    def test_searches_that_share_workers_share_their_processes(self, tmp_path: Path) -> None:
        one, two = tmp_path / "one", tmp_path / "two"
        one.mkdir()
        two.mkdir()
        with Workers() as workers:
            for out in (one, two):  # their trials have the same names
                replace(search(out, 4, 3, 0.5), workers=workers).run()
        assert len(checked(one)) == len(checked(two)) == 4
        first, second = ({process for _, _, process in log(out)} for out in (one, two))
        assert second <= first and len(first) == CORES
        wait_for(lambda: not any((Path("/proc") / process).exists() for process in first))

    def test_an_idle_worker_that_dies_costs_no_trial(self, tmp_path: Path) -> None:
        one, two = tmp_path / "one", tmp_path / "two"
        one.mkdir()
        two.mkdir()
        with Workers() as workers:
            replace(search(one, 4, 3, 0.5), workers=workers).run()
            for process in {process for _, _, process in log(one)}:
                os.kill(int(process), signal.SIGKILL)
            replace(search(two, 4, 3, 0.0), workers=workers).run()
        assert [t.status for t in checked(two)] == [Status.FINISHED] * 4

    def test_workers_outlive_a_search_that_fails(self, tmp_path: Path) -> None:
        broken = replace(search(tmp_path, 2, 2, 0.0), on_end=lambda record: 1 / 0)
        with Workers() as workers:
            with pytest.raises(ZeroDivisionError):
                replace(broken, workers=workers).run()
            replace(search(tmp_path, 2, 2, 0.0), workers=workers).run()
        assert [t.status for t in checked(tmp_path)] == [Status.FINISHED] * 2

    def test_ctrl_c_in_the_very_moment_of_the_end_ends_the_search(self, tmp_path: Path) -> None:
        def interrupt(record: TrialRecord) -> None:
            if record.number == 1:
                os.kill(os.getpid(), signal.SIGINT)

        with pytest.raises(KeyboardInterrupt):
            replace(search(tmp_path, 2, 1, 0.0), on_end=interrupt).run()
        search(tmp_path, 2, 1, 0.0).run()
        assert [t.status for t in checked(tmp_path)] == [Status.FINISHED] * 2

    def test_ctrl_c_that_python_drops_between_two_searches_ends_the_second(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        class Dropping:
            def __del__(self) -> None:
                os.kill(os.getpid(), signal.SIGINT)
                time.sleep(0.1)  # another thread may get it

        dropped: list[object] = []
        monkeypatch.setattr(sys, "unraisablehook", lambda raised: dropped.append(raised.exc_type))
        before = signal.getsignal(signal.SIGINT)
        with pytest.raises(Interrupted), Workers() as workers:
            replace(search(tmp_path / "one", 1, 1, 0.0), workers=workers).run()
            Dropping()
            assert dropped == [KeyboardInterrupt]
            replace(search(tmp_path / "two", 1, 1, 0.0), workers=workers).run()
        assert len(checked(tmp_path / "one")) == 1 and checked(tmp_path / "two") == []
        assert signal.getsignal(signal.SIGINT) is before

    def test_who_catches_ctrl_c_may_go_on(self, tmp_path: Path) -> None:
        def interrupt() -> None:
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(10)

        with Workers() as workers:
            with pytest.raises(KeyboardInterrupt):
                replace(search(tmp_path, 1, 1, 0.0), workers=workers, prepare=interrupt).run()
            replace(search(tmp_path, 1, 1, 0.0), workers=workers).run()
        assert [t.status for t in checked(tmp_path)] == [Status.FINISHED]

    def test_a_trial_that_fits_no_machine_is_refused_before_any_starts(self, tmp_path: Path) -> None:
        wish = Resources(cpus=CORES + 1)
        with pytest.raises(
            ConfigError, match=f"asks for {CORES + 1} CPUs.*largest has {CORES}.*lower --cpus-per-trial"
        ):
            replace(search(tmp_path, 2, 2, 0.0), workers=Workers(wish)).run()
        assert checked(tmp_path) == []
        replace(search(tmp_path, 1, 1, 0.0), workers=Workers(Resources(cpus=0.5))).run()
        assert len(checked(tmp_path)) == 1

    def test_other_settings_are_refused(self, tmp_path: Path) -> None:
        replace(search(tmp_path, 1, 2, 0.0), provenance={"data": "abc"}).run()
        again = replace(search(tmp_path, 2, 2, 0.0), provenance={"data": "abd"})
        with pytest.raises(
            RunError, match=r"base-0000 in .* has data abc and this command has abd; use the same data or"
        ):
            again.run()
        other = replace(search(tmp_path, 2, 3, 0.0), comparable=("epochs",))
        with pytest.raises(RunError, match="has epochs 2 and this command has 3; use the same epochs or another --out"):
            other.run()
        assert len(checked(tmp_path)) == 1

    def test_another_split_is_refused_by_its_name(self, tmp_path: Path) -> None:
        replace(search(tmp_path, 1, 2, 0.0), provenance={"data": "abc", "split": "official"}).run()
        again = replace(search(tmp_path, 2, 2, 0.0), provenance={"data": "abc-blocks", "split": "blocks"})
        with pytest.raises(RunError, match="has split official and this command has blocks; use the same split or"):
            again.run()

    def test_rows_from_before_there_were_splits_are_told_apart_by_their_data(self, tmp_path: Path) -> None:
        replace(search(tmp_path, 1, 2, 0.0), provenance={"data": "abc"}).run()
        replace(search(tmp_path, 1, 2, 0.0), provenance={"data": "abc", "split": "official"}).check()
        with pytest.raises(RunError, match="has data abc and this command has abc-blocks"):
            replace(search(tmp_path, 1, 2, 0.0), provenance={"data": "abc-blocks", "split": "blocks"}).check()

    def test_unknown_names_are_refused_and_the_folder_stays_free(self, tmp_path: Path) -> None:
        wrong = search(tmp_path, 1, 1, 0.0)
        for change in ({"scheduler": "ahsa"}, {"sampler": "rnadom"}):
            with pytest.raises(ConfigError, match="did you mean"):
                replace(wrong, **change).run()
        wrong.run()


def test_versions_name_what_results_depend_on() -> None:
    assert {"python", "ray", "optuna", "torch"} <= set(versions())


def interrupt(number: signal.Signals, epochs: int, *arguments: str | Path, out: Path) -> int:
    """Starts a driver, signals it once it has trained some epochs; returns its exit status. Its workers end too."""
    before = len(log(out))
    # A Ray that was started on one machine lets in only who holds its token.
    with session(DRIVER, out, *arguments, RAY_AUTH_MODE="token") as driver:
        wait_for(lambda: len(log(out)) >= before + epochs, driver)
        time.sleep(random.uniform(0.0, 0.3))
        started = time.monotonic()
        driver.send_signal(number)
        status = driver.wait(timeout=20)
        assert time.monotonic() - started < 10
        workers = {Path("/proc") / process for _, _, process in log(out)[before:]}
        while any(worker.exists() for worker in workers):
            assert time.monotonic() - started < 20, "workers outlive their driver"
            time.sleep(0.05)
    return status


class TestInterrupted:
    """By signals to a driver, with a Ray of its own or on the tests' Ray; the same call, made here, ends the search."""

    def test_by_a_signal_a_search_ends_in_time_and_the_same_call_goes_on(self, tmp_path: Path, local_ray: str) -> None:
        for number, address in ((signal.SIGINT, ""), (signal.SIGTERM, local_ray)):
            assert interrupt(number, 4, "3", "9", "0.2", address, out=tmp_path) == 130
            checked(tmp_path)
        search(tmp_path, 3, 9, 0.0).run()
        assert [(t.status, t.epochs) for t in checked(tmp_path)] == [(Status.FINISHED, 9)] * 3
        assert len(log(tmp_path)) <= 27 + 4, "no more than the epochs in progress are trained twice"

    def test_killed_again_and_again_a_search_ends_as_if_it_had_not_been(self, tmp_path: Path, local_ray: str) -> None:
        for address in ("", local_ray, local_ray):
            assert interrupt(signal.SIGKILL, 1, "4", "60", "0.05", address, out=tmp_path) == -signal.SIGKILL
        search(tmp_path, 4, 60, 0.0).run()
        assert [(t.status, t.epochs) for t in checked(tmp_path)] == [(Status.FINISHED, 60)] * 4
