"""What another run's trials teach a search of this space."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

from ensemble_tune.errors import RunError
from ensemble_tune.storage import Location
from ensemble_tune.tune.given import MisfitError, fit
from ensemble_tune.tune.ledger import LEDGER, Ledger
from ensemble_tune.tune.record import EpochRecord, Objective, Status, TrialRecord, best_epoch
from ensemble_tune.tune.search_space import SearchSpace

_TEACH = (Status.FINISHED, Status.STOPPED, Status.FAILED, Status.OUT_OF_MEMORY)


@dataclass(frozen=True, slots=True, kw_only=True)
class WarmStart:
    """What a sampler is told of another run, and what it is not."""

    trials: tuple[tuple[TrialRecord, Mapping[int, float]], ...]
    """Records with parameters of this space, and numbers below 0, so that none is taken for a trial of this search;
    with each, its metric by epoch."""
    dropped: tuple[str, ...]
    """Parameters that this space does not have: the trials are learned from without."""
    differing: tuple[str, ...]
    """Parameters that are fixed here and had another value there: the trials are learned from all the same."""
    missing: Mapping[str, int]
    """Parameters of this space without a value there, with the number of trials that are of no use therefore."""
    outside: Mapping[str, int]
    """Parameters whose value there is outside this space, with the number of trials."""
    unscored: int
    """Trials that ended without a score of the metric."""

    @property
    def summary(self) -> str:
        """One line for the log."""
        parts = [f"learns from {len(self.trials)} trial{'' if len(self.trials) == 1 else 's'}"]
        parts += [f"without {', '.join(self.dropped)}"] if self.dropped else []
        parts += [f"in spite of another {', '.join(self.differing)}"] if self.differing else []
        return "; ".join(parts + _refused(self.missing, self.outside, self.unscored))


def read_warm_start(out: Location, space: SearchSpace, *, stage: str, objective: Objective) -> WarmStart:
    """Reads the run in folder `out`; the other run may have searched for another score than `objective`.

    Trials that run, wait or were lost teach nothing. Raises RunError where there is no ledger or no trial of use.
    """
    if not Ledger.exists(out / LEDGER):
        raise RunError(f"a warm start reads another run's ledger, but {out} has none; give the --out of a finished run")
    ledger = Ledger(out / LEDGER)
    rows: dict[str, list[EpochRecord]] = defaultdict(list)
    for row in ledger.epochs(stage):
        rows[row.trial].append(row)
    taught = [r for r in ledger.trials(stage) if r.status in _TEACH]
    learned: list[tuple[TrialRecord, Mapping[int, float]]] = []
    dropped: set[str] = set()
    differing: set[str] = set()
    missing: Counter[str] = Counter()
    outside: Counter[str] = Counter()
    unscored = 0
    for record in taught:
        dropped |= set(record.params) - set(space.names)
        differing |= {name for name, value in space.fixed_values().items() if record.params.get(name) != value}
        try:
            params = fit(record.params, space)
        except MisfitError as misfit:
            (missing if misfit.value is None else outside)[misfit.parameter.name] += 1
            continue
        if not record.status.is_infeasible and not any(objective.metric in row.scores for row in rows[record.trial]):
            unscored += 1
            continue
        projected = replace(record, params=params, number=-1 - len(learned))
        learned.append(_scored(projected, rows[record.trial], objective))
    if not learned:
        reasons = _refused(missing, outside, unscored) or [f"no {stage} trial has ended"]
        raise RunError(f"{out} has no trial that this search can learn from: {'; '.join(reasons)}; drop the warm start")
    return WarmStart(
        trials=tuple(learned),
        dropped=tuple(sorted(dropped)),
        differing=tuple(sorted(differing)),
        missing=dict(missing),
        outside=dict(outside),
        unscored=unscored,
    )


def _scored(
    record: TrialRecord, rows: Iterable[EpochRecord], objective: Objective
) -> tuple[TrialRecord, dict[int, float]]:
    """The record with its best epoch under this objective, and its curve."""
    known = {row.epoch: row for row in rows}
    curve = {epoch: row.scores.get(objective.metric, math.nan) for epoch, row in known.items()}
    best = best_epoch(known.values(), objective.metric, objective.mode)
    if best is None:
        return replace(record, best_epoch=None, score=None, scores={}), curve
    return replace(record, best_epoch=best, score=curve[best], scores=known[best].scores), curve


def _refused(missing: Mapping[str, int], outside: Mapping[str, int], unscored: int) -> list[str]:
    """Why trials are of no use, in words."""
    return [
        *(f"{count} without {name}" for name, count in missing.items()),
        *(f"{count} with {name} outside this space" for name, count in outside.items()),
        *([f"{unscored} without a score"] if unscored else []),
    ]
