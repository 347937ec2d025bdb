"""Whatever dies, and whatever the disk does: every (trial, epoch) once, and as if the trial had run alone."""

import logging
import os
import random
import signal
import subprocess
import time
from dataclasses import replace
from pathlib import Path

import pytest
from counting_search import search
from counting_trial import CountingTrial, check
from processes import members, session, wait_for
from soak import DRIVER, EPOCHS, Victim

from ensemble_tune.errors import StorageError
from ensemble_tune.tune.ledger import LEDGER, Ledger
from ensemble_tune.tune.record import Status, TrialRecord


def test_drivers_killed_ten_times_lose_and_double_nothing(tmp_path: Path, local_ray: str) -> None:
    chance = random.Random(1)
    victim = Victim(tmp_path, local_ray, trials=6, seconds=0.3)
    while victim.kills["driver"] < 10:
        assert not victim.live(chance, 1), "the search ended before it had been killed ten times"
    victim.finish()


def test_workers_killed_ten_times_lose_and_double_nothing(tmp_path: Path, local_ray: str) -> None:
    """No trial loses more than its three workers, since the one that lost fewest is the next to lose one."""
    victim = Victim(tmp_path, local_ray, trials=6, seconds=0.1)
    lost: dict[str, int] = {}
    command = (tmp_path, "6", str(EPOCHS), "0.1", local_ray)
    with session(DRIVER, *command, RAY_AUTH_MODE="token") as driver:
        killed: set[str] = set()
        while len(killed) < 10:
            wait_for(lambda: any(process not in killed for _, _, process in victim.log()[-2:]), driver)
            seed, _, process = min(
                (e for e in victim.log()[-2:] if e[2] not in killed), key=lambda e: lost.get(e[0], 0)
            )
            if lost.get(seed, 0) < 3:
                os.kill(int(process), signal.SIGKILL)
                lost[seed] = lost.get(seed, 0) + 1
                killed.add(process)
            time.sleep(0.2)
        assert driver.wait(timeout=120) == 0
    trials = victim.finish()
    assert len(trials) == 6 and len(victim.log()) <= 6 * EPOCHS + 10, "no more than the epochs in progress again"


def test_where_the_raylet_is_killed_the_next_call_goes_on(tmp_path: Path, local_ray: str) -> None:
    """A Ray of its own; Ray takes a quarter of a minute to end a driver whose raylet is gone, and workers train on."""
    victim = Victim(tmp_path, local_ray, trials=4, seconds=0.6)
    with session(DRIVER, tmp_path, "4", str(EPOCHS), "0.6", "") as driver:
        wait_for(lambda: len(victim.log()) >= 4, driver)
        commands = {pid: (Path("/proc") / str(pid) / "cmdline").read_bytes() for pid in members(driver.pid)}
        (raylet,) = [pid for pid, command in commands.items() if command.split(b"\0")[0].endswith(b"/raylet")]
        os.kill(raylet, signal.SIGKILL)
        assert driver.wait(timeout=60) != 0
    victim.finish()
    assert len(victim.log()) <= 4 * EPOCHS + 4, "no more than the epochs in progress again"


def test_a_ledger_that_cannot_be_written_for_a_while_loses_nothing(
    tmp_path: Path, local_ray: str, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("_FLUSH_SECONDS", "_FLUSH_LATEST_SECONDS"):  # so that some fall into the time without the folder
        monkeypatch.setattr(f"ensemble_tune.tune.ledger.{name}", 0.5)
    whole = search(tmp_path, 4, 9, 0.2, local_ray)
    parts = tmp_path / "ledger" / "epochs"

    def fail(record: TrialRecord) -> None:
        """From the end of the first trial, a file stands where the folder was."""
        if record.number == 0:
            parts.rename(tmp_path / "away")
            parts.touch()

    def mend(said: logging.LogRecord) -> bool:
        """Until that is told."""
        if "the search goes on" in said.getMessage():
            parts.unlink()
            (tmp_path / "away").rename(parts)
        return True

    writer = logging.getLogger(Ledger.__module__)
    writer.addFilter(mend)
    try:
        replace(whole, on_end=fail).run()
    finally:
        writer.removeFilter(mend)
    ledger = Ledger(tmp_path / LEDGER)
    check(ledger.trials(), ledger.epochs())
    assert [(t.status, t.epochs) for t in ledger.trials()] == [(Status.FINISHED, 9)] * 4
    told = [record.getMessage() for record in caplog.records if record.name.startswith("ensemble_tune")]
    assert len(told) == 2 and "is written again" in told[1]
    assert "the search goes on" in told[0]


def test_a_full_disk_ends_the_search_in_one_line_and_with_space_it_goes_on(tmp_path: Path, local_ray: str) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", disk], capture_output=True).returncode:
        pytest.skip("a small disk needs the right to mount one: run as root")
    try:
        out = disk / "run"
        out.mkdir()
        (disk / "ballast").write_bytes(bytes(100_000))
        # The log is the test's own.
        whole = search(out, 6, 9, 0.0, local_ray)
        whole = replace(whole, trial=CountingTrial(log=tmp_path / "log", ballast=20_000))
        with pytest.raises(StorageError, match=r"is full .*make space, then run the same command again"):
            whole.run()
        (disk / "ballast").unlink()
        subprocess.run(["mount", "-o", "remount,size=8m", disk], check=True)
        whole.run()
        ledger = Ledger(out / LEDGER)
        check(ledger.trials(), ledger.epochs())
        assert [(t.status, t.epochs) for t in ledger.trials()] == [(Status.FINISHED, 9)] * 6
    finally:
        subprocess.run(["umount", "-l", disk], check=True)
