"""What a search remembers of a trial and of each of its epochs, as plain values."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from enum import StrEnum
from typing import Any, Literal

from ensemble_tune.documents import Document
from ensemble_tune.errors import ConfigError
from ensemble_tune.trial import Value

Mode = Literal["max", "min"]


@dataclass(frozen=True, slots=True)
class Objective:
    """A score to make as high, or as low, as can be."""

    metric: str
    mode: Mode = "max"

    @classmethod
    def parse(cls, text: str) -> Objective:
        """From NAME, to be made higher, or NAME:min. Raises ConfigError."""
        name, _, mode = text.partition(":")
        if not name or mode not in ("", "max", "min"):
            raise ConfigError(f"an objective must be NAME or NAME:min, but got {text!r}; try miou or milliseconds:min")
        return cls(name, "min" if mode == "min" else "max")


Worth = Literal["best", "last"]
"""Which epoch a trial is worth: its best, or its last where the number of epochs was chosen before."""


GIVEN = "given"
"""The `sampler` of a trial whose parameters no sampler proposed."""


class Status(StrEnum):
    """Where a trial stands."""

    RUNNING = "running"
    PAUSED = "paused"
    """Waits with its checkpoint: the scheduler may promote it."""
    FINISHED = "finished"
    """Trained to its last epoch."""
    STOPPED = "stopped"
    """Ended early by the scheduler."""
    FAILED = "failed"
    """Its parameters cannot be trained: its training raised an error. The sampler looks elsewhere."""
    OUT_OF_MEMORY = "out_of_memory"
    """It needs more memory than any share, or the one that it was tried once more with. The sampler looks elsewhere."""
    LOST = "lost"
    """Its workers died too often, which says nothing of its parameters."""

    @property
    def is_end(self) -> bool:
        """Whether nothing more will come of the trial."""
        return self not in (Status.RUNNING, Status.PAUSED)

    @property
    def is_infeasible(self) -> bool:
        """Whether the parameters cannot be trained."""
        return self in (Status.FAILED, Status.OUT_OF_MEMORY)

    @property
    def went_wrong(self) -> bool:
        """Whether the trial ended without being trained as far as it was to be, whatever the reason."""
        return self.is_infeasible or self is Status.LOST


@dataclass(frozen=True, slots=True, kw_only=True)
class EpochRecord:
    """One epoch of one trial: a row of the ledger's epochs."""

    trial: str
    stage: str
    number: int
    """The trial's place in its stage, from 0."""
    attempt: int
    """Which life of the trial gave this row, from 1."""
    epoch: int
    """Counted from 1."""
    scores: Mapping[str, float]
    seconds: Mapping[str, float]
    """Wall-clock seconds by part: what the trial names, for example load, train, evaluate, then checkpoint and other;
    in an attempt's first epoch also wait (from the proposal until a worker takes it), start (of a new worker) and
    set_up (what the trial does before the parts that it names)."""
    reported: datetime
    """When the epoch ended, in UTC."""
    worker: str = ""
    """The process that trained it: host/pid."""
    gpu: Mapping[str, float | str] = field(default_factory=dict)
    """Where it had a GPU: its `share` of a device, which `card` (machine/number), and in bytes what it was `given`,
    what it was `estimated` to take and was `measured` to have taken at most, as far as each is known."""

    @property
    def busy(self) -> float:
        """Seconds in which the trial held a worker that was ready."""
        return sum(value for name, value in self.seconds.items() if name not in ("wait", "start"))

    def to_json(self) -> dict[str, Any]:
        """The record as JSON can hold it: nan becomes null."""
        return {
            "trial": self.trial,
            "stage": self.stage,
            "number": self.number,
            "attempt": self.attempt,
            "epoch": self.epoch,
            "scores": {name: None if math.isnan(score) else score for name, score in self.scores.items()},
            "seconds": dict(self.seconds),
            "reported": self.reported.isoformat(),
            "worker": self.worker,
            "gpu": dict(self.gpu),
        }

    @classmethod
    def from_json(cls, row: object) -> EpochRecord:
        """Reads back `to_json`. Raises ValueError for anything else."""
        known = Document(row)
        # Checkpoints of earlier versions have none.
        gpu = known.plain("gpu") if "gpu" in known else {}
        return cls(
            trial=known.text("trial"),
            stage=known.text("stage"),
            number=known.whole("number"),
            attempt=known.whole("attempt"),
            epoch=known.whole("epoch"),
            scores=known.numbers("scores"),
            seconds=known.numbers("seconds"),
            reported=known.time("reported"),
            worker=known.text("worker"),
            gpu={name: value if isinstance(value, str) else float(value) for name, value in gpu.items()},
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class TrialRecord:
    """One trial: a row of the ledger's trials."""

    trial: str
    """Stage and number, for example base-0007."""
    stage: str
    number: int
    """The trial's place in its stage, from 0."""
    status: Status
    params: Mapping[str, Value]
    """Every parameter, the fixed ones too, without the seed."""
    seed: int
    sampler: str = GIVEN
    """Who proposed the parameters: a sampler's name, or given."""
    started: datetime
    """When the trial was proposed, in UTC."""
    ended: datetime | None = None
    attempt: int = 1
    """How many lives the trial has had."""
    epochs: int = 0
    """Epochs trained so far."""
    best_epoch: int | None = None
    """The epoch with the best score; None while there is none."""
    score: float | None = None
    """The search's metric at the best epoch."""
    scores: Mapping[str, float] = field(default_factory=dict)
    """All scores at the best epoch."""
    seconds: float = 0.0
    """Wall-clock seconds that its epochs kept a worker busy."""
    error: str | None = None
    """Why it failed, in one line."""
    gpu: Mapping[str, float] = field(default_factory=dict)
    """The numbers of its epochs' `gpu`, the most that was `measured`; and `ran_out`, the last share whose memory did
    not suffice (0: without a GPU)."""
    provenance: Mapping[str, str] = field(default_factory=dict)
    """Versions, git commit, digests of data and space."""

    @property
    def ended_well(self) -> bool:
        """Whether it has a score to be compared by."""
        return self.status in (Status.FINISHED, Status.STOPPED) and self.score is not None

    def is_of(self, point: Mapping[str, Value]) -> bool:
        """Whether it trains these parameters, and with this seed where one is among them."""
        return {"seed": self.seed, **point} == {**self.params, "seed": self.seed}

    def proposal_to_json(self) -> dict[str, Any]:
        """What was proposed, as JSON can hold it."""
        return {
            "trial": self.trial,
            "stage": self.stage,
            "number": self.number,
            "params": dict(self.params),
            "seed": self.seed,
            "sampler": self.sampler,
            "started": self.started.isoformat(),
            "provenance": dict(self.provenance),
        }

    @classmethod
    def of_proposal(cls, row: object) -> TrialRecord:
        """Reads back `proposal_to_json`, as a trial that runs. Raises ValueError."""
        known = Document(row)
        record = cls(
            trial=known.text("trial"),
            stage=known.text("stage"),
            number=known.whole("number"),
            status=Status.RUNNING,
            params=known.plain("params"),
            seed=known.whole("seed"),
            sampler=known.text("sampler"),
            started=known.time("started"),
            provenance=known.own_texts("provenance"),
        )
        if record.trial != trial_name(record.stage, record.number):
            raise ValueError(f"trial {record.number} of {record.stage} is not called {record.trial!r}")
        return record

    def with_epoch(self, row: EpochRecord, metric: str, mode: Mode, worth: Worth) -> TrialRecord:
        """This trial after one more epoch; under worth "best", a score that is nan never becomes the best."""
        score = row.scores.get(metric, math.nan)
        if worth == "last":
            better = self.best_epoch is None or row.epoch > self.best_epoch
        else:
            better = not math.isnan(score) and (self.score is None or is_better(score, self.score, mode))
        return replace(
            self,
            attempt=max(self.attempt, row.attempt),
            epochs=max(self.epochs, row.epoch),
            seconds=self.seconds + row.busy,
            best_epoch=row.epoch if better else self.best_epoch,
            score=(None if math.isnan(score) else score) if better else self.score,
            scores=row.scores if better else self.scores,
            gpu=self.with_gpu(row.gpu).gpu,
        )

    def with_gpu(self, figures: Mapping[str, float | str]) -> TrialRecord:
        """This trial with what became known of its memory."""
        known = {name: float(value) for name, value in figures.items() if not isinstance(value, str)}
        if "measured" in known:
            known["measured"] = max(known["measured"], self.gpu.get("measured", 0.0))
        return replace(self, gpu={**self.gpu, **known}) if known else self


def is_better(score: float, than: float, mode: Mode) -> bool:
    """Whether `score` beats `than`; equal scores do not."""
    return score > than if mode == "max" else score < than


def best_epoch(rows: Iterable[EpochRecord], metric: str, mode: Mode) -> int | None:
    """The epoch with the best score, the first of equals; None where no score is a number."""
    best, best_score = None, math.nan
    for row in rows:
        score = row.scores.get(metric, math.nan)
        if not math.isnan(score) and (best is None or is_better(score, best_score, mode)):
            best, best_score = row.epoch, score
    return best


def trial_name(stage: str, number: int) -> str:
    """The id of a stage's trial, for example base-0007."""
    return f"{stage}-{number:04d}"


def rank(records: Sequence[TrialRecord], mode: Mode) -> list[TrialRecord]:
    """Trials with a score, the best first; of equals, the earlier."""
    scored = [record for record in records if record.score is not None and not record.status.went_wrong]
    sign = -1.0 if mode == "max" else 1.0
    return sorted(scored, key=lambda record: (sign * (record.score or 0.0), record.number))


def best_of(records: Sequence[TrialRecord], mode: Mode) -> TrialRecord | None:
    """The trial with the best score among those that ended or paused, or None."""
    ended = [record for record in records if record.status is not Status.RUNNING]
    return next(iter(rank(ended, mode)), None)
