"""A trial that asks for more memory than there is, in a process of Ray's."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from ensemble_tune.trial import Checkpoint, EpochResult, Params, Value


@dataclass(frozen=True)
class HungryTrial:
    """In epoch 2 it takes `params["mib"]`; at its first `params["killed"]` attempts to, its process is put into a group
    whose memory the kernel keeps to 200 MiB, by killing."""

    groups: Path
    log: Path

    def __call__(self, params: Params, resume: Checkpoint | None) -> Iterator[EpochResult]:
        """Goes on from epoch 1."""
        for epoch in range(1 if resume is None else resume.epoch + 1, 4):
            if epoch == 2 and "mib" in params:
                self._take(params)
            yield EpochResult(epoch=epoch, scores={"score": 1.0})

    def _take(self, params: Params) -> None:
        tried = self.log.with_name(f"tried-{params['seed']}")
        times = len(tried.read_text()) if tried.exists() else 0
        tried.write_text("x" * (times + 1))
        if times < int(params.get("killed", 0)):
            (self.groups / "cgroup.procs").write_text("0")
        (b"x" * (int(params["mib"]) * 2**20)).find(b"y")

    def _tried(self, seed: Value) -> int:
        """How often a trial has taken its memory."""
        tried = self.log.with_name(f"tried-{seed}")
        return len(tried.read_text()) if tried.exists() else 0

    def _wait(self, until: Callable[[], bool]) -> None:
        while not until():
            time.sleep(0.05)
