"""What a search remembers of each call on a stage: when it ran, on what, and why it ended."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime


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
