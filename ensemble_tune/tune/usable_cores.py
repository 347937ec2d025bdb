"""How many processor cores there are for this process."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

_CONTROL_GROUP = Path("/sys/fs/cgroup")


def usable_cores(group: Path = _CONTROL_GROUP) -> int:
    """The cores that this process may run on, and no more than a container's limit of processor time has; at least 1.

    group: where the kernel tells that limit, of version 2 or 1 of its control groups.
    """
    cores = len(os.sched_getaffinity(0))
    with suppress(OSError, ValueError, ZeroDivisionError):
        quota, period = _limit(group)
        if quota > 0:
            return max(1, min(cores, quota // period))
    return cores


def _limit(group: Path) -> tuple[int, int]:
    """Microseconds of processor time in each period of so many. Raises OSError, and ValueError where there is none."""
    with suppress(FileNotFoundError):
        quota, period = (group / "cpu.max").read_text(encoding="ascii").split()
        return int(quota), int(period)
    cpu = group / "cpu"
    return tuple(int((cpu / f"cpu.cfs_{name}_us").read_text(encoding="ascii")) for name in ("quota", "period"))  # type: ignore[return-value]
