"""Starts a process in a session of its own, and ends all that belongs to it and nothing else."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryFile
from typing import IO


def members(session: int) -> list[int]:
    """The processes of a session."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if int(fields[3]) == session and fields[0] != "Z":
            found.append(int(stat.parent.name))
    return found


@contextmanager
def session(
    *command: str | Path, printed: IO[bytes] | None = None, **variables: str
) -> Iterator[subprocess.Popen[bytes]]:
    """Runs Python with these arguments and variables; at the end nothing of its session is left.

    printed: where its output goes.
    """
    environment = {k: v for k, v in os.environ.items() if not k.startswith("RAY_")} | variables
    process = subprocess.Popen([sys.executable, *command], start_new_session=True, env=environment, stdout=printed)
    try:
        yield process
    finally:
        end(process)


def on_its_own_cluster(script: str, out: Path, seconds: float = 280) -> list[str]:
    """The lines that a script of this folder prints, which starts machines on loopback that live as long as it."""
    here = Path(__file__).parent
    path = f"{here}:{os.environ.get('PYTHONPATH', '')}"
    with (
        TemporaryFile() as printed,
        session(here / script, out, printed=printed, RAY_AUTH_MODE="disabled", PYTHONPATH=path) as process,
    ):
        assert process.wait(seconds) == 0
        printed.seek(0)
        return printed.read().decode().splitlines()


def end(process: subprocess.Popen[bytes]) -> None:
    """Kills every process of the session, by its id, until none is left."""
    while left := members(process.pid):
        for pid in left:
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue
        process.poll()
        time.sleep(0.02)
    process.wait()


def wait_for(
    condition: Callable[[], object], process: subprocess.Popen[bytes] | None = None, seconds: float = 60
) -> None:
    """Waits until something holds; the process, if one is given, must not end before."""
    until = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < until, "waited too long"
        assert process is None or process.poll() is None, "the process ended before"
        time.sleep(0.01)
