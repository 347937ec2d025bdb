"""Who looks on while a stage is searched."""

from __future__ import annotations

from collections.abc import Sequence

from ensemble_tune.tune.budget import Usage
from ensemble_tune.tune.record import TrialRecord
from ensemble_tune.tune.session import SessionRecord


class Watcher:
    """Told what is put into the ledger, as it is put, from any thread; this one does nothing with it."""

    def begins(self, session: SessionRecord, records: Sequence[TrialRecord], before: Usage) -> None:
        """A call on a stage begins; records: all trials of the stage so far. before: what earlier calls have used."""

    def trial(self, record: TrialRecord) -> None:
        """A trial is new or has changed: after each epoch too."""

    def session(self, session: SessionRecord) -> None:
        """Time has passed; several times a second."""

    def ends(self, session: SessionRecord) -> None:
        """The call is over, however it ended; its reason stands in `session`."""
