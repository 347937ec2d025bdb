"""What a trial asks of a machine, and how many trials fit beside each other."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

from ensemble_tune.errors import ConfigError


@dataclass(frozen=True, slots=True, kw_only=True)
class Resources:
    """One trial's share."""

    cpus: float = 1.0
    """Processor cores."""
    gpus: float | None = None
    """Devices: a fraction shares one device, a number above 1 must be whole; Ray books it, it does not enforce it.
    None asks for one where any machine has one."""

    def __post_init__(self) -> None:
        if not 0 < self.cpus < math.inf:
            raise ConfigError(f"--cpus-per-trial must be above 0, but got {self.cpus}; try 1")
        if self.gpus is not None and (self.gpus < 0 or not (self.gpus <= 1 or float(self.gpus).is_integer())):
            raise ConfigError(
                f"--gpus-per-trial must be a fraction of 1 or a whole number, but got {self.gpus}; try 0.25"
            )

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
        return {"CPU": self.cpus} | ({"GPU": self.gpus} if self.gpus else {})

    def slots(self, nodes: Iterable[Mapping[str, float]]) -> int:
        """How many trials run side by side on nodes with these resources. Raises ConfigError where none fits."""
        machines = list(nodes)
        slots = sum(self._slots_on(node) for node in machines)
        if not slots:
            most = {kind: max((node.get(kind, 0.0) for node in machines), default=0.0) for kind in ("CPU", "GPU")}
            raise ConfigError(
                f"a trial must fit on one machine, but it asks for {self.cpus:g} CPUs and "
                f"{self.gpus or 0:g} GPUs and the largest has {most['CPU']:g} and {most['GPU']:g}; "
                "lower --cpus-per-trial or --gpus-per-trial"
            )
        return slots

    def _slots_on(self, node: Mapping[str, float]) -> int:
        # 1e-9: three trials of a third of a device fit on it.
        by_cpu = math.floor(node.get("CPU", 0.0) / self.cpus + 1e-9)
        if not self.gpus:
            return by_cpu
        devices = node.get("GPU", 0.0)
        by_gpu = devices // self.gpus if self.gpus >= 1 else devices * math.floor(1 / self.gpus + 1e-9)
        return min(by_cpu, int(by_gpu))
