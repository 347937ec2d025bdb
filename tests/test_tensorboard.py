import math
import time
from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.hparams import metadata
from tiny_run import Finished, epochs_of, trials_of
from written_run import base, usual_run, write_run

from ensemble_tune import tensorboard
from ensemble_tune.event_files import RunEvents
from ensemble_tune.settings import Settings
from ensemble_tune.tensorboard import logged, write_logs
from ensemble_tune.tune.ledger import LEDGER, Ledger
from ensemble_tune.tune.record import EpochRecord, Status, TrialRecord

Scalars = dict[str, list[tuple[int, float]]]


def _read(folder: Path) -> Scalars:
    """Every scalar of a trial as TensorBoard reads it: step and value, in order."""
    return _scalars(EventAccumulator(str(folder)).Reload())


def _scalars(events: EventAccumulator) -> Scalars:
    found = {tag: [(event.step, event.value) for event in events.Scalars(tag)] for tag in events.Tags()["scalars"]}
    return {tag: points for tag, points in found.items() if points}  # an open board keeps the names of what it forgot


def _expected(trial: TrialRecord, rows: list[EpochRecord]) -> Scalars:
    found: Scalars = {}
    for row in rows:
        for name, value in {**row.scores, **{f"seconds.{part}": value for part, value in row.seconds.items()}}.items():
            if not math.isnan(value):
                found.setdefault(name.replace(".", "/", 1), []).append((row.epoch, pytest.approx(value, rel=1e-6)))
    if trial.score is not None:
        found["trial/score"] = [(trial.best_epoch or 0, pytest.approx(trial.score, rel=1e-6))]
    found["trial/seconds"] = [(trial.epochs, pytest.approx(trial.seconds, rel=1e-6))]
    return found


def _assert_whole(folder: Path, *outs: Path) -> None:
    trials = [trial for out in outs for trial in trials_of(out)]
    assert sorted(path.name for path in folder.iterdir()) == sorted(trial.trial for trial in trials)
    rows = [row for out in outs for row in epochs_of(out)]
    for trial in trials:
        own = [row for row in rows if row.trial == trial.trial]
        assert _read(folder / trial.trial) == _expected(trial, own), trial.trial


def _row(epoch: int, score: float, attempt: int = 1) -> EpochRecord:
    return EpochRecord(
        trial="base-0000",
        stage="base",
        number=0,
        attempt=attempt,
        epoch=epoch,
        scores={"miou": score},
        seconds={},
        reported=datetime.now(UTC),
    )


def test_an_interrupted_run_that_logs_has_every_row_of_its_ledgers_once(finished: Finished) -> None:
    _assert_whole(finished.folder / "tensorboard", finished.out, finished.out / "final")


def test_logs_of_a_run_can_be_written_afterwards_and_again(finished: Finished, tmp_path: Path) -> None:
    for _ in range(2):
        count = write_logs(finished.out, tmp_path / "logs")
        assert count == len(list((tmp_path / "logs").iterdir()))
        _assert_whole(tmp_path / "logs", finished.out, finished.out / "final")


def test_parameters_and_the_end_are_in_the_hparams_tab(tmp_path: Path) -> None:
    out = usual_run(tmp_path / "run")
    write_logs(out, tmp_path / "logs")
    for trial in trials_of(out):
        told = _hparams(tmp_path / "logs" / trial.trial)
        start = metadata.parse_session_start_info_plugin_data(told[metadata.SESSION_START_INFO_TAG])
        kinds = {str: "string_value", bool: "bool_value"}
        found = {name: getattr(value, value.WhichOneof("kind")) for name, value in start.hparams.items()}
        assert found == {**trial.params, "seed": trial.seed}
        for name, value in trial.params.items():
            assert start.hparams[name].WhichOneof("kind") == kinds.get(type(value), "number_value")
        end = metadata.parse_session_end_info_plugin_data(told[metadata.SESSION_END_INFO_TAG])
        assert (end.status == 1) is (trial.status is not Status.FAILED)


def _hparams(folder: Path) -> Mapping[str, bytes]:
    events = EventAccumulator(str(folder)).Reload()
    return {
        tag: events.SummaryMetadata(tag).plugin_data.content for tag in events.PluginTagToContent(metadata.PLUGIN_NAME)
    }


def test_logs_follow_a_ledger_and_forget_what_was_trained_again(tmp_path: Path) -> None:
    """As fresh eyes read them, and as a TensorBoard does that was open all the time."""
    ledger = Ledger(tmp_path / "run" / LEDGER)
    ledger.open()
    events = RunEvents(Ledger(tmp_path / "run" / LEDGER), tmp_path / "logs")
    assert events.update() == 0
    trial = replace(base(0, None, status=Status.RUNNING), ended=None)
    open_board = None

    def put(trial: TrialRecord, *rows: EpochRecord) -> None:
        nonlocal open_board
        ledger.put_trial(trial)
        for row in rows:
            ledger.put_epoch(row)
        ledger.flush()
        events.update()
        open_board = open_board or EventAccumulator(str(tmp_path / "logs" / trial.trial))
        open_board.Reload()

    def both() -> Scalars:
        assert open_board is not None and _scalars(open_board) == _read(tmp_path / "logs" / trial.trial)
        return _scalars(open_board)

    put(trial)
    assert both() == {}
    put(trial, _row(1, 0.25))
    put(trial, _row(2, 0.5))
    assert both() == {"miou": [(1, 0.25), (2, 0.5)]}
    paused = replace(trial, status=Status.PAUSED, best_epoch=2, score=0.5)
    put(paused)
    put(replace(paused, status=Status.RUNNING))
    ledger.drop_epochs_after(trial, 1)
    put(trial, _row(2, 0.125, attempt=2))
    assert both() == {"miou": [(1, 0.25), (2, 0.125)]}
    put(replace(trial, status=Status.FINISHED, best_epoch=1, score=0.25, epochs=2, seconds=8.0))
    for _ in range(2):
        assert both() == {
            "miou": [(1, 0.25), (2, 0.125)],
            "trial/score": [(1, 0.25)],
            "trial/seconds": [(2, 8.0)],
        }
        events.update()
    events.close()
    ledger.close()


def test_a_search_is_followed_while_it_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tensorboard, "_LOOK_SECONDS", 0.01)
    settings = Settings(data="synthetic", out=tmp_path / "run", tensorboard=tmp_path / "logs")
    logs = tmp_path / "logs" / "base-0000"
    with logged(settings):
        write_run(tmp_path / "run", base(0, 0.5))
        until = time.monotonic() + 60
        while not (logs.exists() and "trial/score" in _read(logs)) and time.monotonic() < until:
            time.sleep(0.01)
        _assert_whole(tmp_path / "logs", tmp_path / "run")


def test_what_came_after_the_last_look_is_there_at_the_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tensorboard, "_LOOK_SECONDS", 600)
    with logged(Settings(data="synthetic", out=tmp_path / "run", tensorboard=tmp_path / "logs")):
        write_run(tmp_path / "run", base(0, 0.5), base(1, 0.25))
    _assert_whole(tmp_path / "logs", tmp_path / "run")


def test_logs_that_cannot_be_written_any_more_stop_no_search(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(tensorboard, "_LOOK_SECONDS", 600)
    with logged(Settings(data="synthetic", out=tmp_path / "run", tensorboard=tmp_path / "logs")):
        write_run(tmp_path / "run", base(0, 0.5))
        (tmp_path / "logs").rmdir()
        (tmp_path / "logs").write_text("no folder any more")
    assert "the TensorBoard logs are behind: " in caplog.text
