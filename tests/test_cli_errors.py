"""How commands end where names, disks, streams and terminals are not the usual ones."""

import errno
import os
import pty
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from small_disk import fill, small_disk
from tiles import write_tiles
from written_run import usual_run

from ensemble_tune.cli_errors import exit_status, one_line

ODD = "a b — ünï 漢 [red]"


def _command(
    *words: object, shell: str = "", folder: Path | None = None, **environment: str
) -> "subprocess.CompletedProcess[bytes]":
    """shell: redirections. folder: to run in."""
    line = [sys.executable, "-m", "ensemble_tune", *(str(word) for word in words)]
    if shell:
        line = ["bash", "-c", f'"$@" {shell}', "bash", *line]
    around = {**os.environ, **environment}
    return subprocess.run(line, capture_output=True, timeout=120, check=False, cwd=folder, env=around)


def test_names_with_spaces_and_unicode_are_names(tmp_path: Path) -> None:
    run, data = usual_run(tmp_path / ODD / "run"), write_tiles(tmp_path / ODD / "data")
    for folder in ("train", "trainannot"):
        (data / folder / "a_000.png").rename(data / folder / "a_0 漢.png")
    spec = (data / "dataset.toml").read_text().replace("\\d+", ".+")
    (data / "dataset.toml").write_text(spec)
    checked = _command("data", "check", data, "--sheet", tmp_path / ODD / "sheet.png")
    assert checked.returncode == 0, checked.stderr.decode()
    assert (tmp_path / ODD / "sheet.png").is_file()
    assert _command("results", run).returncode == 0
    exported = _command("export", run, "--to", tmp_path / ODD / "best.toml")
    assert exported.returncode == 0 and ODD in exported.stdout.decode()


def test_a_read_only_place_is_one_line(tmp_path: Path) -> None:
    run = usual_run(tmp_path / "run")
    with _read_only(tmp_path / "place") as place:
        done = _command("export", run, "--to", place / "best.toml")
    (line,) = done.stderr.decode().splitlines()
    assert done.returncode == 2 and line.startswith("error: ") and "Read-only file system" in line


def test_what_only_reads_takes_a_read_only_place_and_what_writes_says_where_to(tmp_path: Path) -> None:
    with _read_only(tmp_path / "place") as place:
        run, data = place / "run", place / "data"
        for words in (
            ("results", run),
            ("watch", run, "--once"),
            ("report", run, "--to", tmp_path / "page.html"),
            ("data", "check", data, "--sheet", tmp_path / "sheet.png"),
        ):
            done = _command(*words)
            assert done.returncode == 0, (words, done.stderr.decode())
        for words, remedy in (
            (("report", run), "with --to report.html"),
            (("data", "check", data, "--sheet", place / "sheet.png"), "with --sheet FILE.png"),
        ):
            done = _command(*words)
            (line,) = done.stderr.decode().splitlines()
            assert done.returncode == 2 and line.startswith(f"error: {place}"), line
            assert "Read-only file system" in line and line.endswith(f"; choose another, {remedy}"), line


@contextmanager
def _read_only(place: Path) -> Iterator[Path]:
    """A run and a data set on a disk that cannot be written to."""
    with small_disk(place):
        usual_run(place / "run")
        write_tiles(place / "data", {"train": {"a": 2, "b": 2}, "val": {"c": 1}, "test": {"d": 1}})
        subprocess.run(["mount", "-o", "remount,ro", place], check=True)
        yield place


def test_a_full_disk_is_one_line(tmp_path: Path) -> None:
    run = usual_run(tmp_path / "run")
    with small_disk(tmp_path / "place") as place:
        fill(place)
        done = _command("export", run, "--to", place / "best.toml")
    (line,) = done.stderr.decode().splitlines()
    assert done.returncode == 2 and line.startswith("error: ") and "No space left on device" in line


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="/dev/full is a full disk on Linux alone")
def test_a_full_disk_behind_standard_output_is_one_line(tmp_path: Path) -> None:
    done = _command("results", usual_run(tmp_path / "run"), shell="> /dev/full")
    (line,) = done.stderr.decode().splitlines()
    assert done.returncode == 2 and "must be written, but a disk or a quota is full" in line


