"""The machines that Ray runs on: what each has, which are about to go, and which ran out of memory."""

from __future__ import annotations

import logging
import math
import os
import socket
import subprocess
import time
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any

import ray
from ray._private.state import state

from ensemble_tune.errors import ConfigError
from ensemble_tune.tune.resources import GIB, Machine
from ensemble_tune.tune.usable_cores import usable_cores

log = logging.getLogger(__name__)

CARD_LABEL = "gpu-memory-gib"
"""A label of Ray's, given when a machine joins: the GiB of each of its GPUs. Without it nvidia-smi is asked, which
knows nothing of the parts that a GPU may be cut into (MIG)."""

_ASK_SECONDS = 1.0
_FORGET_SECONDS = 60.0
"""A worker's death is noticed within so many."""
_PROBE_SECONDS = 20.0
_MIB = 2**20


class Machines:
    """Those that are up, as they come and go. Each is asked once, before any trial is there, what its GPUs hold."""

    def __init__(self) -> None:
        self._cards: dict[str, int | None] = {}
        self._kills: dict[str, int | None] = {}
        """How many processes each one's kernel had killed for want of memory a while ago; None where it did not say."""
        self._missed: Counter[str] = Counter()
        """How many of those that were killed since were trials' workers."""
        self._lately: dict[str, int] = {}
        """As `_kills`, but when `forget` last heard of it."""
        self._asked: dict[str, ray.ObjectRef[int]] = {}
        self._forgot = time.monotonic()
        self._cores = math.inf

    def up(self, leaving: frozenset[str] = frozenset()) -> list[Machine]:
        """Every machine that is up and is not `leaving`."""
        alive = [node for node in ray.nodes() if node["Alive"]]  # type: ignore[no-untyped-call]
        self._lose({node["NodeID"] for node in alive})
        nodes = [node for node in alive if node["NodeID"] not in leaving]
        self._meet([node for node in nodes if node["NodeID"] not in self._kills])
        self._forget_if_due()
        machines = [
            Machine(node["NodeID"], node["Resources"], self._cards[node["NodeID"]], node.get("NodeManagerHostname", ""))
            for node in nodes
        ]
        self._cores = cores(machines)
        return machines

    def have_cores_for(self, trials: int) -> None:
        """Warns where so many trials at once are more than there are cores on the machines that were up last."""
        if trials > self._cores:
            _warn_of_cores(self._cores)

    def killed_for_memory(self, machine: str | None) -> bool:
        """Whether a process that died on a machine is one that its kernel has killed for want of memory lately; None
        where the machine is not known, which then is any."""
        up = {each.id for each in self.up() if machine is None or each.id == machine}
        for each, seen in _probe(up).items():
            before = self._kills[each]
            if seen is not None and before is None:
                self._kills[each] = seen[1]
            elif seen is not None and before is not None and seen[1] - before > self._missed[each]:
                self._missed[each] += 1
                return True
        return False

    def _forget_if_due(self) -> None:
        """Once a minute lets go of what was killed more than a minute ago, so that no later death is blamed on it."""
        if time.monotonic() - self._forgot > _FORGET_SECONDS:
            self._forgot = time.monotonic()
            self.forget()

    def forget(self) -> None:
        """Lets go of what had been killed when this was called last. Waits for no machine."""
        here = ray.get_runtime_context().get_node_id()
        ready, _ = (
            ray.wait([*self._asked.values()], num_returns=len(self._asked), timeout=0) if self._asked else ([], [])
        )
        heard: dict[str, int] = {here: _kills()} if here in self._kills else {}
        for machine, answer in self._asked.items():
            with suppress(ray.exceptions.RayError):
                if answer in ready:
                    heard[machine] = ray.get(answer)
        for machine, now in heard.items():
            before, self._kills[machine] = self._kills[machine], self._lately.get(machine, self._kills[machine])
            gone = (self._kills[machine] or 0) - (before or 0)
            self._missed[machine] = max(0, self._missed[machine] - gone)
            self._lately[machine] = now
        self._asked = {
            machine: _kills_there.options(label_selector={"ray.io/node-id": machine}).remote()
            for machine in self._kills
            if machine != here
        }

    def _lose(self, there: set[str]) -> None:
        """Asks those that have gone nothing more: a question to one of them would wait for ever."""
        for machine in self._kills.keys() - there:
            del self._kills[machine]
            del self._missed[machine]
            self._lately.pop(machine, None)
            asked = self._asked.pop(machine, None)
            if asked is not None:
                with suppress(ray.exceptions.RayError):
                    ray.cancel(asked)

    def _meet(self, nodes: list[dict[str, Any]]) -> None:
        found: dict[str, list[int]] = {}
        for machine, seen in _probe([node["NodeID"] for node in nodes]).items():
            self._kills[machine] = None if seen is None else seen[1]
            found[machine] = [] if seen is None else seen[0]
        for node in nodes:
            label, gpus = (node.get("Labels") or {}).get(CARD_LABEL), node["Resources"].get("GPU", 0.0)
            cards = found.get(node["NodeID"], [])
            self._cards[node["NodeID"]] = None
            if gpus and label is not None:
                self._cards[node["NodeID"]] = int(_gib(label) * GIB)
            elif gpus and len(cards) == gpus:
                self._cards[node["NodeID"]] = min(cards)
            elif gpus and cards:
                log.warning(
                    "machine %s has %g GPUs for Ray and %d for nvidia-smi, so that their memory is not known and each "
                    "trial has a whole one; start it with --labels %s=16, the GiB of one",
                    *(node["NodeID"], gpus, len(cards), CARD_LABEL),
                )


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
    found: dict[str, tuple[list[int], int] | None] = {
        # Ray gives a task without a GPU an empty list of them, so that elsewhere it says nothing.
        machine: _look(os.environ.get("CUDA_VISIBLE_DEVICES"))
        for machine in ids
        if machine == here
    }
    until = time.monotonic() + _PROBE_SECONDS
    for machine, answer in asked.items():
        try:
            found[machine] = ray.get(answer, timeout=max(0.0, until - time.monotonic()))
        except ray.exceptions.RayError as error:
            log.warning("machine %s does not say what its GPUs hold: %s", machine, error)
            ray.cancel(answer)
            found[machine] = None
    return found


