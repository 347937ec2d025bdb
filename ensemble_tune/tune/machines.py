"""The machines that Ray runs on: what each has, and which of them are about to go."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable, Mapping

import ray
from ray._private.state import state

log = logging.getLogger(__name__)

_ASK_SECONDS = 1.0


def machines(leaving: frozenset[str] = frozenset()) -> list[dict[str, float]]:
    """The resources of each machine that is up and is not `leaving`, by its id."""
    nodes = ray.nodes()  # type: ignore[no-untyped-call]
    return [node["Resources"] for node in nodes if node["Alive"] and node["NodeID"] not in leaving]


def devices(nodes: Iterable[Mapping[str, float]]) -> float:
    """The GPUs of machines with these resources."""
    return sum(node.get("GPU", 0.0) for node in nodes)


class Leaving:
    """The machines that were told to go, by their ids: those that have gone since are still among them.

    What trains there moves at its next checkpoint; what dies there before has not failed.
    """

    def __init__(self) -> None:
        self.ids: frozenset[str] = frozenset()
        self._asked = 0.0

    def look(self) -> None:
        """Asks Ray, at most once a second; a head that does not answer is asked again."""
        if time.monotonic() - self._asked < _ASK_SECONDS:
            return
        self._asked = time.monotonic()
        try:
            new = frozenset(state.get_draining_nodes()) - self.ids
        except Exception as error:  # Ray's own kinds, which differ by what is wrong with the head
            log.debug("which machines are leaving is not known: %s", error)
            return
        if new:
            log.warning("machines are leaving the cluster: %s; their trials move", ", ".join(sorted(new)))
            self.ids |= new