@pytest.mark.parametrize("closed", ["<&-", ">&-", "2>&-", "<&- >&- 2>&-"])
def test_streams_may_be_closed(tmp_path: Path, closed: str) -> None:
    run = usual_run(tmp_path / "run")
    assert _command("results", run, shell=closed).returncode == 0
    assert _command("results", run, "--trial", "x", shell=closed).returncode == 2


@pytest.mark.parametrize(("variable", "value"), [("NO_COLOR", "1"), ("TERM", "dumb")])
def test_a_terminal_without_colours_gets_none(tmp_path: Path, variable: str, value: str) -> None:
    run = usual_run(tmp_path / "run")
    status, shown = _on_a_terminal("results", run, "--trial", "x", **{variable: value})
    assert status == 2 and b"error: " in shown and b"\x1b[3" not in shown
    assert b"\x1b[31m" in _on_a_terminal("results", run, "--trial", "x")[1], "any other shows it in red"


def test_a_command_that_is_ended_from_outside_leaves_a_cursor(tmp_path: Path) -> None:
    hidden, there = b"\x1b[?25l", b"\x1b[?25h"
    status, shown = _on_a_terminal("report", usual_run(tmp_path / "run"), end_at=hidden)
    assert status == 130 and b"interrupted" in shown
    assert shown.rindex(there) > shown.rindex(hidden)


def _on_a_terminal(*words: object, end_at: bytes | None = None, **environment: str) -> tuple[int, bytes]:
    """A command's status, and what its terminal was sent. end_at: it gets SIGTERM once that was sent."""
    controller, terminal = pty.openpty()
    line = [sys.executable, "-m", "ensemble_tune", *(str(word) for word in words)]
    own = {name: value for name, value in os.environ.items() if name not in ("FORCE_COLOR", "NO_COLOR")}
    around = {**own, "TERM": "xterm-256color", **environment}
    with subprocess.Popen(line, stdin=terminal, stdout=terminal, stderr=terminal, env=around) as process:
        os.close(terminal)
        shown = b""
        while True:
            try:
                piece = os.read(controller, 4096)
            except OSError:  # the other side has gone
                break
            if not piece:
                break
            shown += piece
            if end_at is not None and end_at in shown:
                process.terminate()
                end_at = None
    os.close(controller)
    return process.returncode, shown


@pytest.mark.parametrize(
    "words", [("report", "--to", "page.html"), ("plan", "--trials", "2"), ("tensorboard", "--to", "logs")]
)
def test_a_pipe_gets_no_control_codes_where_colours_are_forced(tmp_path: Path, words: tuple[str, ...]) -> None:
    verb, *options = words
    done = _command(verb, usual_run(tmp_path / "run"), *options, folder=tmp_path, FORCE_COLOR="1")
    assert done.returncode == 0, done.stderr.decode()
    assert b"\x1b[?25l" not in done.stderr and b"\r" not in done.stderr


def test_a_terminal_that_knows_no_unicode_is_shown_what_it_knows(tmp_path: Path) -> None:
    done = _command("results", usual_run(tmp_path / "run"), "--trial", "base-0001", PYTHONIOENCODING="ascii")
    assert done.returncode == 0 and done.stdout.isascii() and b"base-0001" in done.stdout


def test_a_name_cannot_write_to_the_terminal() -> None:
    assert one_line("a\x1b[31m\nb\u2028c\udcff é") == "a\\x1b[31m b c\\udcff é"


def test_what_the_machine_refuses_is_a_mistake_that_can_be_mended(capfd: pytest.CaptureFixture[str]) -> None:
    def refused() -> None:
        raise OSError(errno.EACCES, "Permission denied", "/some/place")

    assert exit_status(refused) == 2
    assert "error: /some/place must be there for this process" in capfd.readouterr().err
    assert exit_status(lambda: None) == 0


def test_a_log_that_cannot_be_written_hides_no_fault(capfd: pytest.CaptureFixture[str]) -> None:
    def broken() -> None:
        raise LookupError("this is a bug")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("tempfile.tempdir", "/proc/nowhere")
        patch.chdir("/proc")
        assert exit_status(broken) == 1
    (line,) = capfd.readouterr().err.splitlines()
    assert line.startswith("error: LookupError: this is a bug; this is a fault") and "could be written neither" in line
