"""What a trial asks of a machine, and how many trials fit beside each other."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace

from ensemble_tune.errors import ConfigError
from ensemble_tune.trial import Value

GIB = 2**30


@dataclass(frozen=True, slots=True)
class Machine:
    """One that trials run on."""

    id: str
    """Ray's."""
    resources: Mapping[str, float]
    """All that it has, as Ray names resources."""
    card: int | None = None
    """Bytes of each of its GPUs that trials can have; None where it has none, or their size is not known."""
    host: str = ""
    """Its name in the network; Ray may run several nodes on one, for tests."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Resources:
    """One trial's share."""

    cpus: float = 1.0
    """Processor cores."""
    gpus: float | None = None
    """Devices: a fraction shares one device, a number above 1 must be whole. None is the smallest of 1, 1/2, 1/3, ...
    whose part of a card's memory holds `gpu_memory`; a whole one where that or the card is not known; 0 where no
    machine has a device."""
    gpu_memory: float | None = None
    """GiB of a device's memory that the trial takes, CUDA's own among them; None is not known. Where a fraction in
    `gpus` is too small for it, the trial is refused."""
    memory: float = 0.0
    """GiB of a machine's memory, all of the trial's process; it can allocate no more. 0 books and bounds none."""

    def __post_init__(self) -> None:
        if not 0 < self.cpus < math.inf:
            raise ConfigError(f"--cpus-per-trial must be above 0, but got {self.cpus}; try 1")
        if self.gpus is not None and (self.gpus < 0 or not (self.gpus <= 1 or float(self.gpus).is_integer())):
            raise ConfigError(
                f"--gpus-per-trial must be a fraction of 1 or a whole number, but got {self.gpus}; try 0.25"
            )

        if not 0 <= self.memory < math.inf:
            raise ConfigError(f"--memory-per-trial must be 0 GiB or more, but got {self.memory}; try 8")
        if self.gpu_memory is not None and not 0 < self.gpu_memory < math.inf:
            raise ConfigError(f"a trial's memory on a GPU must be above 0 GiB, but got {self.gpu_memory}")

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
        whole = {"CPU": self.cpus, "GPU": self.gpus or 0.0, "memory": int(self.memory * GIB)}
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
                asked, there = f"{asked} and {self.memory:g} GiB", f"{there} and {most['memory'] / GIB:.3g} GiB"
            raise ConfigError(
                f"a trial must fit on one machine, but it asks for {self.cpus:g} CPUs and {asked} and the largest has "
                f"{most['CPU']:g} and {there}; lower --cpus-per-trial or --gpus-per-trial"
            )
        return slots

    def _slots_on(self, node: Mapping[str, float]) -> int:
        # 1e-9: three trials of a third of a device fit on it.
        fit = math.floor(node.get("CPU", 0.0) / self.cpus + 1e-9)
        if self.memory:
            fit = min(fit, int(node.get("memory", 0.0) // (self.memory * GIB)))
        if not self.gpus:
            return fit
        devices = node.get("GPU", 0.0)
        by_gpu = devices // self.gpus if self.gpus >= 1 else devices * math.floor(1 / self.gpus + 1e-9)
        return min(fit, int(by_gpu))


Requirements = Callable[[Mapping[str, Value]], Resources]
"""One trial's share by its parameters."""
