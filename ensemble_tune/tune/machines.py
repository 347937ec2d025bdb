"""The machines that Ray runs on: what each has, which are about to go, and which ran out of memory."""

from __future__ import annotations

import logging
import subprocess
import time
from collections import Counter
from collections.abc import Collection, Iterable
from pathlib import Path
from typing import Any

import ray
from ray._private.state import state

from ensemble_tune.errors import ConfigError
from ensemble_tune.tune.resources import GIB, Machine

log = logging.getLogger(__name__)

CARD_LABEL = "gpu-memory-gib"
"""A label of Ray's, given when a machine joins: the GiB of each of its GPUs. Without it nvidia-smi is asked, which
knows nothing of the parts that a GPU may be cut into (MIG)."""

_ASK_SECONDS = 1.0
_PROBE_SECONDS = 20.0
_MIB = 2**20


class Machines:
    """Those that are up, as they come and go. Each is asked once, before any trial is there, what its GPUs hold."""

    def __init__(self) -> None:
        self._cards: dict[str, int | None] = {}
        self._kills: dict[str, int | None] = {}
        """How many processes each one's kernel had killed for want of memory when it last answered; None before."""
        self._unexplained: Counter[str] = Counter()
        """How many of them nobody has missed yet."""

    def up(self, leaving: frozenset[str] = frozenset()) -> list[Machine]:
        """Every machine that is up and is not `leaving`."""
        nodes = [node for node in ray.nodes() if node["Alive"] and node["NodeID"] not in leaving]  # type: ignore[no-untyped-call]
        self._meet([node for node in nodes if node["NodeID"] not in self._kills])
        return [Machine(node["NodeID"], node["Resources"], self._cards[node["NodeID"]]) for node in nodes]

    def killed_for_memory(self, machine: str | None) -> bool:
        """Whether a process that died on a machine is one that its kernel has killed for want of memory since it was
        last asked; None where the machine is not known, which then is any."""
        up = {each.id for each in self.up() if machine is None or each.id == machine}
        for each, seen in _probe(up).items():
            if seen is not None:
                before, self._kills[each] = self._kills[each], seen[1]
                self._unexplained[each] += 0 if before is None else seen[1] - before
        killed = next((each for each in up if self._unexplained[each] > 0), None)
        if killed is not None:
            self._unexplained[killed] -= 1
        return killed is not None

    def _meet(self, nodes: list[dict[str, Any]]) -> None:
        for machine, seen in _probe([node["NodeID"] for node in nodes]).items():
            self._kills[machine] = None if seen is None else seen[1]
            self._cards[machine] = None if seen is None else min(seen[0], default=None)
        for node in nodes:
            label = (node.get("Labels") or {}).get(CARD_LABEL)
            if label is not None:
                self._cards[node["NodeID"]] = int(_gib(label) * GIB)
            if not node["Resources"].get("GPU"):
                self._cards[node["NodeID"]] = None


def _gib(text: str) -> float:
    """A label's value. Raises ConfigError."""
    try:
        return float(text)
    except ValueError:
        raise ConfigError(
            f"the label {CARD_LABEL} of a machine must be the GiB of one of its GPUs, but is {text!r}; try 16"
        ) from None


def _probe(ids: Collection[str]) -> dict[str, tuple[list[int], int] | None]:
    """What `_look` finds on each machine; None where it does not answer."""
    if not ids:
        return {}
    here = ray.get_runtime_context().get_node_id()
    asked = {
        machine: _look_there.options(label_selector={"ray.io/node-id": machine}).remote()
        for machine in ids
        if machine != here
    }
    found: dict[str, tuple[list[int], int] | None] = {machine: _look() for machine in ids if machine == here}
    until = time.monotonic() + _PROBE_SECONDS
    for machine, answer in asked.items():
        try:
            found[machine] = ray.get(answer, timeout=max(0.0, until - time.monotonic()))
        except ray.exceptions.RayError as error:
            log.warning("machine %s does not say what its GPUs hold: %s", machine, error)
            ray.cancel(answer)
            found[machine] = None
    return found


def _look() -> tuple[list[int], int]:
    """The bytes of each GPU here that nobody holds, and how many processes the kernel has killed for want of memory."""
    asked = ["nvidia-smi", "--query-gpu=memory.total,memory.used", "--format=csv,noheader,nounits"]
    try:
        lines = subprocess.run(asked, capture_output=True, text=True, timeout=10, check=True).stdout.splitlines()
        cards = [int(total) - int(used) for total, used in (line.split(",") for line in lines)]
    except (OSError, ValueError, subprocess.SubprocessError):  # no driver; "[N/A]"
        cards = []
    try:
        kernel = dict(line.split() for line in Path("/proc/vmstat").read_text(encoding="ascii").splitlines())
    except (OSError, ValueError):
        kernel = {}
    return [_MIB * card for card in cards], int(kernel.get("oom_kill", 0))


_look_there = ray.remote(num_cpus=0, max_retries=0)(_look)


def devices(machines: Iterable[Machine]) -> float:
    """The GPUs of all of them."""
    return sum(machine.resources.get("GPU", 0.0) for machine in machines)


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
