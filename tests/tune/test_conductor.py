import math
from collections import deque
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from counting_trial import CountingTrial, check
from records import epoch_record, trial_record

from ensemble_tune.trial import Checkpoint, EpochResult, Params, Trial, Value
from ensemble_tune.tune import conductor
from ensemble_tune.tune.aim import objectives_of
from ensemble_tune.tune.conductor import Assignment, Conductor
from ensemble_tune.tune.decisions import Goal
from ensemble_tune.tune.ledger import Ledger
from ensemble_tune.tune.optuna_sampler import OptunaSampler
from ensemble_tune.tune.record import EpochRecord, Objective, Status, TrialRecord, best_of, rank
from ensemble_tune.tune.resources import Resources
from ensemble_tune.tune.room import Placement
from ensemble_tune.tune.sampler import NoSampler, make_sampler
from ensemble_tune.tune.scheduler import Decision, make_scheduler
from ensemble_tune.tune.search import Search
from ensemble_tune.tune.search_space import SearchSpace
from ensemble_tune.tune.trainable import REPORT, RayTrial
from ensemble_tune.tune.trial_folder import TrialFolder, unwritten

pytestmark = pytest.mark.usefixtures("no_ray")

SPACE = SearchSpace.parse("[parameters]\nrate = { low = 0.0, high = 1.0 }\nepochs = 3")
GOAL = Goal(stage="base", metric="score", keep=2, sampler="random")

OPENED: list[Ledger] = []


class KilledError(BaseException):
    """Stands for the death of the process."""


@dataclass
class Run:
    """One process's life on a run folder: a conductor, and a runner of two slots that is no Ray."""

    out: Path
    goal: Goal = GOAL
    wanted: int = 4
    trial: Trial = field(default_factory=CountingTrial)
    scheduler: str = "none"
    points: tuple[Mapping[str, Value], ...] = ()
    options: dict[str, Any] = field(default_factory=dict)
    ended: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.ledger = Ledger(self.out / "ledger")
        self.ledger.open()
        OPENED.append(self.ledger)
        searches = self.goal.sampler != "given"
        self.conductor = Conductor(
            self.goal,
            sampler=make_sampler(self.goal.sampler, SPACE, seed=0, objectives=self.goal.objectives)
            if searches
            else NoSampler(),
            trials=self.wanted if searches else 0,
            scheduler=make_scheduler(self.scheduler, max_epochs=3, mode="max", grace=1, factor=2),
            ledger=self.ledger,
            checkpoints=self.out / "checkpoints",
            points=self.points,
            on_end=lambda record: self.ended.append(record.trial),
            **self.options,
        )

    def worker(self, assignment: Assignment) -> RayTrial:
        made = object.__new__(RayTrial)
        shared = (self.trial, self.goal, self.out / "checkpoints")
        made.setup({"assignment": assignment, "shared": shared, "placement": Placement(share=Resources(gpus=0))})
        return made

    def to_the_end(self) -> "Run":
        workers: deque[tuple[Assignment, RayTrial]] = deque()
        while True:
            while len(workers) < 2 and (assignment := self.conductor.next()) is not None:
                workers.append((assignment, self.worker(assignment)))
            if not workers:
                break
            assignment, made = workers.popleft()
            report = made.step()[REPORT]
            decisions = [self.conductor.epoch(row) for row in report.rows]
            if report.ended or Decision.GO_ON not in decisions[-1:]:
                self.conductor.ended(assignment.trial, Status.FAILED if report.error else None, report.error)
            else:
                workers.append((assignment, made))
            self.conductor.look()
        self.conductor.close()
        self.ledger.close()
        return self

    @property
    def trials(self) -> list[TrialRecord]:
        return Ledger(self.out / "ledger").trials(self.goal.stage)

    @property
    def rows(self) -> list[EpochRecord]:
        return Ledger(self.out / "ledger").epochs(self.goal.stage)

    def kept(self) -> dict[str, set[int]]:
        """The epochs whose checkpoint is there, by trial."""
        found: dict[str, set[int]] = {}
        for path in (self.out / "checkpoints").glob("*/attempt-*/*"):
            found.setdefault(path.parts[-3], set()).add(int(path.name.removeprefix("epoch-")))
        return found


