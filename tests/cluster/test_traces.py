"""Test hosts leave nothing behind: not after a failure, nor after the tests themselves were killed."""

import signal
import subprocess
import sys
from pathlib import Path

import pytest
from hosts import hosts, missing, traces

HERE = Path(__file__).parent
KILLED = """
import sys, time
from pathlib import Path
from hosts import hosts
with hosts(2, Path(sys.argv[1])) as made:
    made[0].run("setsid sleep 1000 > /dev/null 2>&1 < /dev/null &")
    print("up", flush=True)
    time.sleep(1000)
"""


@pytest.fixture(autouse=True)
def _possible() -> None:
    why = missing()
    if why:
        pytest.skip(why)


def test_nothing_is_left_where_a_test_fails(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError), hosts(2, tmp_path) as made:
        made[1].run("setsid sleep 1000 > /dev/null 2>&1 < /dev/null &")
        assert len([trace for trace in traces(made.mark) if trace.startswith("namespace")]) == 3
        assert [trace for trace in traces(made.mark) if trace.startswith("process")]
        raise ZeroDivisionError
    assert traces(made.mark) == []


def test_hosts_see_each_other_and_nothing_else(tmp_path: Path) -> None:
    with hosts(2, tmp_path) as made:
        one, other = made
        assert one.run(f"ssh-keyscan {other.address} 2>/dev/null").stdout.startswith(other.address)
        assert one.run("ip route").stdout.split()[0].endswith("/24") and "default" not in one.run("ip route").stdout
        one.run("echo here > /mnt/note")
        assert other.run("cat /mnt/note; hostname").stdout.split() == ["here", other.name]
        other.cut_off()
        assert one.run(f"timeout 3 ssh-keyscan {other.address} 2>/dev/null", check=False).stdout == ""
        other.reconnect()
        made.wait_for(other)


def test_what_a_killed_run_has_left_is_taken_away_by_the_next(tmp_path: Path) -> None:
    command = [sys.executable, "-c", KILLED, str(tmp_path / "killed")]
    with subprocess.Popen(command, cwd=HERE, stdout=subprocess.PIPE, text=True, start_new_session=True) as run:
        assert run.stdout is not None and run.stdout.readline() == "up\n"
        run.send_signal(signal.SIGKILL)
        run.wait()
    mark = str(run.pid)
    assert traces(mark) != []
    with hosts(1, tmp_path / "next"):
        assert traces(mark) == []
