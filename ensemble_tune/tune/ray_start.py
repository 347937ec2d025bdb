"""Joining a Ray cluster, or starting Ray on this machine."""

from __future__ import annotations

import logging
import os
import socket
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import ray

from ensemble_tune.errors import ConfigError
from ensemble_tune.tune.lean_ray import SETTINGS, without_unused_parts
from ensemble_tune.tune.quiet import hush_ray
from ensemble_tune.tune.resources import Resources
from ensemble_tune.tune.usable_cores import usable_cores

_MOST_AT_ONCE = 16
"""Cores up to which a worker for each is started before any trial asks for one; few searches begin with more trials."""


def start_ray(address: str | None = None, share: Resources | None = None, imports: str | None = None) -> bool:
    """Joins the cluster at `address`, or starts Ray on this machine; no-op where Ray runs. Raises ConfigError.

    share, imports: what a trial asks for, and a module that it needs, for workers that are started at once. Returns
    whether Ray was started.
    """
    # Ray's banner on what it reports to its authors, and the reports: nobody was asked, and many machines are off line.
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    # Its announcement that workers without a GPU will see all of them one day: it is what this setting asks for.
    os.environ["RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO"] = "0"
    if ray.is_initialized():
        return False
    hush_ray()
    local: dict[str, Any] = {"num_cpus": usable_cores(), "include_dashboard": False}
    joins = address or os.environ.get("RAY_ADDRESS")
    try:
        if joins:
            _knock(joins)
        settings = {} if joins else {**SETTINGS, **_at_once(share or Resources(), imports)}
        with _environment(settings), nullcontext() if joins else without_unused_parts():
            ray.init(
                # "local", since with none at all Ray joins whatever cluster `ray start` has left on this machine.
                address=address if joins else "local",
                # What workers print: a trial's own word is in its rows, and its error in the ledger.
                log_to_driver=False,
                # "Started a local Ray instance" and how to see its dashboard, which is not there.
                logging_level=logging.ERROR,
                **({} if joins else local),
            )
    except (OSError, RuntimeError, ValueError) as error:
        reason = str(error).splitlines()[0]
        if joins:
            raise ConfigError(
                f"no Ray cluster answers at {joins!r} ({reason}); check --address or leave it out, and export "
                "RAY_AUTH_MODE=token where the cluster asks for a token"
            ) from None
        raise ConfigError(f"Ray does not start on this machine ({reason}); see /tmp/ray/session_latest/logs") from None
    return not joins


def _at_once(share: Resources, imports: str | None) -> dict[str, str]:
    """Ray's settings of the workers that it starts before it is asked for any, one a core.

    Where a trial takes a core, each of them will train, and imports meanwhile what trials need. Elsewhere most would
    be for nothing.
    """
    on_gpu = share.gpus != 0 and any(Path("/dev").glob("nvidia[0-9]*"))
    if share.cpus > 1 or on_gpu or usable_cores() > _MOST_AT_ONCE:
        return {"RAY_prestart_worker_first_driver": "0"}
    return {"RAY_preload_python_modules": imports} if imports else {}


@contextmanager
def _environment(settings: Mapping[str, str]) -> Iterator[None]:
    """Sets variables that are not set, while Ray's own processes, which inherit them, are started."""
    new = {name: value for name, value in settings.items() if name not in os.environ}
    os.environ.update(new)
    try:
        yield
    finally:
        for name in new:
            del os.environ[name]


def _knock(address: str) -> None:
    """Raises OSError where nobody listens at HOST:PORT; Ray itself would go on trying for minutes."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if host and port.isdigit():
        socket.create_connection((host, int(port)), timeout=10).close()