def best_epochs(trials: list[TrialRecord], keep: int) -> dict[str, set[int | None]]:
    return {record.trial: {record.best_epoch} for record in rank(trials, "max")[:keep]}


def test_a_search_ends_with_every_trial_and_epoch_once(tmp_path: Path) -> None:
    run = Run(tmp_path).to_the_end()
    check(run.trials, run.rows)
    assert [(t.number, t.status, t.epochs, t.attempt) for t in run.trials] == [
        (number, Status.FINISHED, 3, 1) for number in range(4)
    ]
    assert run.ended == ["base-0000", "base-0001", "base-0002", "base-0003"]
    assert all(t.sampler == "random" and t.ended is not None and "seed" not in t.params for t in run.trials)
    for record in run.trials:
        own = [row for row in run.rows if row.trial == record.trial]
        assert record.score == max(row.scores["score"] for row in own)
        assert record.seconds == pytest.approx(sum(row.busy for row in own))


def test_the_best_trials_keep_their_best_checkpoint_and_the_others_none(tmp_path: Path) -> None:
    run = Run(tmp_path).to_the_end()
    assert run.kept() == best_epochs(run.trials, 2)
    assert not list((tmp_path / "checkpoints").glob("**/.partial-*"))


def test_a_session_keeps_the_objectives_that_its_search_went_after(tmp_path: Path) -> None:
    after = [Objective("score"), Objective("seconds", "min")]
    for stage, goal in (("base", replace(GOAL, also=tuple(after[1:]))), ("meta", replace(GOAL, stage="meta"))):
        run = Run(tmp_path / stage, goal)
        run.conductor.start(places=2, nodes=1, gpus=0.0)
        run.to_the_end()
        sessions = Ledger(tmp_path / stage / "ledger").sessions()
        assert len(sessions) == 1 and objectives_of(sessions, stage) == (after if stage == "base" else [])


def test_checkpoints_that_there_was_no_time_to_remove_go_at_the_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(conductor, "_RETAIN_SECONDS", -1.0)
    monkeypatch.setattr(Ledger, "flush_if_due", Ledger.flush)
    left: list[int] = []
    retain = Conductor._retain

    def watched(self: Conductor, seconds: float = math.inf) -> None:
        retain(self, seconds)
        left.append(len(self._ended))

    monkeypatch.setattr(Conductor, "_retain", watched)
    run = Run(tmp_path).to_the_end()
    assert max(left) == 4 and left[-1] == 0
    assert run.kept() == best_epochs(run.trials, 2)


