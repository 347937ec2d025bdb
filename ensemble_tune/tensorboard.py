"""TensorBoard logs of a run: a copy of its ledger, at any time, or kept up to date while trials run.

The ledger stays the truth: the logs are written anew from it whenever a command begins, and are never read back.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

from ensemble_tune.errors import EnsembleTuneError, RunError, quoted
from ensemble_tune.final_folder import FINAL
from ensemble_tune.settings import Settings
from ensemble_tune.storage import Location, location, make_folder
from ensemble_tune.tune.ledger import LEDGER, Ledger

if TYPE_CHECKING:
    from ensemble_tune.event_files import RunEvents

_LOOK_SECONDS, _LOOK_SHARE = 5.0, 50
"""How often a running search's ledger is looked at: so many times what a look takes lies between two."""

_log = logging.getLogger(__name__)


@contextmanager
def logged(settings: Settings) -> Iterator[None]:
    """Keeps `settings.tensorboard` where the run folder's ledger is, while the `with` lasts; does nothing where it is
    None. Raises ConfigError where the folder cannot be written to; what fails later is told, and stops no search."""
    if settings.tensorboard is None:
        yield
        return
    make_folder(settings.tensorboard)
    log, over = _events(settings.out, settings.tensorboard), threading.Event()
    follower = threading.Thread(target=_follow, args=(log, over), name="tensorboard", daemon=True)
    follower.start()
    try:
        yield
    finally:
        over.set()
        follower.join()
        _look(log)
        with suppress(OSError):  # it has been told
            log.close()


def write_logs(out: str | Location, folder: str | Path) -> int:
    """Writes the logs of a run, and of the final training inside it; how many trials they hold.

    Raises RunError where there is no run, ConfigError where the folder cannot be written to.
    """
    out, folder = location(out), Path(folder)
    there = [each for each in (out, out / FINAL) if Ledger.exists(each / LEDGER)]
    if not there:
        raise RunError(f"no search is in {out}; run first: ensemble-tune run --data DATA --out {quoted(out)}")
    make_folder(folder)
    count = 0
    for each in there:
        log = _events(each, folder)
        count += log.update()
        log.close()
    return count


def _follow(log: RunEvents, over: threading.Event) -> None:
    """Looks at the ledger until it is over."""
    wait = _LOOK_SECONDS
    while not over.wait(wait):
        started = time.monotonic()
        _look(log)
        wait = max(_LOOK_SECONDS, _LOOK_SHARE * (time.monotonic() - started))


def _look(log: RunEvents) -> None:
    try:
        log.update()
    except (EnsembleTuneError, OSError) as error:
        _log.warning("the TensorBoard logs are behind: %s", error)


def _events(out: Location, folder: Path) -> RunEvents:
    from ensemble_tune.event_files import RunEvents  # here, since most runs write none

    return RunEvents(Ledger(out / LEDGER), folder)
