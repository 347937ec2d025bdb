import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest

from ensemble_tune import scratch
from ensemble_tune.scratch import scratch_folder, scratch_root

_HOLDER = """
import sys, time
from ensemble_tune.scratch import scratch_folder
with scratch_folder() as folder:
    (folder / "big").write_text("x")
    print(folder, flush=True)
    time.sleep(600)
"""


@pytest.fixture(autouse=True)
def own_root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr(tempfile, "tempdir", None)


def test_a_folder_is_empty_its_own_and_gone_afterwards() -> None:
    with scratch_folder() as one, scratch_folder() as other:
        assert one != other and list(one.iterdir()) == [] and one.parent == other.parent == scratch_root()
        assert scratch_root().stat().st_mode & 0o77 == 0, "nobody else's"
        (one / "deep").mkdir()
    assert list(scratch_root().iterdir()) == []


def test_what_a_killed_process_left_goes_with_the_next_use_and_what_lives_stays(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    holders = [subprocess.Popen([sys.executable, "-c", _HOLDER], stdout=subprocess.PIPE, text=True) for _ in range(2)]
    dead, living = (Path(holder.stdout.readline().strip()) for holder in holders)  # type: ignore[union-attr]
    try:
        holders[0].send_signal(signal.SIGKILL)
        holders[0].wait()
        with scratch_folder():
            assert dead.exists() and living.exists(), "so young that its process may not have marked it yet"
        monkeypatch.setattr(scratch, "_SETTLED_SECONDS", 0.0)
        os.utime(living, (time.time() - 1e6,) * 2)
        with scratch_folder():
            assert not dead.exists() and (living / "big").exists()
    finally:
        for holder in holders:
            holder.kill()
            holder.wait()
