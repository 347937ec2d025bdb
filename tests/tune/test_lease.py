"""One writer a run in an object store: a second is refused, a dead one taken over, and who lost it notices."""

import json
import logging
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
from records import epoch_record, trial_record
from s3_server import Store

from ensemble_tune.errors import RunError
from ensemble_tune.object_path import ObjectPath
from ensemble_tune.tune import lease as module
from ensemble_tune.tune.lease import Claim, Lease
from ensemble_tune.tune.ledger import Ledger

BEAT, DEAD = 0.2, 1.5


@pytest.fixture(autouse=True)
def fast(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "BEAT_SECONDS", BEAT)
    monkeypatch.setattr(module, "DEAD_SECONDS", DEAD)
    monkeypatch.setattr(module, "_STEP_BACK_SECONDS", 0.2)


@pytest.fixture
def folder(store: Store) -> ObjectPath:
    return store.folder / "ledger"


@pytest.fixture
def owner(folder: ObjectPath) -> Iterator[Lease]:
    owner = Lease(folder)
    owner.acquire()
    yield owner
    owner.release()


def fall_silent(lease: Lease) -> None:
    """As a process that is stopped, or cut off: its claim stays, its beats do not."""
    lease._stop.set()
    assert lease._thread is not None
    lease._thread.join()


def test_a_second_writer_is_refused_with_the_owners_name_and_its_last_sign_of_life(
    owner: Lease, folder: ObjectPath
) -> None:
    second = Lease(folder)
    with pytest.raises(
        RunError, match=r"but process \d+ on .* writes to .*runs \(last heard of \d+ s ago\); wait for it, stop it"
    ) as error:
        second.acquire()
    assert "\n" not in str(error.value)
    assert len(folder.objects()) == 1, "it leaves nothing behind"
    owner.check()


CLAIM = {"owner": "process 1 on host", "life": "a/b/1/2", "pid": 1, "owns": True, "beat": 3}


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"until": 5}, "until is unknown"),
        ({"pid": "1"}, "pid must be a whole number of at least 0, but is '1'"),
        ({"owns": 1}, "owns must be true or false, but is 1"),
        ({"beat": -1}, "beat must be a whole number of at least 0, but is -1"),
        ({"owner": None}, "owner must hold text, but has None"),
    ],
)
def test_a_claim_of_another_version_is_refused_and_named(
    folder: ObjectPath, change: dict[str, object], said: str
) -> None:
    assert Claim.parse(json.dumps(CLAIM)).beat == 3
    text = json.dumps(CLAIM | change)
    with pytest.raises(ValueError, match=f"^{said}$"):
        Claim.parse(text)
    path = folder / "writers" / "theirs.json"
    path.write_bytes(text.encode())
    with pytest.raises(RunError, match=r"writers/theirs\.json is damaged; remove it if no search writes to"):
        Lease(folder).acquire()
    assert list(folder.objects()) == ["writers/theirs.json"], "it leaves nothing behind"


def test_an_owner_that_is_done_lets_the_next_one_in_at_once(folder: ObjectPath) -> None:
    for _ in range(2):
        lease = Lease(folder)
        began = time.monotonic()
        lease.acquire()
        assert time.monotonic() - began < DEAD
        lease.release()
    assert folder.objects() == {}


def test_an_owner_that_lives_keeps_its_lease_for_as_long_as_it_likes(owner: Lease, folder: ObjectPath) -> None:
    time.sleep(2 * DEAD)
    with pytest.raises(RunError, match="one search writes"):
        Lease(folder).acquire()
    owner.check()


def test_a_dead_owners_lease_is_taken_over_and_the_dead_one_notices(
    owner: Lease, folder: ObjectPath, caplog: pytest.LogCaptureFixture
) -> None:
    fall_silent(owner)
    second, began = Lease(folder), time.monotonic()
    second.acquire()
    assert time.monotonic() - began >= DEAD - 1, "the store's clock is whole seconds"
    told = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    assert "waiting for a sign of life" in told[0] and "is taken over from process" in told[1] and len(told) == 2
    time.sleep(2 * BEAT)  # then it does not trust its lease unasked
    with pytest.raises(RunError, match=r"process \d+ on .* took .*runs over, .*this one has stopped"):
        owner.check()
    owner.release()
    second.check()
    assert list(folder.objects()) == [f"writers/{second._token}.json"], "the other's claim stays"
    second.release()


def test_a_claim_that_comes_back_from_the_dead_is_removed_again(owner: Lease, folder: ObjectPath) -> None:
    fall_silent(owner)
    second = Lease(folder)
    second.acquire()
    owner._mine.write_bytes(json.dumps({"late": "renewal"}).encode())
    until = time.monotonic() + 10
    while owner._mine.exists():
        assert time.monotonic() < until
        time.sleep(0.05)
    second.check()
    second.release()


def test_a_process_of_this_machine_that_was_killed_is_not_waited_for(
    folder: ObjectPath, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = """if True:
        import os, sys, signal; from ensemble_tune.storage import location; from ensemble_tune.tune.lease import Lease
        Lease(location(sys.argv[1])).acquire(); os.kill(os.getpid(), signal.SIGKILL)"""
    assert subprocess.run([sys.executable, "-c", program, str(folder)]).returncode == -signal.SIGKILL
    assert len(folder.objects()) == 1
    monkeypatch.setattr(module, "DEAD_SECONDS", 3600.0)
    lease = Lease(folder)
    lease.acquire()
    lease.release()


def test_of_many_who_come_at_once_one_writes(folder: ObjectPath) -> None:
    gate = threading.Barrier(4)

    def come(_: int) -> Lease | None:
        lease = Lease(folder)
        gate.wait()
        try:
            lease.acquire()
        except RunError:
            return None
        return lease

    with ThreadPoolExecutor(4) as pool:
        winners = [lease for lease in pool.map(come, range(4)) if lease is not None]
    assert len(winners) == 1
    winners[0].check()
    winners[0].release()


def test_while_the_store_fails_nothing_is_written_and_afterwards_the_lease_stands(
    owner: Lease, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ensemble_tune.object_path._WAITS", (0.0, 0.0, 0.0))
    store.proxy.faults, store.proxy.share = ("denied",), 1.0  # which the client does not try again by itself
    time.sleep(3 * BEAT)
    with pytest.raises(OSError):
        owner.check()
    store.proxy.mend()
    owner.check()


def test_a_ledger_whose_lease_was_taken_over_writes_no_more(folder: ObjectPath) -> None:
    first, second = Ledger(folder), Ledger(folder)
    first.open()
    first.put_trial(trial_record(0))
    assert first.flush()
    fall_silent(first._writer)  # type: ignore[arg-type]
    second.open()
    second.put_trial(trial_record(1))
    assert second.flush()
    time.sleep(2 * BEAT)
    first.put_trial(trial_record(2))
    first.put_epoch(epoch_record(2, 1))
    for act in (first.flush, first.close):
        with pytest.raises(RunError, match="leave the run to the other"):
            act()
    assert [record.number for record in Ledger(folder).trials()] == [0, 1] and Ledger(folder).epochs() == []
    second.close()
    assert not [name for name in folder.objects() if name.startswith("writers/")]
