"""The one place where an exception becomes a line and an exit status: every command passes through it.

0    it did what it was asked
1    a fault of ours: the line names the log that holds the traceback. In a pipe: its reader has gone, and no line is
2    a mistake that its user can mend: rule, value, remedy
130  Ctrl-C or SIGTERM
"""

from __future__ import annotations

import errno
import io
import os
import platform
import signal
import sys
import tempfile
import threading
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from types import FrameType

import typer

from ensemble_tune.cli_output import close_reporter, err_console
from ensemble_tune.errors import EnsembleTuneError
from ensemble_tune.storage import is_full, reason_of
from ensemble_tune.tune.out_of_memory import ran_out

_FAULT, _MISTAKE, _INTERRUPTED = 1, 2, 130
_UsageError: type[Exception] = typer.BadParameter.__bases__[0]
"""What typer raises for a command line that it cannot read; it has no public name."""
_MACHINE = (
    *(errno.EACCES, errno.EPERM, errno.EROFS, errno.EIO, errno.EFBIG, errno.EMFILE, errno.ENFILE, errno.ESTALE),
    *(errno.ENAMETOOLONG, errno.ENOTDIR, errno.EISDIR, errno.ELOOP, errno.ENXIO, errno.ENODEV),
)
"""Of the system's errors those that a machine's owner can mend."""


def exit_status(command: Callable[[], int | None]) -> int:
    """Runs a command; prints what it raised in one line on standard error, and returns how the process is to end."""
    _prepare_streams()
    try:
        try:
            with _terminable():
                status = command() or 0
                sys.stdout.flush()
        finally:
            close_reporter()
    except KeyboardInterrupt:
        status = _INTERRUPTED
    except Exception as error:
        return _told(error)
    if status == _INTERRUPTED:  # typer makes it of KeyboardInterrupt
        if sys.stderr.isatty():
            err_console.show_cursor()  # of a spinner that was interrupted while it began
        err_console.print("interrupted; the same command goes on from here")
    return status


@contextmanager
def _terminable() -> Iterator[None]:
    """SIGTERM ends a command as Ctrl-C does, so that it leaves the terminal as it was and nothing half written.

    A search has its own way to end while trials train, and Ray its own from its start on: both take the place of this.
    """

    def end(number: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    # Whoever started this process may have asked it to ignore the signal; and only a main thread may take one.
    ours = signal.getsignal(signal.SIGTERM) is signal.SIG_DFL and threading.current_thread() is threading.main_thread()
    if ours:
        signal.signal(signal.SIGTERM, end)
    try:
        yield
    finally:
        if ours and signal.getsignal(signal.SIGTERM) is end:
            signal.signal(signal.SIGTERM, signal.SIG_DFL)


def one_line(message: str) -> str:
    """A message as one line in which nothing is invisible: whatever stands in a file's name goes to no terminal."""
    joined = " ".join(message.splitlines())
    return "".join(each if each.isprintable() else ascii(each)[1:-1] for each in joined)


def _told(error: Exception) -> int:
    """Prints what was raised; returns the exit status."""
    silent = _silenced()
    if silent is not None:
        error = silent
    if isinstance(error, BrokenPipeError):
        return _FAULT
    mistake = _mistake(error)
    if mistake is not None:
        if mistake:
            _print(mistake)
        return _MISTAKE
    reason = reason_of(error)
    _print(
        f"{type(error).__name__}{'' if reason == type(error).__name__ else f': {reason}'}; this is a fault of "
        f"ensemble_tune, not yours: please report it with {_log(error)}"
    )
    return _FAULT


def _mistake(error: Exception) -> str | None:
    """What a user can mend, in words, none where typer has said it; None for a fault of ours."""
    if isinstance(error, EnsembleTuneError):
        return str(error)
    if isinstance(error, _UsageError):
        if type(error).__name__ == "NoArgsIsHelpError":  # typer has printed the help
            return ""
        context = getattr(error, "ctx", None)
        asked = f"; see: {context.command_path} --help" if context is not None else ""
        return f"{error.format_message().rstrip('.')}{asked}"  # type: ignore[attr-defined]
    if is_full(error):
        why = f"{_place(error)} must be written, but a disk or a quota is full ({reason_of(error)})"
        return f"{why}; make space, then run the same command again"
    if isinstance(error, OSError) and error.errno in _MACHINE:
        why = f"{_place(error)} must be there for this process, but is not ({reason_of(error)})"
        return f"{why}; mend that, or choose another place"
    memory = ran_out(error)
    if memory is not None:
        return (
            f"this needs more memory than the {memory} has free ({reason_of(error)}); make some, or take a larger one"
        )
    return None


def _place(error: Exception) -> str:
    if isinstance(error, _OutputError):
        return "standard output"
    name = getattr(error, "filename", None)
    return "a file" if name is None else str(name)


def _print(message: str) -> None:
    with suppress(OSError):  # whoever closed standard error wants no errors
        err_console.print(f"error: {one_line(message)}", style="red", soft_wrap=True)


def _log(error: Exception) -> str:
    """Writes the traceback to a file, whose path is returned in words."""
    try:
        own = version("ensemble-tune")
    except PackageNotFoundError:  # run from its source
        own = "of no known version"
    about = f"ensemble-tune {own}, Python {platform.python_version()}, {platform.platform()}"
    text = f"{about}\n{' '.join(sys.argv)}\n{''.join(traceback.format_exception(error))}"
    for folder in (tempfile.gettempdir, Path.cwd):
        with suppress(OSError):
            handle, path = tempfile.mkstemp(prefix="ensemble-tune-", suffix=".log", dir=folder())
            try:
                with os.fdopen(handle, "w", encoding="utf-8", errors="backslashreplace") as log:
                    log.write(text)
            except OSError:
                Path(path).unlink(missing_ok=True)
                raise
            return f"its traceback, which is in {path}"
    return f"its traceback, which could be written neither to a temporary folder nor to {os.curdir}"


class _OutputError(OSError):
    """Standard output cannot be written."""


def _prepare_streams() -> None:
    """Standard streams that can be written, whatever this process was started with."""
    # Where one is closed, the next file that is opened would get its number, and what others print.
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, os.fdopen(os.open(os.devnull, os.O_RDWR), mode, encoding="utf-8"))
    # A name that is no text, or a bar on a terminal without UTF-8, is shown in other words, as standard error does.
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")


def _silenced() -> OSError | None:
    """Why standard output cannot be written; None where it can. Then what is left of it goes nowhere."""
    try:
        sys.stdout.flush()
    except BrokenPipeError as error:
        found: OSError = error
    except OSError as error:
        found = _OutputError(error.errno, error.strerror)
    else:
        return None
    nowhere = os.open(os.devnull, os.O_WRONLY)
    with suppress(OSError):
        os.dup2(nowhere, sys.stdout.fileno())
    os.close(nowhere)
    return found
