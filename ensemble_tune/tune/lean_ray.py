"""Starting Ray on one machine without the parts of it that nobody looks at there.

`include_dashboard=False` still starts the dashboard's server, and no setting leaves out the autoscaler's monitor and
who reads the logs of workers aloud. They take seconds to start and to end, and all the time a share of a core.
Where Ray's parts have other names than in the tested version, they are started.
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
_UNUSED = ("start_api_server", "start_monitor", "start_log_monitor")


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
