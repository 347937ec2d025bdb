"""This machine as a node of a Ray cluster: whether it is alive, and draining it; only here the watcher knows Ray."""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

from ensemble_tune.errors import ConfigError

log = logging.getLogger(__name__)

_ASK_SECONDS = 10


@dataclass(frozen=True, slots=True)
class Node:
    """One machine of a cluster, by its id in hexadecimal."""

    id: str
    _cluster: Any
    """Ray's client of the head; it asks with the token."""

    @classmethod
    def here(cls, patience: float) -> Node:
        """The node that this machine is; patience: seconds to wait for it to join. Raises ConfigError."""
        ray = _ray()
        until = time.monotonic() + patience
        while True:
            # What `ray start` has written down on this machine; no driver is started, which would take a worker.
            address = ray.services.canonicalize_bootstrap_address(None)
            if address is not None:
                # Of this machine's addresses the one that it reaches the head from: by that the head knows it.
                cluster, own = ray.client(address=address), ray.services.get_node_ip_address(address)
                alive = _alive(cluster)
                found = [node for node, ip in alive.items() if ip == own]
                if found:
                    return cls(found[-1], cluster)
            if time.monotonic() > until:
                raise ConfigError(
                    "only a machine of a running cluster can be watched, but Ray does not run here; "
                    "run `ray start` first"
                )
            time.sleep(1)

    def alive(self) -> bool:
        """Whether the head still counts on this node; a head that does not answer counts on nobody."""
        return self.id in _alive(self._cluster)

    def drain(self, reason: str, seconds: int) -> str | None:
        """Tells the head that the node goes in so many seconds; why that was refused, or None."""
        reasons = _ray().drain_reasons
        deadline = int((time.time() + seconds) * 1000)
        try:
            accepted, why = self._cluster.drain_node(
                self.id, reasons.Value("DRAIN_NODE_REASON_PREEMPTION"), reason, deadline
            )
        except Exception as error:  # Ray's own kinds, which differ by what is wrong with the head
            return str(error)
        return None if accepted else str(why)


def _alive(cluster: Any) -> dict[str, str]:
    """Addresses of the nodes that are alive, by id; none where the head does not answer."""
    try:
        nodes = cluster.get_all_node_info(timeout=_ASK_SECONDS)
    except Exception as error:  # as above
        log.info("the head does not answer: %s", error)
        return {}
    alive = _ray().alive
    known = sorted(nodes.values(), key=lambda node: node.start_time_ms)
    return {node.node_id.hex(): node.node_manager_address for node in known if node.state == alive}


def _ray() -> SimpleNamespace:
    """What is used of Ray's insides; no part of it has types."""
    import ray._raylet
    from ray._private import services
    from ray.core.generated import autoscaler_pb2, gcs_pb2

    raylet: Any = ray._raylet
    autoscaler: Any = autoscaler_pb2
    gcs: Any = gcs_pb2
    return SimpleNamespace(
        services=services,
        client=raylet.GcsClient,
        drain_reasons=autoscaler.DrainNodeReason,
        alive=gcs.GcsNodeInfo.ALIVE,
    )
