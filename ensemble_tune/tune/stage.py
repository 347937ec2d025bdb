"""A conductor at work on machines: what has been handed out, what waits for another worker."""

from __future__ import annotations

import threading
from collections import Counter, deque
from dataclasses import dataclass, field
from typing import Any

from ensemble_tune.tune.conductor import Assignment, Conductor
from ensemble_tune.tune.resources import Bookings


@dataclass
class Stage:
    """A conductor at work."""

    conductor: Conductor
    shared: Any
    """Ray's reference to what all its trials share, for workers to fetch."""
    bookings: Bookings | None = None
    """Where each trial has a share of its own."""
    live: dict[str, Assignment] = field(default_factory=dict)
    """What Tune has been given and has not ended, by Tune's ids."""
    again: deque[Assignment] = field(default_factory=deque)
    """Trials whose worker died."""
    deaths: Counter[str] = field(default_factory=Counter)
    """How often each trial's worker died."""
    done: threading.Event = field(default_factory=threading.Event)
    """Set when every trial has ended."""
