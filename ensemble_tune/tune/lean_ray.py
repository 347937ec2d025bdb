"""Starting Ray on one machine without the parts of it that nobody looks at there.

No setting leaves out the autoscaler's monitor and who reads the logs of workers aloud, which take a share of a core all
the time. The dashboard's server, which `include_dashboard=False` starts all the same, stays: without its address an
agent of Ray's writes a traceback into its log every second. Where Ray's parts have other names than in the tested
version, they are started.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from ray._private.node import Node

SETTINGS = {
    # Measurements of the machine, and what each task does, for the dashboard.
    "REPORTER_UPDATE_INTERVAL_MS": "3600000",
    "RAY_enable_metrics_collection": "0",
    "RAY_task_events_report_interval_ms": "0",
}
"""What keeps the others from working for them; the environment of Ray's own processes."""
_UNUSED = ("start_monitor", "start_log_monitor")


@contextmanager
def without_unused_parts() -> Iterator[None]:
    """Within it `ray.init` starts none of them."""
    found: dict[str, Any] = {name: getattr(Node, name) for name in _UNUSED if hasattr(Node, name)}
    for name in found:
        setattr(Node, name, lambda node, *args, **options: None)
    try:
        yield
    finally:
        for name, method in found.items():
            setattr(Node, name, method)
