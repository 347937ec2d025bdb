"""A trial without torch whose every score depends on all epochs before it and on the seed: wrong resumes show."""

from __future__ import annotations

import hashlib
import os
import signal
import socket
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from ensemble_tune.errors import TrainingError
from ensemble_tune.trial import Checkpoint, EpochResult, Params
from ensemble_tune.tune.record import EpochRecord, TrialRecord


@dataclass(frozen=True)
class CountingTrial:
    """Trains `params["epochs"]` epochs; writes seed, epoch, process and machine of each to `log`, if there is one.

    It raises an error at the epoch `params["fails"]`, and kills its process `params["dies"]` times in epoch 2.
    """

    seconds: float = 0.0
    """An epoch's length."""
    log: Path | None = None
    ballast: int = 0
    """Bytes that its checkpoints hold beside the state."""

    def __call__(self, params: Params, resume: Checkpoint | None) -> Iterator[EpochResult]:
        """Goes on from the state in `resume`."""
        self._meet(params)
        state, first = "start", 1
        if resume is not None:
            state, first = (resume.folder / "state").read_text(), resume.epoch + 1
        for epoch in range(first, int(params["epochs"]) + 1):
            if epoch == params.get("fails"):
                raise TrainingError("the loss is nan") if params.get("known") else ValueError("line one\nline two")
            if epoch == 2 and self.log is not None and self._deaths() < int(params.get("dies", 0)):
                with self.log.with_name("deaths").open("a") as file:
                    file.write("x")
                os.kill(os.getpid(), signal.SIGKILL)
            time.sleep(self.seconds)
            state = hashlib.sha256(f"{state}/{params['seed']}/{params['rate']}/{epoch}".encode()).hexdigest()
            if self.log is not None:
                with self.log.open("a") as file:
                    file.write(f"{params['seed']} {epoch} {os.getpid()} {socket.gethostname()}\n")
            score = int(state[:8], 16) / 2**32

            def save(folder: Path, state: str = state) -> None:
                (folder / "state").write_text(state)
                (folder / "ballast").write_bytes(bytes(self.ballast))

            yield EpochResult(epoch=epoch, scores={"score": score}, seconds={"train": self.seconds}, save=save)

    def _meet(self, params: Params) -> None:
        """Waits until `params["meets"]` trials are there, each in a process of its own."""
        if "meets" in params and self.log is not None:
            self.log.with_name(f"here-{params['seed']}").touch()
            until = time.monotonic() + 60
            while len(list(self.log.parent.glob("here-*"))) < int(params["meets"]):
                if time.monotonic() > until:
                    raise TrainingError("the others never came")
                time.sleep(0.02)

    def _deaths(self) -> int:
        assert self.log is not None
        path = self.log.with_name("deaths")
        return len(path.read_text()) if path.exists() else 0


def alone(record: TrialRecord) -> list[tuple[int, float]]:
    """Epochs and scores of a trial that runs by itself, from its first epoch to the last that `record` has."""
    params = {**record.params, "seed": record.seed, "fails": 0}
    epochs = CountingTrial()({**params, "epochs": record.epochs}, None)
    return [(result.epoch, result.scores["score"]) for result in epochs]


def check(trials: list[TrialRecord], rows: list[EpochRecord]) -> None:
    """Both promises: every (trial, epoch) exactly once, and every trial's rows equal that trial run alone."""
    assert len({record.trial for record in trials}) == len(trials)
    assert {row.trial for row in rows} <= {record.trial for record in trials}
    for record in trials:
        own = [(row.epoch, row.scores["score"]) for row in rows if row.trial == record.trial]
        assert own == alone(record), f"{record.trial}: {[epoch for epoch, _ in own]} of {record.epochs}"
