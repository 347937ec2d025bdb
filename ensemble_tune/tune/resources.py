"""What a trial asks of a machine, and how many trials fit beside each other."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from ensemble_tune.errors import ConfigError
from ensemble_tune.trial import Value


@dataclass(frozen=True, slots=True, kw_only=True)
class Resources:
    """One trial's share."""

    cpus: float = 1.0
    """Processor cores."""
    gpus: float | None = None
    """Devices: a fraction shares one device, a number above 1 must be whole; Ray books it, it does not enforce it.
    None asks for one where any machine has one."""
    memory: float = 0.0
    """GiB of a machine's memory; Ray books it, it does not enforce it. 0 books none."""

    def __post_init__(self) -> None:
        if not 0 < self.cpus < math.inf:
            raise ConfigError(f"--cpus-per-trial must be above 0, but got {self.cpus}; try 1")
        if self.gpus is not None and (self.gpus < 0 or not (self.gpus <= 1 or float(self.gpus).is_integer())):
            raise ConfigError(
                f"--gpus-per-trial must be a fraction of 1 or a whole number, but got {self.gpus}; try 0.25"
            )

        if not 0 <= self.memory < math.inf:
            raise ConfigError(f"a trial's memory must be 0 GiB or more, but got {self.memory}")

    @property
    def threads(self) -> int:
        """Computing threads that fit the share of cores, at least 1."""
        return max(1, int(self.cpus))

    def on(self, nodes: Iterable[Mapping[str, float]]) -> Resources:
        """This share with the number of devices settled, on nodes with these resources."""
        if self.gpus is not None:
            return self
        return replace(self, gpus=1.0 if any(node.get("GPU", 0.0) >= 1 for node in nodes) else 0.0)

    def bundle(self) -> dict[str, float]:
        """The request in Ray's words."""
        whole = {"CPU": self.cpus, "GPU": self.gpus or 0.0, "memory": self.memory * 2**30}
        return {name: amount for name, amount in whole.items() if amount}

    def slots(self, nodes: Iterable[Mapping[str, float]], *, at_least: int = 1) -> int:
        """How many trials run side by side on nodes with these resources. Raises ConfigError for less than at_least."""
        machines = list(nodes)
        slots = sum(self._slots_on(node) for node in machines)
        if slots < at_least:
            kinds = ("CPU", "GPU", "memory")
            most = {kind: max((node.get(kind, 0.0) for node in machines), default=0.0) for kind in kinds}
            asked, there = f"{self.gpus or 0:g} GPUs", f"{most['GPU']:g}"
            if self.memory:
                asked, there = f"{asked} and {self.memory:g} GiB", f"{there} and {most['memory'] / 2**30:.3g} GiB"
            raise ConfigError(
                f"a trial must fit on one machine, but it asks for {self.cpus:g} CPUs and {asked} and the largest has "
                f"{most['CPU']:g} and {there}; lower --cpus-per-trial or --gpus-per-trial"
            )
        return slots

    def _slots_on(self, node: Mapping[str, float]) -> int:
        # 1e-9: three trials of a third of a device fit on it.
        fit = math.floor(node.get("CPU", 0.0) / self.cpus + 1e-9)
        if self.memory:
            fit = min(fit, int(node.get("memory", 0.0) // (self.memory * 2**30)))
        if not self.gpus:
            return fit
        devices = node.get("GPU", 0.0)
        by_gpu = devices // self.gpus if self.gpus >= 1 else devices * math.floor(1 / self.gpus + 1e-9)
        return min(fit, int(by_gpu))


Requirements = Callable[[Mapping[str, Value]], Resources]
"""One trial's share by its parameters."""


class Bookings:
    """What trials of different shares hold or wait for, against what the machines have."""

    def __init__(self, requirements: Requirements, nodes: Sequence[Mapping[str, float]]) -> None:
        self._requirements = requirements
        self.nodes = nodes
        """The resources of each machine; may change."""
        self._booked: dict[str, dict[str, float]] = {}

    def share(self, params: Mapping[str, Value]) -> Resources:
        """What a trial asks for. Raises ConfigError where it fits on no machine."""
        share = self._requirements(params).on(self.nodes)
        share.slots(self.nodes)
        return share

    def book(self, trial: str, share: Resources) -> None:
        """Hands a share out."""
        self._booked[trial] = share.bundle()

    def free(self, trial: str) -> None:
        """Takes it back; nothing where the trial had none."""
        self._booked.pop(trial, None)

    @property
    def full(self) -> bool:
        """Whether a trial waits for resources already: then no other is handed out."""
        return any(self.total(kind) > sum(n.get(kind, 0.0) for n in self.nodes) for kind in ("CPU", "GPU", "memory"))

    def held(self, kind: str) -> float:
        """What trials have of it, at most all there is: the rest is waited for."""
        return min(self.total(kind), sum(node.get(kind, 0.0) for node in self.nodes))

    def total(self, kind: str) -> float:
        """What is booked of CPU, GPU or memory (bytes)."""
        return sum(bundle.get(kind, 0.0) for bundle in self._booked.values())