def test_what_has_no_folder_any_more_is_not_looked_at_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In a store each look takes long, and a search may have thousands of trials."""
    before = Run(tmp_path, wanted=9).to_the_end().kept()
    looked_at: list[str] = []
    for name in ("keep", "remove", "clear_partial", "forget"):
        own = getattr(TrialFolder, name)

        def watched(self: TrialFolder, *args: Any, own: Any = own) -> None:
            looked_at.append(self.path.name)
            own(self, *args)

        monkeypatch.setattr(TrialFolder, name, watched)
    again = Run(tmp_path, wanted=11)
    assert set(before) <= set(looked_at) and len(set(looked_at)) <= 2 * len(before) == 4, "as many as are kept, at most"
    assert again.to_the_end().kept() == best_epochs(again.trials, 2)


def test_a_protected_trial_keeps_its_checkpoint(tmp_path: Path) -> None:
    run = Run(tmp_path, replace(GOAL, keep=1), options={"protected": frozenset({f"base-000{i}" for i in range(4)})})
    assert set(run.to_the_end().kept()) == {"base-0000", "base-0001", "base-0002", "base-0003"}


def test_points_come_first_and_do_not_count_as_proposals(tmp_path: Path) -> None:
    points = ({"rate": 7.5, "epochs": 2}, {"rate": 0.25, "epochs": 3, "seed": 99})
    run = Run(tmp_path, GOAL, 2, points=points).to_the_end()
    check(run.trials, run.rows)
    assert [t.sampler for t in run.trials] == ["given", "given", "random", "random"]
    assert [t.params["rate"] for t in run.trials[:2]] == [7.5, 0.25]
    assert run.trials[1].seed == 99 and len({t.seed for t in run.trials}) == 4


def test_a_given_training_keeps_its_last_checkpoint(tmp_path: Path) -> None:
    goal = Goal(stage="final", metric="score", keep=9, worth="last")
    run = Run(tmp_path, goal, points=({"rate": 0.5, "epochs": 5},)).to_the_end()
    assert run.kept() == {"final-0000": {5}} and run.trials[0].best_epoch == 5


def test_the_scheduler_stops_trials_and_says_so(tmp_path: Path) -> None:
    run = Run(tmp_path, GOAL, 12, scheduler="asha").to_the_end()
    check(run.trials, run.rows)
    stopped = [t for t in run.trials if t.status is Status.STOPPED]
    assert stopped and all(t.epochs < 3 for t in stopped)
    assert all(t.epochs == 3 for t in run.trials if t.status is Status.FINISHED)


def test_a_failed_trial_has_its_reason_and_no_checkpoint(tmp_path: Path) -> None:
    goal = Goal(stage="base", metric="score", keep=9)
    run = Run(tmp_path, goal, points=({"rate": 0.5, "epochs": 3, "fails": 2}, {"rate": 0.6, "epochs": 3}))
    run.to_the_end()
    assert [(t.status, t.error) for t in run.trials] == [
        (Status.FAILED, "ValueError: line one"),
        (Status.FINISHED, None),
    ]
    assert [row.epoch for row in run.rows if row.number == 0] == [1]
    assert set(run.kept()) == {"base-0001"}


def nameless(params: Params, resume: Checkpoint | None) -> Iterator[EpochResult]:
    for epoch in (1, 2):
        yield EpochResult(epoch=epoch, scores={"score": float("nan")})


def test_a_trial_that_never_had_a_score_keeps_no_checkpoint(tmp_path: Path) -> None:
    run = Run(tmp_path, GOAL, 1, trial=nameless).to_the_end()
    assert [(t.status, t.score, t.best_epoch) for t in run.trials] == [(Status.FINISHED, None, None)]
    assert run.kept() == {}


def test_more_trials_on_a_finished_search_are_only_those_missing(tmp_path: Path) -> None:
    log = tmp_path / "log"
    Run(tmp_path, GOAL, 2, trial=CountingTrial(log=log)).to_the_end()
    run = Run(tmp_path, trial=CountingTrial(log=log)).to_the_end()
    check(run.trials, run.rows)
    assert run.ended == ["base-0002", "base-0003"] and len(log.read_text().splitlines()) == 12
    assert run.kept() == best_epochs(run.trials, 2)
    assert Run(tmp_path).conductor.done


@pytest.mark.parametrize(
    ("scheduler", "often", "stride"),
    [("none", False, 1), ("none", True, 2), ("asha", True, 1), ("asha-promote", True, 2)],
)
def test_killed_at_any_moment_a_search_goes_on_and_loses_or_doubles_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, scheduler: str, often: bool, stride: int
) -> None:
    """Dies before every write to the disk in turn, each time in a run folder of its own."""
    if often:
        monkeypatch.setattr(Ledger, "flush_if_due", lambda ledger: ledger.flush() or True)
    left = -1

    def tick() -> None:
        nonlocal left
        left -= 1
        if left == 0:
            raise KilledError

    def dying(kind: type, name: str) -> None:
        real = getattr(kind, name)

        def act(*args: Any, **options: Any) -> Any:
            tick()
            return real(*args, **options)

        monkeypatch.setattr(kind, name, act)

    for kind, name in ((Ledger, "flush"), (TrialFolder, "save"), (TrialFolder, "keep"), (TrialFolder, "remove")):
        dying(kind, name)
    goal = replace(GOAL, keep=1)
    moment, deaths = 0, 0
    while deaths == moment:
        moment += 1
        out = tmp_path / str(moment)
        log = tmp_path / f"{moment}.log"
        left = 1 + stride * (moment - 1)
        run = None
        try:
            run = Run(out, goal, 3, CountingTrial(log=log), scheduler).to_the_end()
        except KilledError:
            deaths += 1
            OPENED[-1]._writer._lock.release(force=True)
        left = -1
        if run is None:
            run = Run(out, goal, 3, CountingTrial(log=log), scheduler).to_the_end()
        check(run.trials, run.rows)
        assert [t.number for t in run.trials] == [0, 1, 2]
        assert all(t.status is not Status.RUNNING for t in run.trials)
        assert run.kept() == best_epochs(run.trials, 1), f"moment {moment}"
        trained = log.read_text().splitlines()
        assert len(trained) - len(run.rows) <= 2, "at most the epoch in progress of each of two trials is trained twice"
    assert deaths > 10


def test_a_trial_that_had_been_let_go_on_is_not_stopped_by_a_later_look(tmp_path: Path) -> None:
    """Clocks of two machines differ: trial 0 was first at the rung and went on, but reads as if it had come second."""
    ledger = Ledger(tmp_path / "ledger")
    ledger.open()
    for number, epochs in ((0, 2), (1, 1)):
        record = trial_record(number, status=Status.RUNNING, params={"rate": 0.5, "epochs": 3}, sampler="random")
        ledger.put_trial(record)
        late = timedelta(hours=1 - number)
        rows = [epoch_record(number, epoch, {"score": 0.5 + number / 10}) for epoch in range(1, epochs + 1)]
        rows = [replace(row, reported=row.reported + late) for row in rows]
        worker = TrialFolder(tmp_path / "checkpoints" / record.trial)
        worker.save(worker.claim_attempt(), EpochResult(epoch=epochs, scores={}), rows)
    ledger.close()
    run = Run(tmp_path, GOAL, 2, scheduler="asha")
    assert [a.trial for a in (run.conductor.next(), run.conductor.next()) if a] == ["base-0000", "base-0001"]
    run.ledger.close()


def test_rows_that_only_a_checkpoint_had_come_back(tmp_path: Path) -> None:
    run = Run(tmp_path, GOAL, 1)
    assignment = run.conductor.next()
    assert assignment is not None
    worker = run.worker(assignment)
    worker.step()
    worker.step()
    run.ledger.close()
    assert run.rows == []
    again = Run(tmp_path, GOAL, 1)
    assert [row.epoch for row in again.rows] == [1, 2] and again.trials[0].epochs == 2
    again.to_the_end()
    check(again.trials, again.rows)


def test_rows_that_no_checkpoint_backs_are_trained_again(tmp_path: Path) -> None:
    run = Run(tmp_path, GOAL, 1)
    assignment = run.conductor.next()
    assert assignment is not None
    worker = run.worker(assignment)
    for _ in range(2):
        assert all(run.conductor.epoch(row) is Decision.GO_ON for row in worker.step()[REPORT].rows)
    run.ledger.close()
    run.conductor.folder("base-0000").remove()
    again = Run(tmp_path, GOAL, 1)
    assert again.rows == [] and again.trials[0].epochs == 0
    again.to_the_end()
    check(again.trials, again.rows)


def test_a_row_of_a_replaced_attempt_changes_nothing(tmp_path: Path) -> None:
    run = Run(tmp_path, GOAL, 1)
    run.conductor.next()
    for row in (epoch_record(0, 1, {"score": 0.1}, attempt=2), epoch_record(0, 2, {"score": 0.2}, attempt=2)):
        assert run.conductor.epoch(row) is Decision.GO_ON
    for late in (epoch_record(0, 3, {"score": 0.9}, attempt=1), epoch_record(0, 2, {"score": 0.9}, attempt=3)):
        assert run.conductor.epoch(late) is Decision.GO_ON, "an epoch counts once"
    run.conductor.ended("base-0000")
    late = epoch_record(0, 3, {"score": 0.9}, attempt=3)
    assert run.conductor.epoch(late) is Decision.STOP, "an ended trial has no more epochs"
    run.conductor.ended("base-0000", Status.FAILED, "too late")
    run.ledger.close()
    assert [(row.epoch, row.attempt, row.scores["score"]) for row in run.rows] == [(1, 2, 0.1), (2, 2, 0.2)]
    assert [(t.status, t.score, t.error) for t in run.trials] == [(Status.FINISHED, 0.2, None)]


def test_a_trial_that_runs_out_of_memory_keeps_its_figures_and_no_checkpoint(tmp_path: Path) -> None:
    run = Run(tmp_path, GOAL, 1)
    run.conductor.next()
    run.conductor.note_gpu("base-0000", {"share": 0.25, "ran_out": 0.25})
    run.conductor.epoch(replace(epoch_record(0, 1, {"score": 0.1}), gpu={"share": 0.5, "card": "3f/0"}))
    run.conductor.ended("base-0000", Status.OUT_OF_MEMORY, "out of memory")
    run.conductor.note_gpu("base-0000", {"share": 1.0})
    run.conductor.close()
    run.ledger.close()
    (trial,) = run.trials
    assert (trial.status, trial.error) == (Status.OUT_OF_MEMORY, "out of memory")
    assert trial.gpu == {"share": 0.5, "ran_out": 0.25} and not trial.ended_well
    assert best_of(run.trials, "max") is None and not run.kept()


def test_a_trial_that_was_taken_out_of_the_ledger_leaves_nothing_behind(tmp_path: Path) -> None:
    Run(tmp_path).to_the_end()
    for part in (tmp_path / "ledger" / "trials").iterdir():
        part.unlink()
    run = Run(tmp_path, replace(GOAL, seed=5)).to_the_end()
    check(run.trials, run.rows)
    assert len(run.trials) == 4 and len(run.rows) == 12


def test_another_searchs_interrupted_trials_are_left_alone(tmp_path: Path) -> None:
    first = Run(tmp_path, GOAL, 1)
    first.conductor.next()
    first.conductor.epoch(epoch_record(0, 1, {"score": 0.5}))
    first.ledger.close()
    run = Run(tmp_path, GOAL, 1, options={"belongs": lambda record: record.number != 0})
    run.to_the_end()
    assert [(t.number, t.status, t.epochs) for t in run.trials] == [(0, Status.RUNNING, 1), (1, Status.FINISHED, 3)]
    assert [row.epoch for row in run.rows if row.number == 0] == [1]


def test_another_searchs_trials_keep_their_checkpoints(tmp_path: Path) -> None:
    first = Run(tmp_path, GOAL, 2).to_the_end()
    before = first.kept()
    assert len(before) == 2
    again = Run(tmp_path, replace(GOAL, keep=0), 2, options={"belongs": lambda record: record.number > 1}).to_the_end()
    assert len(again.trials) == 4 and again.kept() == before


def test_a_trial_that_was_stopped_when_its_process_died_trains_no_further(tmp_path: Path) -> None:
    run = Run(tmp_path, GOAL, 2, scheduler="asha")
    for number, score in ((0, 0.9), (1, 0.1)):
        assignment = run.conductor.next()
        assert assignment is not None
        row = epoch_record(number, 1, {"score": score})
        run.conductor.folder(assignment.trial).save(1, EpochResult(epoch=1, scores={}), [row])
        assert run.conductor.epoch(row) is (Decision.STOP if number else Decision.GO_ON)
    run.ledger.close()
    again = Run(tmp_path, GOAL, 2, scheduler="asha")
    assert [t.status for t in again.conductor.records()] == [Status.RUNNING, Status.STOPPED]
    assert again.ended == ["base-0001"]
    again.ledger.close()


def test_the_sampler_is_told_of_the_trials_of_an_earlier_process(tmp_path: Path) -> None:
    goal = replace(GOAL, sampler="tpe")
    Run(tmp_path, goal).to_the_end()
    again = Run(tmp_path, goal, 16)
    sampler = again.conductor._decisions._sampler
    assert isinstance(sampler, OptunaSampler) and len(sampler._study.trials) == 4
    again.to_the_end()
    check(again.trials, again.rows)


def test_what_a_dying_process_was_removing_goes_with_the_next(tmp_path: Path) -> None:
    (tmp_path / "checkpoints" / ".partial-0-base-0000" / "attempt-0001").mkdir(parents=True)
    Run(tmp_path).ledger.close()
    assert list((tmp_path / "checkpoints").iterdir()) == []


def test_a_given_point_whose_row_was_lost_is_no_second_trial(tmp_path: Path) -> None:
    points = ({"rate": 0.1, "epochs": 2}, {"rate": 0.2, "epochs": 2})
    whole = Search(trial=CountingTrial(), metric="score", stage="base", out=tmp_path, max_epochs=2, points=points)
    record = trial_record(0, status=Status.RUNNING, params=points[0], sampler="given", seed=7)
    folder = TrialFolder(tmp_path / "checkpoints" / "base-0000")
    folder.claim_attempt()
    folder.remember(record)
    known = list(unwritten(tmp_path / "checkpoints", "base", set()))
    assert whole._missing(known) == [points[1]]
