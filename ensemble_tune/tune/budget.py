"""What a search may spend, and what it has spent: trials, hours, GPU-hours, money, or until it is good enough."""

from __future__ import annotations

import math
from bisect import bisect_left, bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields

from ensemble_tune.errors import ConfigError
from ensemble_tune.tune.record import Objective, TrialRecord, is_better


@dataclass(frozen=True, slots=True)
class Target:
    """A score at which a search is good enough."""

    metric: str
    score: float

    @classmethod
    def parse(cls, text: str) -> Target:
        """From NAME=SCORE, for example miou=0.6. Raises ConfigError."""
        name, _, number = text.partition("=")
        try:
            score = float(number)
        except ValueError:
            score = math.nan
        if not name.strip() or not math.isfinite(score):
            raise ConfigError(f"a target must be NAME=SCORE, but got {text!r}; try miou=0.6")
        return cls(name.strip(), score)

    def __str__(self) -> str:
        return f"{self.metric}={self.score:g}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Budget:
    """Where a search ends, whichever comes first. None bounds nothing."""

    hours: float | None = None
    """Wall-clock hours, those of earlier calls on the same run folder included."""
    gpu_hours: float | None = None
    """Hours times the GPU shares that trials hold."""
    cost: float | None = None
    """Money, in the currency of `price`."""
    price: float | None = None
    """What a machine costs an hour."""
    target: Target | None = None
    """The search ends once a trial has reached it."""
    patience: int | None = None
    """The search ends once so many trials that were proposed after the best one have ended or paused."""

    def __post_init__(self) -> None:
        for each in fields(self):
            value = getattr(self, each.name)
            if each.name != "target" and value is not None and not 0 < value < math.inf:
                option = each.name.replace("_", "-")
                raise ConfigError(f"--{option} must be above 0, but got {value:g}; leave it out for no such limit")
        if (self.cost is None) != (self.price is None):
            raise ConfigError("--cost needs --price, what a machine costs an hour, and --price needs --cost; give both")

    def check(self, objectives: Sequence[Objective]) -> None:
        """Raises ConfigError for a target that is no objective."""
        names = [objective.metric for objective in objectives]
        if self.target is not None and self.target.metric not in names:
            raise ConfigError(
                f"a target must be a score that the search makes better, but got {self.target}; try {names[0]}=SCORE"
            )

    def used_up(self, usage: Usage) -> str | None:
        """Which limit of time or money is reached, as the reason why a search ends; None where none is."""
        if self.hours is not None and usage.hours >= self.hours:
            return f"{self.hours:g} hours used"
        if self.gpu_hours is not None and usage.gpu_hours >= self.gpu_hours:
            return f"{self.gpu_hours:g} GPU-hours used"
        if self.cost is not None and self.price is not None and usage.node_hours * self.price >= self.cost:
            return f"cost of {self.cost:g} reached at {self.price:g} a node-hour"
        return None

    def limits(self) -> dict[str, float]:
        """The limits that are numbers, by name."""
        named = {each.name: getattr(self, each.name) for each in fields(self) if each.name != "target"}
        return {name: float(value) for name, value in named.items() if value is not None}

    def at_most(self, *, trials: int, max_epochs: int, slots: int) -> str:
        """What a search may cost at most, in a line for a person."""
        limits = [f"{trials} trials x {max_epochs} epochs on {slots} slot{'s' if slots > 1 else ''}"]
        limits += [f"{self.hours:g} hours"] if self.hours is not None else []
        limits += [f"{self.gpu_hours:g} GPU-hours"] if self.gpu_hours is not None else []
        limits += [f"a cost of {self.cost:g}"] if self.cost is not None else []
        early = [f"at {self.target}"] if self.target is not None else []
        early += [f"after {self.patience} trials without a new best"] if self.patience is not None else []
        return f"at most {', '.join(limits)}" + (f"; ends early {' or '.join(early)}" if early else "")


@dataclass(slots=True, kw_only=True)
class Usage:
    """What a search has used."""

    hours: float = 0.0
    """Wall-clock, while it ran."""
    node_hours: float = 0.0
    gpu_hours: float = 0.0


@dataclass(slots=True, kw_only=True)
class Meter:
    """Adds up what a search uses, on top of what earlier calls used."""

    usage: Usage = field(default_factory=Usage)
    """The sum."""
    nodes: int = 1
    """Machines that are paid for."""
    gpus: float = 0.0
    """The share that a trial holds."""
    held: float | None = None
    """GPUs that are booked for all trials together, where each has a share of its own; then `gpus` says nothing."""
    places: int = 1
    """How many trials run side by side; another one may wait, and holds no share."""
    devices: float = 0.0
    """GPUs that there are."""
    since: float
    """Up to when everything is counted, in seconds."""

    def advance(self, now: float, live: int) -> Usage:
        """Counts the time up to `now`, in which `live` trials ran or waited for a place."""
        hours = max(0.0, now - self.since) / 3600
        self.since = now
        self.usage.hours += hours
        self.usage.node_hours += hours * self.nodes
        self.usage.gpu_hours += hours * self.gpus_in_use(live)
        return self.usage

    def gpus_in_use(self, live: int) -> float:
        """GPUs that trials hold together, while `live` of them run or wait for a place."""
        if self.held is None:
            return self.gpus * min(live, self.places)
        return min(self.held, self.devices)  # what waits for machines that are not up yet holds nothing of them


class Progress:
    """Whether trials still become better: the target, and how long nothing did."""

    def __init__(self, budget: Budget, objectives: Sequence[Objective]) -> None:
        budget.check(objectives)
        self._budget = budget
        self._mode = objectives[0].mode
        self._modes = {objective.metric: objective.mode for objective in objectives}
        self._best: tuple[float, int] | None = None
        self._left: list[int] = []
        """The numbers of the trials that have trained as far as they were let, sorted."""
        self._reached: str | None = None

    def epoch(self, trial: str, scores: Mapping[str, float]) -> None:
        """One more epoch's scores."""
        target = self._budget.target
        if target is None or self._reached is not None:
            return
        score = scores.get(target.metric, math.nan)
        if score == target.score or is_better(score, target.score, self._modes[target.metric]):
            self._reached = f"target {target} reached by {trial}"

    def left(self, record: TrialRecord) -> None:
        """A trial has ended or paused; told again where it goes on. One that failed says nothing of progress."""
        if record.score is None or record.status.went_wrong:
            return
        place = bisect_left(self._left, record.number)
        if self._left[place : place + 1] != [record.number]:
            self._left.insert(place, record.number)
        if self._best is None or is_better(record.score, self._best[0], self._mode):
            self._best = record.score, record.number

    @property
    def reason(self) -> str | None:
        """Why the search has no need to go on; None while it has."""
        if self._reached is None and self._budget.patience is not None and self._best is not None:
            later = len(self._left) - bisect_right(self._left, self._best[1])
            if later >= self._budget.patience:
                return f"no new best in {later} trials"
        return self._reached
