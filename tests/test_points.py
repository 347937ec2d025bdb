from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import pytest
from tiny_run import settings

from ensemble_tune.errors import RunError
from ensemble_tune.points import train_points
from ensemble_tune.settings import Settings
from ensemble_tune.trial import Checkpoint, EpochResult, Params
from ensemble_tune.tune.ledger import LEDGER, Ledger
from ensemble_tune.tune.record import Status, TrialRecord


@pytest.fixture
def here(tmp_path: Path) -> Settings:
    return settings(tmp_path / "data", tmp_path / "run", tmp_path / "cache")


def _trial(kind: str = "") -> object:
    @dataclass(frozen=True)
    class Plain:
        """Two epochs of nothing; defined here, so that it travels to the worker by value."""

        kind: str

        def __call__(self, params: Params, resume: Checkpoint | None, /) -> Iterator[EpochResult]:
            if params.get("fails"):
                raise RuntimeError("no luck")
            for epoch in range(1 + (resume.epoch if resume else 0), 3):
                yield EpochResult(epoch=epoch, scores={"miou": float(params["x"]), "kind": float(len(self.kind))})

    return Plain(kind)


def _train(here: Settings, *points: Params, kind: str = "", **how: object) -> list[TrialRecord]:
    return train_points(
        here,
        stage="final",
        trial=_trial(kind),  # type: ignore[arg-type]
        points=points,
        provenance={"data": "da7a"},
        **how,  # type: ignore[arg-type]
    )


def _put(here: Settings, status: Status, params: Params, number: int = 0, seed: int = 0) -> None:
    """A trial in the ledger, as an earlier process left it."""
    ledger = Ledger(here.out / LEDGER)
    ledger.open()
    trial = TrialRecord(
        trial=f"final-{number:04d}",
        stage="final",
        number=number,
        status=status,
        params=params,
        seed=seed,
        started=datetime.now(UTC),
        provenance={"data": "da7a"},
    )
    ledger.put_trial(trial)
    ledger.close()


def _ledger(here: Settings) -> list[tuple[str, Status, int]]:
    return [(record.trial, record.status, record.epochs) for record in Ledger(here.out / LEDGER).trials()]


def test_points_are_trained_to_their_last_epoch_and_come_back_in_their_order(here: Settings) -> None:
    records = _train(here, {"x": 2}, {"x": 1}, {"x": 3})
    assert [(record.params["x"], record.epochs, record.score) for record in records] == [
        (2, 2, 2),
        (1, 2, 1),
        (3, 2, 3),
    ]
    again = _train(here, {"x": 3}, {"x": 2})
    assert [record.trial for record in again] == ["final-0002", "final-0000"] and len(_ledger(here)) == 3


def test_a_finished_point_is_trained_again_where_what_it_left_behind_is_gone(here: Settings) -> None:
    _put(here, Status.FINISHED, {"x": 1})
    (record,) = _train(here, {"x": 1}, done=lambda point, finished: not finished)
    assert record.trial == "final-0001" and record.epochs == 2


def test_a_point_that_needs_no_training_has_no_trial(here: Settings) -> None:
    assert _train(here, {"x": 1}, done=lambda point, finished: True) == []
    assert _ledger(here) == []


def test_an_interrupted_point_goes_on_though_nothing_is_left_to_do(here: Settings) -> None:
    """As where a process died between its last predictions and its last row."""
    _put(here, Status.RUNNING, {"x": 1})
    (record,) = _train(here, {"x": 1}, done=lambda point, finished: True)
    assert (record.trial, record.status, record.epochs) == ("final-0000", Status.FINISHED, 2)


def test_an_interrupted_trial_of_something_else_waits_for_its_own_kind(here: Settings) -> None:
    """Members, fusion and measurement of a final training share a stage, but each is another kind of trial."""
    _put(here, Status.RUNNING, {"x": 5, "kind": "fusion"})
    _train(here, {"x": 1}, kind="member")
    assert _ledger(here) == [("final-0000", Status.RUNNING, 0), ("final-0001", Status.FINISHED, 2)]
    (fusion,) = _train(here, {"x": 5, "kind": "fusion"}, kind="a fusion")
    assert fusion.trial == "final-0000" and fusion.scores["kind"] == len("a fusion")


def test_another_seed_is_another_point(here: Settings) -> None:
    _put(here, Status.FINISHED, {"x": 1}, seed=3)
    assert [r.trial for r in _train(here, {"x": 1, "seed": 3})] == ["final-0000"]
    (other,) = _train(here, {"x": 1, "seed": 4})
    assert (other.trial, other.seed) == ("final-0001", 4)


def test_a_setting_more_or_less_is_another_point(here: Settings) -> None:
    _put(here, Status.FINISHED, {"x": 1, "decoder_attention": "scse"})
    assert [record.trial for record in _train(here, {"x": 1})] == ["final-0001"]


def test_a_failed_training_is_one_line_and_is_tried_again(here: Settings) -> None:
    with pytest.raises(RunError, match="final-0000 failed: RuntimeError: no luck; mend the cause, then run the same"):
        _train(here, {"x": 1, "fails": True})
    with pytest.raises(RunError, match="final-0001 failed"):
        _train(here, {"x": 1, "fails": True})
