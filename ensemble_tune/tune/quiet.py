"""What Ray and Tune would print of their own workings, and why nobody is to read it: no user can mend it.

What is wrong with a search stands in its ledger, and is told by ensemble_tune itself. With `--log info` what is caught
here is told too, but for Python's warnings.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Mapping
from typing import Any

import ray._private.worker

log = logging.getLogger(__name__)

_LOGGERS = {
    "ray.tune": "tables of its own trials, and advice on settings that are chosen here",
    "ray.air": "the banner of a run, and where it keeps files that nobody needs: they go when the run ends",
    "ray.train": "the same, for what Tune borrows from Train",
}
_WARNINGS = {
    r"ray\.": "deprecations inside Ray: only its authors can mend them",
    r"ensemble_tune\.tune\.ray_runner": "the same, which Ray says are of who called it",
}


def hush_ray() -> None:
    """Keeps what Ray's own processes report off standard output: "(raylet) A worker died ..." and the like.

    Workers that are told to end die so; what became of their trials, the search says. `log_to_driver` does not stop
    these lines, nor does any other setting; of a Ray that is started here nobody reads them (`lean_ray`). Where Ray
    calls this function otherwise one day, they are printed again.
    """
    if hasattr(ray._private.worker, "print_to_stdstream"):
        ray._private.worker.print_to_stdstream = _tell_log


def hush_tune() -> None:
    """Quietens the loggers and warnings above, in this process."""
    for name in _LOGGERS:
        logging.getLogger(name).setLevel(logging.CRITICAL)  # each for the reason beside its name
    for module in _WARNINGS:
        warnings.filterwarnings("ignore", module=module)  # each for the reason beside its module


def _tell_log(data: Mapping[str, Any], *args: Any, **others: Any) -> None:
    for line in data.get("lines", ()):
        log.info("(%s) %s", data.get("pid", "ray"), line)
