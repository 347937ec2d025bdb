"""Waits for a machine's notice that it will be taken away, and tells Ray to give it no more work."""

from __future__ import annotations

import logging
import time

from ensemble_tune.cluster.drain import Node
from ensemble_tune.cluster.notice import Source

log = logging.getLogger(__name__)

_ASK_EVERY = 2.0
_JOIN_SECONDS = 60.0
"""How long a machine may take to be known to the cluster; one that is lost for so long is not watched any more."""


def watch(source: Source, *, every: float = _ASK_EVERY, patience: float = _JOIN_SECONDS) -> str:
    """Returns how it ended: the machine was drained, or left the cluster. Raises ConfigError where no Ray runs here.

    every: seconds between two questions. patience: seconds that the machine may be unknown to the cluster.
    """
    node = Node.here(patience)
    log.info("watching for a notice on node %s", node.id)
    seen = time.monotonic()
    while True:
        notice = source()
        if notice is not None:
            log.warning("%s; node %s is drained", notice.reason, node.id)
            refused = node.drain(notice.reason, notice.seconds)
            if refused is None:
                return f"drained: {notice.reason}"
            log.warning("the drain was refused (%s); it is tried again", refused)
        if node.alive():
            seen = time.monotonic()
        elif time.monotonic() - seen > patience:
            return "the machine left the cluster"
        time.sleep(every)