def _look(visible: str | None = None) -> tuple[list[int], int]:
    """The bytes of each GPU here that nobody holds, and how many processes the kernel has killed for want of memory.

    visible: the GPUs that are asked, as CUDA_VISIBLE_DEVICES names them; None is all.
    """
    asked = ["nvidia-smi", "--query-gpu=memory.total,memory.used", "--format=csv,noheader,nounits"]
    asked += [] if visible is None else [f"--id={visible}"]
    try:
        lines = subprocess.run(asked, capture_output=True, text=True, timeout=10, check=True).stdout.splitlines()
        cards = [int(total) - int(used) for total, used in (line.split(",") for line in lines)]
    except (OSError, ValueError, subprocess.SubprocessError):  # no driver; "[N/A]"
        cards = []
    return [_MIB * card for card in cards], _kills()


def _kills() -> int:
    """How many processes the kernel here has killed for want of memory since it started."""
    try:
        kernel = dict(line.split() for line in Path("/proc/vmstat").read_text(encoding="ascii").splitlines())
    except (OSError, ValueError):
        kernel = {}
    return int(kernel.get("oom_kill", 0))


_look_there = ray.remote(num_cpus=0, max_retries=0)(_look)
_kills_there = ray.remote(num_cpus=0, max_retries=0)(_kills)


def devices(machines: Iterable[Machine]) -> float:
    """The GPUs of all of them."""
    return sum(machine.resources.get("GPU", 0.0) for machine in machines)


def cores(machines: Iterable[Machine]) -> float:
    """The processor cores that are there: on this host no more than it has, whatever Ray's nodes here were told."""
    of_host: dict[str, float] = defaultdict(float)
    for machine in machines:
        of_host[machine.host] += machine.resources.get("CPU", 0.0)
    here = socket.gethostname()
    return sum(min(cpus, usable_cores()) if host == here else cpus for host, cpus in of_host.items())


@cache
def _warn_of_cores(there: float) -> None:
    """Once a process."""
    log.warning(
        "more trials run side by side than there are cores, %g, and wait for each other; "
        "give --cpus-per-trial 1 or more to avoid it",
        there,
    )


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
