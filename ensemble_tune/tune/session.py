"""What a search remembers of each call on a stage: when it ran, on what, within what limits, and why it ended."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime

from ensemble_tune.tune.budget import Usage


@dataclass(frozen=True, slots=True, kw_only=True)
class SessionRecord:
    """One call of a search on a stage: a row of the ledger's sessions."""

    stage: str
    session: int
    """Counted from 1 in its stage."""
    started: datetime
    """In UTC, as are the other times."""
    updated: datetime
    """When its driver was last known to live."""
    ended: datetime | None = None
    """None while it runs, and for good where its driver died."""
    reason: str | None = None
    """Why it ended, for example "60 trials", "2 hours used", "interrupted"; None where `ended` is."""
    slots: int
    """How many trials it could train at once."""
    node_hours: float = 0.0
    """Nodes times wall-clock hours so far."""
    gpu_hours: float = 0.0
    """GPUs times wall-clock hours so far."""
    host: str
    """Where its driver runs, and as which process."""
    pid: int
    goal: Mapping[str, str] = field(default_factory=dict)
    """metric, mode ("max" or "min"), and target where there is one; empty in a ledger from before these were kept."""
    limit: Mapping[str, float] = field(default_factory=dict)
    """Of what there are how many: trials (of the stage, in the end), epochs (of a trial), hours, gpu_hours, cost,
    price, patience."""
    use: Mapping[str, float] = field(default_factory=dict)
    """What is in use: nodes, gpus (the shares that trials hold, together), and devices (the GPUs that there are)."""


def usage_of(sessions: Iterable[SessionRecord]) -> Usage:
    """What calls have used together."""
    usage = Usage()
    for session in sessions:
        usage.hours += (session.updated - session.started).total_seconds() / 3600
        usage.node_hours += session.node_hours
        usage.gpu_hours += session.gpu_hours
    return usage
