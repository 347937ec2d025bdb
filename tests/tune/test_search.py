import os
import random
import signal
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import ray
from counting_search import search
from counting_trial import CountingTrial, check
from processes import session, wait_for, workers

from ensemble_tune.errors import ConfigError, RunError
from ensemble_tune.tune.conductor import Goal
from ensemble_tune.tune.ledger import LEDGER, Ledger
from ensemble_tune.tune.ray_runner import start_ray
from ensemble_tune.tune.record import Status, TrialRecord
from ensemble_tune.tune.resources import Resources
from ensemble_tune.tune.search import Search, versions

DRIVER = Path(__file__).with_name("counting_search.py")


@pytest.fixture(scope="module")
def local_ray() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(Path(__file__).parent))  # Where workers find the trial.
        start_ray()
        yield
        ray.shutdown()


def log(out: Path) -> list[list[str]]:
    """Seed, epoch and process of every epoch trained so far."""
    path = out / "log"
    return [line.split() for line in path.read_text().splitlines()] if path.exists() else []


CORES = len(os.sched_getaffinity(0))


def checked(out: Path) -> list[TrialRecord]:
    ledger = Ledger(out / LEDGER)
    trials = ledger.trials()
    check(trials, ledger.epochs())
    return trials


def given(out: Path, *points: dict[str, Any], **options: Any) -> Search:
    goal = Goal(stage="base", metric="score", keep=9)
    return Search(trial=CountingTrial(log=out / "log"), goal=goal, out=out, max_epochs=3, points=points, **options)


@pytest.mark.usefixtures("local_ray")
class TestOnLocalRay:
    def test_a_search_trains_every_trial_and_says_which_is_best(self, tmp_path: Path) -> None:
        told: list[str] = []
        result = replace(search(tmp_path, 6, 3, 0.0), on_end=lambda record: told.append(record.trial)).run()
        trials = checked(tmp_path)
        assert [t.trial for t in result.records] == [t.trial for t in trials] == sorted(told)
        assert [t.status for t in trials] == [Status.FINISHED] * 6
        assert len({process for _, _, process in log(tmp_path)}) <= CORES, "trials share processes"
        assert result.best is not None and result.best.score == max(t.score or 0 for t in trials)
        kept = {path.name for path in (tmp_path / "checkpoints").iterdir()}
        assert kept == {t.trial for t in sorted(trials, key=lambda t: t.score or 0)[-2:]}

    def test_a_finished_search_is_not_run_again_and_an_extended_one_adds_what_is_missing(self, tmp_path: Path) -> None:
        search(tmp_path, 2, 2, 0.0).run()
        before = log(tmp_path)
        search(tmp_path, 2, 2, 0.0).run()
        assert log(tmp_path) == before
        search(tmp_path, 4, 2, 0.0).run()
        assert len(log(tmp_path)) == 2 * len(before) and len(checked(tmp_path)) == 4

    def test_a_failing_trial_is_one_failed_row_and_the_search_goes_on(self, tmp_path: Path) -> None:
        tmp_path.joinpath("log").touch()
        points = [{"rate": rate, "epochs": 3} for rate in (0.1, 0.2, 0.3)]
        points[1]["fails"] = 3
        result = given(tmp_path, *points).run()
        assert [(t.status, t.epochs, t.error) for t in checked(tmp_path)] == [
            (Status.FINISHED, 3, None),
            (Status.FAILED, 2, "ValueError: line one"),
            (Status.FINISHED, 3, None),
        ]
        assert result.best is not None and result.best.number != 1

    def test_points_are_trained_once_and_a_failed_one_again(self, tmp_path: Path) -> None:
        points: list[dict[str, Any]] = [{"rate": 0.5, "epochs": 1, "seed": seed} for seed in (1, 2)]
        points.append({"rate": 0.6, "epochs": 1, "fails": 1})
        given(tmp_path, points[0], points[2]).run()
        given(tmp_path, *points).run()
        assert [(t.seed, t.status) for t in checked(tmp_path) if "fails" not in t.params] == [
            (1, Status.FINISHED),
            (2, Status.FINISHED),
        ]
        assert [t.status for t in checked(tmp_path) if "fails" in t.params] == [Status.FAILED, Status.FAILED]
        given(tmp_path, points[0], again=True).run()
        assert checked(tmp_path)[-1].seed == 1 and len(checked(tmp_path)) == 5

    def test_the_scheduler_stops_trials(self, tmp_path: Path) -> None:
        replace(search(tmp_path, 8, 9, 0.0), scheduler="asha").run()
        trials = checked(tmp_path)
        assert {t.status for t in trials} == {Status.FINISHED, Status.STOPPED}
        assert all((t.epochs == 9) == (t.status is Status.FINISHED) for t in trials)

    def test_a_trial_goes_on_from_its_checkpoint_when_its_worker_is_killed(self, tmp_path: Path) -> None:
        given(tmp_path, {"rate": 0.5, "epochs": 4, "dies": 1}, {"rate": 0.6, "epochs": 4}).run()
        trials = checked(tmp_path)
        assert [(t.status, t.attempt, t.epochs) for t in trials] == [(Status.FINISHED, 2, 4), (Status.FINISHED, 1, 4)]
        assert len(log(tmp_path)) == 8, "nothing was trained twice"

    def test_a_trial_whose_workers_keep_dying_has_failed_and_says_why(self, tmp_path: Path) -> None:
        given(tmp_path, {"rate": 0.5, "epochs": 4, "dies": 9}).run()
        (record,) = checked(tmp_path)
        assert (record.status, record.epochs) == (Status.FAILED, 1)
        assert record.error is not None and record.error.startswith("its worker died 4 times; the last time: ")
        assert "OOM" in record.error and "\n" not in record.error

    def test_a_trial_that_fits_no_machine_is_refused_before_any_starts(self, tmp_path: Path) -> None:
        wish = Resources(cpus=CORES + 1)
        with pytest.raises(
            ConfigError, match=f"asks for {CORES + 1} CPUs.*largest has {CORES}.*lower --cpus-per-trial"
        ):
            replace(search(tmp_path, 2, 2, 0.0), resources=wish).run()
        assert checked(tmp_path) == []
        replace(search(tmp_path, 1, 1, 0.0), resources=Resources(cpus=0.5)).run()
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

    def test_unknown_names_are_refused_and_the_folder_stays_free(self, tmp_path: Path) -> None:
        wrong = search(tmp_path, 1, 1, 0.0)
        for change in ({"scheduler": "ahsa"}, {"goal": replace(wrong.goal, sampler="rnadom")}):
            with pytest.raises(ConfigError, match="did you mean"):
                replace(wrong, **change).run()
        wrong.run()


