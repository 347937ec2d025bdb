import errno
import json
import multiprocessing
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from records import epoch_record, trial_record
from small_disk import small_disk

from ensemble_tune.errors import RunError, StorageFullError
from ensemble_tune.object_path import ObjectPath
from ensemble_tune.storage import Location, names_in
from ensemble_tune.trial import EpochResult
from ensemble_tune.tune import trial_folder
from ensemble_tune.tune.record import Status
from ensemble_tune.tune.trial_folder import TrialFolder, rows_of, unwritten


def save(folder: TrialFolder, attempt: int, epoch: int, text: str = "state") -> None:
    result = EpochResult(epoch=epoch, scores={}, save=lambda path: (path / "state").write_text(text) and None)
    folder.save(attempt, result, [epoch_record(0, past, attempt=attempt) for past in range(1, epoch + 1)])


@pytest.fixture
def naps(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The seconds that would have been slept."""
    slept: list[float] = []
    monkeypatch.setattr(time, "sleep", slept.append)
    return slept


def epochs(folder: TrialFolder) -> list[str]:
    """All checkpoints, and what is left of others."""
    if isinstance(folder.path, Path):
        return sorted(str(path.relative_to(folder.path)) for path in folder.path.glob("*/*"))
    return sorted({"/".join(name.split("/")[:2]) for name in folder.path.objects() if "/epoch-" in name})


def test_a_checkpoint_carries_the_trials_rows(place: Location) -> None:
    folder = TrialFolder(place / "base-0000")
    assert folder.latest() is None and folder.history() == (None, [])
    save(folder, folder.claim_attempt(), 3)
    checkpoint, rows = folder.history()
    assert checkpoint is not None and checkpoint == folder.latest()
    assert checkpoint.epoch == 3 and (checkpoint.folder / "state").read_text() == "state"
    assert rows == rows_of(checkpoint) == [epoch_record(0, epoch) for epoch in (1, 2, 3)]


def test_a_checkpoint_that_fails_to_be_written_is_tried_again_and_then_not_there(
    tmp_path: Path, naps: list[float]
) -> None:
    folder = TrialFolder(tmp_path / "base-0000")

    def fails(path: Path) -> None:
        (path / "state").write_text("half")
        raise OSError(errno.EIO, "Input/output error")

    attempt = folder.claim_attempt()
    save(folder, attempt, 1)
    with pytest.raises(
        RunError, match=r"epoch-00002 must be written, but that failed 4 times \(Input/output error\); mend"
    ):
        folder.save(attempt, EpochResult(epoch=2, scores={}, save=fails), [])
    assert naps == [0.1, 0.2, 0.4]
    assert epochs(folder) == ["attempt-0001/epoch-00001"]


def test_a_checkpoint_is_there_whole_after_a_write_that_failed_once(tmp_path: Path, naps: list[float]) -> None:
    folder = TrialFolder(tmp_path / "base-0000")

    def fails_once(path: Path) -> None:
        assert list(path.iterdir()) == [], "each try gets an empty folder"
        (path / "state").write_text("state")
        if not naps:
            raise OSError(errno.ESTALE, "Stale file handle")

    folder.save(folder.claim_attempt(), EpochResult(epoch=1, scores={}, save=fails_once), [epoch_record(0, 1)])
    checkpoint, rows = folder.history()
    assert naps == [0.1] and checkpoint is not None and len(rows) == 1
    assert epochs(folder) == ["attempt-0001/epoch-00001"]


def test_an_error_of_the_trial_itself_is_raised_as_it_is(tmp_path: Path, naps: list[float]) -> None:
    folder = TrialFolder(tmp_path / "base-0000")

    def fails(path: Path) -> None:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        folder.save(folder.claim_attempt(), EpochResult(epoch=1, scores={}, save=fails), [])
    assert naps == [] and epochs(folder) == []


def _write_2_mb(folder: Path) -> None:
    (folder / "state").write_bytes(bytes(2**21))


def _save_2_mb_of_tensors(folder: Path) -> None:
    import numpy
    from safetensors.numpy import save_file

    save_file({"state": numpy.zeros(2**18)}, folder / "state")


@pytest.mark.parametrize("write", [_write_2_mb, _save_2_mb_of_tensors])
def test_a_full_disk_is_told_at_once_and_keeps_the_checkpoint_before(
    tmp_path: Path, naps: list[float], write: Callable[[Path], None]
) -> None:
    with small_disk(tmp_path / "disk") as disk:
        folder = TrialFolder(disk / "base-0000")
        attempt = folder.claim_attempt()
        save(folder, attempt, 1)
        with pytest.raises(
            StorageFullError, match=r"epoch-00002 must be written, but its disk or quota is full"
        ) as error:
            folder.save(attempt, EpochResult(epoch=2, scores={}, save=write), [])
        assert "MB are free" in str(error.value) and "\n" not in str(error.value)
        assert naps == [] and epochs(folder) == ["attempt-0001/epoch-00001"]
        assert len(folder.history()[1]) == 1


def test_the_newest_attempt_counts_even_where_an_older_one_came_further(place: Location) -> None:
    folder = TrialFolder(place / "base-0000")
    first = folder.claim_attempt()
    save(folder, first, 2, "old")
    save(folder, first, 7, "old")
    second = folder.claim_attempt()
    latest = folder.latest()
    assert latest is not None and latest.epoch == 7, "an attempt without a checkpoint counts as none"
    save(folder, second, 2, "new")
    latest, at = folder.latest(), folder.at(2)
    assert latest is not None and latest.epoch == 2
    assert at is not None and (at.folder / "state").read_text() == "new"
    assert folder.at(3) is None


def test_a_replaced_attempt_neither_writes_nor_removes_any_more(place: Location) -> None:
    folder = TrialFolder(place / "base-0000")
    first = folder.claim_attempt()
    save(folder, first, 1)
    second = folder.claim_attempt()
    save(folder, second, 2)
    for act in (lambda: save(folder, first, 2), lambda: folder.keep({9}, by=first)):
        with pytest.raises(RunError, match="attempt 1 of base-0000 was replaced by attempt 2"):
            act()
    assert epochs(folder) == ["attempt-0001/epoch-00001", "attempt-0002/epoch-00002"]
    save(folder, second, 3)


def test_a_cleared_folder_has_no_checkpoint_but_its_attempts_numbers(place: Location) -> None:
    folder = TrialFolder(place / "base-0000")
    folder.clear()
    assert not folder.path.exists(), "where nothing was there is nothing to clear"
    first = folder.claim_attempt()
    save(folder, first, 1)
    second = folder.claim_attempt()
    save(folder, second, 2)
    folder.clear()
    assert folder.history() == (None, []) and folder.at(1) is None and epochs(folder) == []
    for attempt in (first, second):
        with pytest.raises(RunError, match=f"attempt {attempt} of base-0000 has ended: its checkpoints were cleared"):
            save(folder, attempt, 3)
    third = folder.claim_attempt()
    assert third == 3
    save(folder, third, 1, "new")
    checkpoint, rows = folder.history()
    assert checkpoint is not None and (checkpoint.folder / "state").read_text() == "new" and len(rows) == 1
    folder.clear()
    assert folder.claim_attempt() == 4
    folder.remove()
    assert names_in(place) == []


def test_a_checkpoint_that_was_being_written_when_all_were_cleared_counts_for_nothing(tmp_path: Path) -> None:
    folder = TrialFolder(tmp_path / "base-0000")
    first = folder.claim_attempt()
    save(folder, first, 1)

    def cleared_meanwhile(path: Path) -> None:
        folder.clear()

    with pytest.raises(RunError, match="were cleared"):
        folder.save(first, EpochResult(epoch=2, scores={}, save=cleared_meanwhile), [])
    # Even one whose process looked before and wrote after.
    (folder.path / "attempt-0001" / "epoch-00002").mkdir(parents=True)
    assert folder.latest() is None and folder.at(2) is None
    second = folder.claim_attempt()
    assert second == 2
    save(folder, second, 2)
    folder.keep({2}, by=second)
    assert epochs(folder) == ["attempt-0002/epoch-00002"]


def test_clearing_that_dies_at_once_has_cleared(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = TrialFolder(tmp_path / "base-0000")
    save(folder, folder.claim_attempt(), 1)

    def dies(path: Path) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(trial_folder, "remove_folder", dies)
    with pytest.raises(KeyboardInterrupt):
        folder.clear()
    assert folder.latest() is None and folder.claim_attempt() == 2


def test_only_the_epochs_to_keep_are_kept_from_any_attempt(place: Location) -> None:
    folder = TrialFolder(place / "base-0000")
    first = folder.claim_attempt()
    for epoch in (1, 2, 3):
        save(folder, first, epoch)
    second = folder.claim_attempt()
    for epoch in (4, 5):
        save(folder, second, epoch)
    folder.keep({2, 5}, by=second)
    assert epochs(folder) == ["attempt-0001/epoch-00002", "attempt-0002/epoch-00005"]


def test_long_trainings_keep_their_order(place: Location) -> None:
    folder = TrialFolder(place / "base-0000")
    attempt = folder.claim_attempt()
    for epoch in (99_999, 100_000):
        folder.save(attempt, EpochResult(epoch=epoch, scores={}), [])
    latest = folder.latest()
    assert latest is not None and latest.epoch == 100_000


def test_what_is_half_written_is_no_checkpoint_and_can_be_cleared(tmp_path: Path) -> None:
    folder = TrialFolder(tmp_path / "base-0000")
    save(folder, folder.claim_attempt(), 1)
    (folder.path / "attempt-0001" / ".partial-1234-epoch-00002").mkdir()
    (folder.path / "attempt-0001" / "notes.txt").touch()
    assert folder.latest() == folder.at(1)
    folder.clear_partial()
    assert epochs(folder) == ["attempt-0001/epoch-00001", "attempt-0001/notes.txt"]
    folder.remove()
    assert list(tmp_path.iterdir()) == []
    folder.remove()


@pytest.mark.parametrize("damage", ["", "[", "[1]", "{}x", '[{"trial": "a"}]', "null", '["a"]'])
def test_damaged_rows_are_refused_by_name_with_the_remedy(tmp_path: Path, damage: str) -> None:
    folder = TrialFolder(tmp_path / "base-0000")
    attempt = folder.claim_attempt()
    save(folder, attempt, 1)
    save(folder, attempt, 2)
    damaged = tmp_path / "base-0000/attempt-0001/epoch-00002"
    (damaged / "rows.json").write_text(damage)
    with pytest.raises(RunError) as error:
        folder.history()
    assert str(damaged / "rows.json") in str(error.value) and f"remove the folder {damaged}" in str(error.value)
    assert "\n" not in str(error.value)
    for file in damaged.iterdir():
        file.unlink()
    damaged.rmdir()
    checkpoint, rows = folder.history()
    assert checkpoint is not None and checkpoint.epoch == len(rows) == 1


def test_a_row_of_another_shape_is_damage_too(tmp_path: Path) -> None:
    folder = TrialFolder(tmp_path / "base-0000")
    save(folder, folder.claim_attempt(), 1)
    path = tmp_path / "base-0000/attempt-0001/epoch-00001/rows.json"
    path.write_text(json.dumps([json.loads(path.read_text())[0] | {"scores": None}]))
    with pytest.raises(RunError, match=r"rows\.json is damaged"):
        folder.history()


def test_history_holds_while_another_process_replaces_checkpoints(tmp_path: Path) -> None:
    folder = TrialFolder(tmp_path / "base-0000")
    attempt = folder.claim_attempt()
    save(folder, attempt, 1)
    over = threading.Event()

    def train() -> None:
        for epoch in range(2, 100):
            save(folder, attempt, epoch)
            folder.keep({epoch}, by=attempt)
        over.set()

    worker = threading.Thread(target=train)
    worker.start()
    seen = set()
    while not over.is_set():
        checkpoint, rows = folder.history()
        assert checkpoint is not None and checkpoint.epoch == len(rows)
        seen.add(checkpoint.epoch)
    worker.join()
    assert len(seen) > 5


def _claim(path: str, ready: Any, claimed: Any) -> None:
    ready.wait()
    claimed.put([TrialFolder(Path(path)).claim_attempt() for _ in range(60)])


def test_no_two_processes_claim_the_same_attempt(tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    ready, claimed = context.Barrier(3), context.Queue()
    processes = [context.Process(target=_claim, args=(str(tmp_path), ready, claimed)) for _ in range(3)]
    for process in processes:
        process.start()
    claims = [claimed.get(timeout=60) for _ in processes]
    for process in processes:
        process.join()
    assert sorted(number for claim in claims for number in claim) == list(range(1, 181))


def test_a_trial_that_the_ledger_does_not_know_is_remembered_until_its_end(place: Location) -> None:
    record = trial_record(3, status=Status.RUNNING, params={"rate": 0.5, "deep": True, "name": "x", "n": 2}, seed=7)
    record = replace(record, sampler="tpe", provenance={"data": "abc"})
    for name in ("base-0003", "meta-0001", "base-0004"):
        folder = TrialFolder(place / name)
        folder.claim_attempt()
        if name != "base-0004":
            folder.remember(record)
    assert list(unwritten(place, "base", set())) == [record]
    assert list(unwritten(place, "base", {"base-0003"})) == [] == list(unwritten(place / "none", "base", set()))
    TrialFolder(place / "base-0003").forget()
    TrialFolder(place / "base-0003").forget()
    assert list(unwritten(place, "base", set())) == []


def test_a_damaged_memory_of_a_trial_is_named(tmp_path: Path) -> None:
    folder = TrialFolder(tmp_path / "base-0000")
    folder.path.mkdir()
    (folder.path / "trial.json").write_text('{"trial": "base-0000"}')
    with pytest.raises(RunError, match=r"trial\.json is damaged \(stage is missing\); remove the folder .* anew"):
        list(unwritten(tmp_path, "base", set()))


def test_in_a_store_what_is_half_written_is_no_checkpoint_and_can_be_cleared(bucket: ObjectPath) -> None:
    folder = TrialFolder(bucket / "base-0000")
    attempt = folder.claim_attempt()
    save(folder, attempt, 1)
    (bucket / "base-0000" / "attempt-0001" / "epoch-00002" / "state").write_bytes(b"half")
    latest = folder.latest()
    assert latest is not None and latest.epoch == 1
    folder.clear_partial()
    assert epochs(folder) == ["attempt-0001/epoch-00001"] and folder.claim_attempt() == attempt + 1


def test_a_checkpoint_is_on_this_machine_while_its_trial_runs(place: Location) -> None:
    folder = TrialFolder(place / "base-0000")
    with folder.resumed() as resumed:
        assert resumed == (None, [])
    save(folder, folder.claim_attempt(), 2, "mine")
    with folder.resumed() as (checkpoint, rows):
        assert checkpoint is not None and checkpoint.epoch == 2 and len(rows) == 2
        assert isinstance(checkpoint.folder, Path) and (checkpoint.folder / "state").read_text() == "mine"
        assert (checkpoint.folder / "rows.json").is_file()
    assert checkpoint.folder.exists() == isinstance(place, Path), "a copy goes with its trial"


def test_a_checkpoint_that_a_later_one_replaces_while_it_is_fetched_is_not_waited_for(
    bucket: ObjectPath, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ensemble_tune.store_folder._REPLACED_SECONDS", 0.0)
    folder = TrialFolder(bucket / "base-0000")
    attempt = folder.claim_attempt()
    save(folder, attempt, 1)
    history, left = TrialFolder.history, [1]

    def then_replaced(self: TrialFolder) -> Any:
        found = history(self)
        if left.pop() if left else False:
            save(folder, attempt, 2)
            folder.keep({2})
        return found

    monkeypatch.setattr(TrialFolder, "history", then_replaced)
    with folder.resumed() as (checkpoint, rows):
        assert checkpoint is not None and checkpoint.epoch == 2 and len(rows) == 2
