"""What a search went after, read off its ledger."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from ensemble_tune.errors import ConfigError, RunError
from ensemble_tune.storage import Location
from ensemble_tune.tune.record import Mode, Objective, TrialRecord
from ensemble_tune.tune.session import SessionRecord


def metric_of(scored: Sequence[TrialRecord], ledger: Location) -> str:
    """Which of its scores a search went after: the one that is every trial's `score`.

    scored: at least one trial, each with a score. ledger: where they are from, for the error. Raises RunError where
    none is.
    """
    names = [name for name in scored[0].scores if all(r.scores.get(name) == r.score for r in scored)]
    if not names:
        raise RunError(
            f"every {scored[0].stage} trial's score must be one of its scores, but in {ledger} none is; "
            "restore the ledger"
        )
    return names[0]


def join_objectives(objectives: Sequence[Objective]) -> str:
    """Several objectives as a session keeps them: "miou:max; milliseconds:min"."""
    return "; ".join(f"{objective.metric}:{objective.mode}" for objective in objectives)


def objectives_of(sessions: Sequence[SessionRecord], stage: str) -> list[Objective]:
    """What the last search of a stage went after; empty where it went after one score, or is of an older version."""
    told = [session.goal.get("objectives", "") for session in sessions if session.stage == stage]
    try:
        return [Objective.parse(each) for each in told[-1].split("; ")] if told and told[-1] else []
    except ConfigError:  # no search of ours has written it
        return []


def mode_of(scored: Sequence[TrialRecord], curves: Mapping[str, Sequence[float]]) -> Mode:
    """Whether high scores are good: then a trial is worth its highest. curves: the metric of each trial by epoch."""
    known = [(r.score, [score for score in curves[r.trial] if not math.isnan(score)]) for r in scored]
    lowest = all(score == min(curve, default=score) for score, curve in known)
    return "min" if lowest and not all(score == max(curve, default=score) for score, curve in known) else "max"