def test_versions_name_what_results_depend_on() -> None:
    assert {"python", "ray", "optuna", "torch"} <= set(versions())


class TestInterrupted:
    """With drivers of their own, each with a Ray of its own; what they leave is finished on the tests' Ray."""

    def test_by_signals_a_search_ends_in_time_and_the_same_call_goes_on(self, tmp_path: Path, local_ray: None) -> None:
        for number in (signal.SIGINT, signal.SIGTERM):
            before = len(log(tmp_path))
            with session(DRIVER, tmp_path, "3", "9", "0.2") as driver:
                wait_for(lambda before=before: len(log(tmp_path)) >= before + 4, driver)  # type: ignore[misc]
                started = time.monotonic()
                driver.send_signal(number)
                assert driver.wait(timeout=20) == 130
                assert time.monotonic() - started < 10
                assert workers(driver.pid) == []
            checked(tmp_path)
        search(tmp_path, 3, 9, 0.0).run()
        assert [(t.status, t.epochs) for t in checked(tmp_path)] == [(Status.FINISHED, 9)] * 3
        assert len(log(tmp_path)) <= 27 + 4, "no more than the epochs in progress are trained twice"

    def test_killed_again_and_again_a_search_ends_as_if_it_had_not_been(self, tmp_path: Path, local_ray: None) -> None:
        chance = random.Random()
        for _ in range(3):
            known = len(log(tmp_path))
            with session(DRIVER, tmp_path, "4", "40", "0.05") as driver:
                wait_for(lambda known=known: len(log(tmp_path)) > known, driver)  # type: ignore[misc]
                time.sleep(chance.uniform(0.0, 0.5))
                driver.kill()
                driver.wait()
                # Its workers live on a little, and go on to train; then they end too.
                gone = time.monotonic() + 15
                while workers(driver.pid):
                    assert time.monotonic() < gone, "workers outlive their driver"
                    time.sleep(0.05)
        search(tmp_path, 4, 40, 0.0).run()
        assert [(t.status, t.epochs) for t in checked(tmp_path)] == [(Status.FINISHED, 40)] * 4
