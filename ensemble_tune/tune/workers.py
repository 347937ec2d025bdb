"""Where trials run: each one's share of the machines, and the processes that train one after another."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from types import TracebackType
from typing import TYPE_CHECKING

from ensemble_tune.errors import ConfigError
from ensemble_tune.trial import Trial
from ensemble_tune.tune.conductor import Conductor
from ensemble_tune.tune.interrupts import Noted
from ensemble_tune.tune.resources import Requirements, Resources

if TYPE_CHECKING:
    from ensemble_tune.tune.ray_runner import RayRunner


class Workers:
    """Processes on Ray, one a slot, that live from the first trial to the end of the outermost `with`.

    A worker imports torch once, however many trials and stages it trains; so stages that follow each other share one
    `with`. Nothing is started before a trial needs it.
    """

    def __init__(
        self,
        resources: Resources | None = None,
        address: str | None = None,
        slots: int | None = None,
        imports: str | None = None,
    ) -> None:
        """resources: one trial's share. address: a Ray cluster; None starts Ray on this machine. slots: how many trials
        an autoscaling cluster may grow to hold; None is as many as its machines hold. imports: a module that trials
        need: workers of a Ray that is started here import it as they start, before they know their share, so such
        trials set their threads themselves. Raises ConfigError."""
        if slots is not None and slots < 1:
            raise ConfigError(f"--slots must be at least 1, but got {slots}; try 8")
        self.resources = resources or Resources()
        if slots is not None and self.resources.gpus is None:
            raise ConfigError(
                f"--slots {slots} is for machines that are not up yet, so a trial must say what it asks of them, but "
                "--gpus-per-trial is missing; give it, or --cpu"
            )
        self._address = address
        self._slots = slots
        self._imports = imports
        self._runner: RayRunner | None = None
        self._users = 0
        self._signals = Noted()

    @property
    def here(self) -> bool:
        """Whether trials run on this machine alone."""
        return not (self._address or os.environ.get("RAY_ADDRESS"))

    def __enter__(self) -> Workers:
        if not self._users:
            self._signals.__enter__()
        self._users += 1
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._users -= 1
        if isinstance(error, KeyboardInterrupt):
            self._signals.came = False  # whoever catches it may go on
        try:
            if not self._users or error is not None:
                self._end()
        finally:
            if not self._users:
                self._signals.__exit__(kind, error, at)

    @contextmanager
    def sharing(self, *, cpus: float) -> Iterator[None]:
        """Within it each trial has so many cores; workers that have another share end as it begins and ends."""
        before = self.resources
        self._share(replace(before, cpus=cpus))
        try:
            yield
        finally:
            self._share(before)

    def run(self, conductor: Conductor, trial: Trial, requirements: Requirements | None = None) -> None:
        """Trains every trial that the conductor assigns; requirements: each one's share, None for the same for all.

        Raises Interrupted on Ctrl-C, ConfigError where no Ray is.
        """
        self._signals.check()
        if self._runner is None:
            # Imported here: a finished search needs no Ray.
            from ensemble_tune.tune.ray_runner import RayRunner

            self._runner = RayRunner(self.resources, self._address, self._slots, self._imports)
            self._signals.check()  # that took seconds
        self._runner.run(conductor, trial, requirements)

    def _share(self, resources: Resources) -> None:
        if resources != self.resources:
            self._end()
            self.resources = resources

    def _end(self) -> None:
        if self._runner is not None:
            self._runner.close()
            self._runner = None
