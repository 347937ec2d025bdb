"""`python fuzzing.py INPUTS SEED [KIND]`: damaged files of every kind that we read; prints a line a kind.

A reader must take each of them, or refuse it in one line that names the file: never another error, a hang, or code that
a file holds. Ends with 1 where one did not. See `make soak`.
"""

from __future__ import annotations

import faulthandler
import logging
import os
import signal
import sys
import tempfile
import time
import warnings
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from types import FrameType

from mutations import mutated
from readers import READERS, Reader

from ensemble_tune.cli_errors import one_line
from ensemble_tune.errors import EnsembleTuneError

LIMIT_SECONDS = 20.0
"""For one input, of the processor's time and by the clock."""
_EVENTS = (
    "os.system",
    "subprocess.Popen",
    "os.exec",
    "os.posix_spawn",
    "os.fork",
    "pickle.find_class",
    "socket.connect",
)
"""What happens where code out of a file is run; Python tells of it whoever does it."""
_OUR_OWN = ["git", "rev-parse", "HEAD"]
"""What an export asks of which version it is, whatever it reads."""


class _TooLongError(BaseException):
    """An input took too long; no reader may catch it."""


@dataclass
class Tally:
    """What became of the inputs of a kind."""

    ends: Counter[str] = field(default_factory=Counter)
    """taken, refused."""
    faults: list[str] = field(default_factory=list)
    """Of each input that broke a rule, which one and how."""
    seconds: float = 0.0


_events: list[str] = []
_watching = False


def _hear(event: str, arguments: tuple[object, ...]) -> None:
    if _watching and event in _EVENTS and not (event == "subprocess.Popen" and arguments[1] == _OUR_OWN):
        _events.append(f"{event} {arguments!r:.100}")


def fuzz(name: str, inputs: int, seed: int, folder: Path) -> Tally:
    """Damages the files of a kind so often, in an empty folder. The same for the same seed, whatever the number."""
    reader, tally = READERS[name], Tally()
    marker = folder.parent / f"{folder.name}-was-run"
    files = reader.make(folder)
    whole = {path: path.read_bytes() for path in files}
    reader.read(folder)  # else nothing would be shown by a refusal
    started = time.monotonic()
    for number in range(inputs):
        chance = Random(f"{name}/{seed}/{number}")
        path = chance.choice(sorted(whole))
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(mutated(whole[path], files[path], chance, str(marker)))
        end = _end(reader, folder, path)
        if marker.exists():
            end = "code out of the file was run"
            marker.rmdir()
        if end in ("taken", "refused"):
            tally.ends[end] += 1
        else:
            tally.faults.append(f"{name}, seed {seed}, input {number}, {path.name}: {end}")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(whole[path])
    tally.seconds = time.monotonic() - started
    return tally


def shares(inputs: int) -> Iterator[tuple[str, int]]:
    """How many inputs each kind gets."""
    weights = sum(reader.share for reader in READERS.values())
    left = inputs
    for name, reader in list(READERS.items())[1:]:
        own = round(inputs * reader.share / weights)
        left -= own
        yield name, own
    yield next(iter(READERS)), left


def _end(reader: Reader, folder: Path, path: Path) -> str:
    """taken, refused, or what is wrong."""
    _events.clear()
    started = time.monotonic()
    try:
        with _watched():
            reader.read(folder)
        end = "taken"
    except reader.errors:
        end = "refused"
    except EnsembleTuneError as error:
        line = one_line(str(error))
        named = path.stem in line or str(path.parent) in line  # a frame is named without its ending
        end = "refused" if named and line else f"it is refused without its name: {line}"
    except _TooLongError:
        end = f"it took more than {LIMIT_SECONDS:g} s"
    except Exception as error:
        place = error.__traceback__
        while place is not None and place.tb_next is not None:
            place = place.tb_next
        where = "" if place is None else f" at {place.tb_frame.f_code.co_filename}:{place.tb_lineno}"
        end = f"{type(error).__name__}: {one_line(str(error))[:300]}{where}"
    if time.monotonic() - started > LIMIT_SECONDS:
        end = f"it took more than {LIMIT_SECONDS:g} s"
    return f"code was run: {_events}" if _events else end


@contextmanager
def _watched() -> Iterator[None]:
    global _watching

    def stop(signal_number: int, at: FrameType | None) -> None:
        raise _TooLongError

    before = signal.signal(signal.SIGPROF, stop)
    signal.setitimer(signal.ITIMER_PROF, LIMIT_SECONDS)
    _watching = True
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        _watching = False
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.signal(signal.SIGPROF, before)


sys.addaudithook(_hear)


def main(inputs: int, seed: int, kind: str | None = None) -> int:
    """Prints a line a kind; the exit status."""
    logging.disable(logging.CRITICAL)
    sys.stderr = told = os.fdopen(os.dup(2), "w")
    faulthandler.enable(told)
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)  # what image libraries say of broken files
    taken = refused = faults = 0
    started = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="fuzz-") as temporary:
        for number, (name, own) in enumerate([(kind, inputs)] if kind else shares(inputs)):
            folder = Path(temporary) / str(number)
            folder.mkdir()
            faulthandler.dump_traceback_later(max(600, own), exit=True, file=told)
            tally = fuzz(name, own, seed, folder)
            faulthandler.cancel_dump_traceback_later()
            taken, refused = taken + tally.ends["taken"], refused + tally.ends["refused"]
            faults += len(tally.faults)
            counts = f"{tally.ends['taken']:6d} taken, {tally.ends['refused']:6d} refused, {len(tally.faults)} faults"
            print(f"{name:38s} {own:6d} inputs: {counts}, {tally.seconds:.0f} s", flush=True)
            for fault in tally.faults[:20]:
                print(f"    {fault}", flush=True)
    total = taken + refused + faults
    print(f"{total} inputs: {taken} taken, {refused} refused, {faults} faults, {time.monotonic() - started:.0f} s")
    return 1 if faults else 0


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    sys.exit(main(int(sys.argv[1]), int(sys.argv[2]), *sys.argv[3:]))
