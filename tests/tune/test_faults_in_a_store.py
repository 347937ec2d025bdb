"""Whatever dies, and whatever the object store does: the promises of `test_faults.py` hold there too."""

import signal
import time
from dataclasses import replace
from pathlib import Path

import pytest
from counting_search import search
from counting_trial import check
from processes import session
from s3_server import Proxy, Store
from soak import DRIVER

from ensemble_tune.errors import RunError
from ensemble_tune.object_path import ObjectPath
from ensemble_tune.storage import Location
from ensemble_tune.tune import lease
from ensemble_tune.tune.ledger import LEDGER, Ledger
from ensemble_tune.tune.record import Status, TrialRecord
from ensemble_tune.tune.trial_folder import CHECKPOINTS, TrialFolder

TRIALS, EPOCHS = 4, 4


def told(out: Location) -> tuple[list[object], list[object]]:
    """What a ledger holds of trials and epochs, without times and processes."""
    ledger = Ledger(out / LEDGER)
    trials = [(t.trial, t.status, t.params, t.seed, t.epochs, t.best_epoch, t.score, t.scores) for t in ledger.trials()]
    return trials, [(row.trial, row.epoch, row.scores) for row in ledger.epochs()]


@pytest.fixture
def plain(tmp_path: Path, local_ray: str) -> tuple[list[object], list[object]]:
    """The same search on a disk."""
    (tmp_path / "plain").mkdir()
    search(tmp_path / "plain", TRIALS, EPOCHS, 0.0, local_ray).run()
    return told(tmp_path / "plain")


def test_a_search_in_a_faulty_store_is_that_on_a_disk_row_by_row(
    store: Store, local_ray: str, plain: tuple[list[object], list[object]]
) -> None:
    bucket, proxy = store.folder, store.proxy
    proxy.faults, proxy.share = ("refuse", "unavailable", "drop", "lose", "slow", "truncate"), 0.02
    search(bucket, TRIALS, EPOCHS, 0.0, local_ray).run()
    assert proxy.injected > 3
    proxy.mend()
    assert told(bucket) == plain
    ledger = Ledger(bucket / LEDGER)
    check(ledger.trials(), ledger.epochs())
    assert not list((bucket / LEDGER / "writers").iterdir()), "the lease was let go"
    kept = [name for name in bucket.objects() if name.endswith("/state")]
    assert len(kept) == 2, "the best two keep a checkpoint"


def test_a_driver_that_is_killed_goes_on_from_the_store(
    bucket: ObjectPath, local_ray: str, tmp_path: Path, plain: tuple[list[object], list[object]]
) -> None:
    checkpoints = bucket / CHECKPOINTS
    for wanted in (1, 3):  # in its first epochs, and in the thick of it
        command = (str(bucket), str(TRIALS), str(EPOCHS), "0.5", local_ray)
        with session(DRIVER, *command, RAY_AUTH_MODE="token") as driver:
            while sum(name.endswith("complete.json") for name in checkpoints.objects()) < wanted:
                assert driver.poll() is None, "the search ended before it was killed"
                time.sleep(0.05)
            time.sleep(0.1 * wanted)
            driver.send_signal(signal.SIGKILL)
            driver.wait(timeout=20)
    assert any((bucket / LEDGER / "writers").iterdir()), "it had no time to let go"
    search(bucket, TRIALS, EPOCHS, 0.0, local_ray).run()
    assert told(bucket) == plain
    ledger = Ledger(bucket / LEDGER)
    check(ledger.trials(), ledger.epochs())
    assert [(record.status, record.epochs) for record in ledger.trials()] == [(Status.FINISHED, EPOCHS)] * TRIALS


def test_a_store_that_fails_for_a_while_loses_no_row(
    bucket: ObjectPath,
    proxy: Proxy,
    local_ray: str,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
    plain: tuple[list[object], list[object]],
) -> None:
    """What the driver writes fails from the end of the first trial to that of the second; workers have another way."""
    monkeypatch.setattr("ensemble_tune.object_path._WAITS", (0.0, 0.0, 0.0))
    for name in ("_FLUSH_SECONDS", "_FLUSH_LATEST_SECONDS", "_FLUSH_LARGEST_SHARE"):
        monkeypatch.setattr(f"ensemble_tune.tune.ledger.{name}", 0.2)
    whole = search(bucket, TRIALS, EPOCHS, 0.3, local_ray)
    ended: list[TrialRecord] = []

    def fail_or_mend(record: TrialRecord) -> None:
        ended.append(record)
        if len(ended) == 1:
            monkeypatch.setattr(Ledger, "_try", failing)
        if len(ended) == 3:
            monkeypatch.setattr(Ledger, "_try", working)

    working = Ledger._try

    def failing(ledger: Ledger) -> bool:
        proxy.faults, proxy.share, proxy.only = ("denied",), 1.0, ("PUT",)
        try:
            return working(ledger)
        finally:
            proxy.mend()

    replace(whole, on_end=fail_or_mend).run()
    assert told(bucket) == plain
    messages = [record.getMessage() for record in caplog.records if record.name.startswith("ensemble_tune")]
    assert len(messages) == 2 and "is written again" in messages[1]
    assert f"{bucket}/ledger cannot be written (" in messages[0] and "nothing is lost" in messages[0]


def test_a_search_whose_lease_is_taken_over_ends_with_one_line(
    bucket: ObjectPath, local_ray: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lease, "BEAT_SECONDS", 0.2)
    whole = search(bucket, 50, 3, 0.1, local_ray)

    def take_over(record: TrialRecord) -> None:
        for claim in (bucket / LEDGER / "writers").iterdir():
            claim.unlink()

    with pytest.raises(RunError, match=r"another process took .*runs over, .*leave the run to the other") as error:
        replace(whole, on_end=take_over).run()
    assert "\n" not in str(error.value)
    assert len(Ledger(bucket / LEDGER).trials()) < 50


def test_a_worker_that_comes_back_from_the_dead_harms_nothing(bucket: ObjectPath, local_ray: str) -> None:
    """Its attempt was replaced: it can write no checkpoint, and remove none."""
    from test_trial_folder import save

    folder = TrialFolder(bucket / CHECKPOINTS / "base-0000")
    dead = folder.claim_attempt()
    save(folder, dead, 1)
    living = folder.claim_attempt()
    save(folder, living, 2)
    with pytest.raises(RunError, match="was replaced by attempt 2"):
        save(folder, dead, 2)
    with pytest.raises(RunError, match="was replaced by attempt 2"):
        folder.keep(set(), by=dead)
    assert folder.latest() is not None and folder.latest().epoch == 2  # type: ignore[union-attr]
