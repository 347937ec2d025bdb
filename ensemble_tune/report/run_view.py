"""All that a report reads of a run, once."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cached_property

from ensemble_tune.comparison import Comparison, Fusion, current_comparison, measured
from ensemble_tune.ensemble.evidence import EVIDENCE, Evidence, evidence_name
from ensemble_tune.ensemble.manifest import META_TRIAL, EnsembleManifest
from ensemble_tune.errors import ConfigError, RunError
from ensemble_tune.final_folder import FINAL, FinalFolder
from ensemble_tune.fused import check_fusions
from ensemble_tune.results import TITLES, read_run
from ensemble_tune.storage import Location
from ensemble_tune.tune.aim import metric_of, mode_of
from ensemble_tune.tune.ledger import LEDGER, Ledger
from ensemble_tune.tune.record import EpochRecord, Mode, Status, TrialRecord, rank
from ensemble_tune.tune.session import SessionRecord

_ALIVE_SECONDS = 120.0
"""A driver that has not been heard of for so long is dead."""


@dataclass(frozen=True, kw_only=True)
class StageView:
    """One stage's trials."""

    name: str
    trials: tuple[TrialRecord, ...]
    rows: Mapping[str, tuple[EpochRecord, ...]]
    """Each trial's epochs."""
    metric: str | None
    """What the stage went after; None while no trial has a score."""
    mode: Mode

    @classmethod
    def of(
        cls, name: str, trials: Sequence[TrialRecord], rows: Mapping[str, Sequence[EpochRecord]], ledger: Location
    ) -> StageView:
        """trials: the stage's, in a ledger. rows: the epochs of these and others, by trial. Raises RunError."""
        own = {trial.trial: tuple(rows.get(trial.trial, ())) for trial in trials}
        scored = [trial for trial in trials if trial.score is not None]
        metric = metric_of(scored, ledger) if scored else None
        mode: Mode = "max"
        if metric is not None and name not in TITLES:
            curves = {trial: [row.scores.get(metric, math.nan) for row in each] for trial, each in own.items()}
            mode = mode_of(scored, curves)
        return cls(name=name, trials=tuple(trials), rows=own, metric=metric, mode=mode)

    @property
    def title(self) -> str:
        """What a person calls the stage."""
        return TITLES.get(self.name, self.name)

    @property
    def is_search(self) -> bool:
        """Whether its trials compete with each other."""
        return self.name in ("base", "meta") or self.name not in TITLES

    @property
    def ranked(self) -> list[TrialRecord]:
        """The trials with a score, the best first."""
        return rank(self.trials, self.mode)

    @property
    def varied(self) -> list[str]:
        """The parameters that not all trials share."""
        values: dict[str, set[str]] = defaultdict(set)
        for trial in self.trials:
            for name, value in trial.params.items():
                values[name].add(repr(value))
        names = {name for name, found in values.items() if len(found) > 1}
        lacking = {name for name in values if any(name not in trial.params for trial in self.trials)}
        return [name for name in values if name in names | lacking]


@dataclass(frozen=True, kw_only=True)
class RunView:
    """A run and its final training, as they were at one moment."""

    place: Location
    read: datetime
    stages: tuple[StageView, ...]
    """In the order in which a run takes them."""
    sessions: tuple[SessionRecord, ...]
    comparison: Comparison | None
    final: FinalFolder | None

    @classmethod
    def of(cls, run: Location, final: Location | None = None) -> RunView:
        """Reads a run folder, and the final training in it or in `final`.

        Raises RunError where no search is in `run`, ConfigError where no training has ended in a given `final`.
        """
        trials, places = read_run(run), [run]
        beside = final or run / FINAL
        trained = FinalFolder.read(beside)
        if final is not None and trained is None:
            raise ConfigError(f"--final is what `train` wrote to, but no training has ended in {final}; leave it out")
        if Ledger.exists(beside / LEDGER):
            places.append(beside)
            trials += Ledger(beside / LEDGER).trials()
        elif trained is None:
            trained = FinalFolder.read(run)  # the folder of a final training is a run of that one stage
        rows: dict[str, list[EpochRecord]] = defaultdict(list)
        for row in (row for place in places for row in Ledger(place / LEDGER).epochs()):
            rows[row.trial].append(row)
        by_stage: dict[str, list[TrialRecord]] = {name: [] for name in TITLES}
        for trial in trials:
            by_stage.setdefault(trial.stage, []).append(trial)
        fusions = rank([trial for trial in by_stage["meta"] if trial.status is not Status.RUNNING], "max")
        check_fusions(fusions, run / LEDGER / "trials")
        return cls(
            place=run,
            read=datetime.now(UTC),
            stages=tuple(
                StageView.of(name, own, rows, run / LEDGER / "trials") for name, own in by_stage.items() if own
            ),
            sessions=tuple(session for place in places for session in Ledger(place / LEDGER).sessions()),
            comparison=current_comparison(run, fusions),
            final=trained,
        )

    def stage(self, name: str) -> StageView | None:
        """The stage of that name, where it has a trial."""
        return next((stage for stage in self.stages if stage.name == name), None)

    @property
    def searches(self) -> list[StageView]:
        """The stages whose trials compete."""
        return [stage for stage in self.stages if stage.is_search]

    @property
    def standing(self) -> str:
        """running, interrupted or ended."""
        if not self.sessions:
            under_way = any(trial.status is Status.RUNNING for stage in self.stages for trial in stage.trials)
            return "interrupted" if under_way else "ended"
        last = max(self.sessions, key=lambda session: session.started)
        if last.ended is not None:
            return "interrupted" if last.reason == "interrupted" else "ended"
        return "running" if (self.read - last.updated).total_seconds() < _ALIVE_SECONDS else "interrupted"

    @property
    def best(self) -> TrialRecord | None:
        """The fusion that an export takes; None while none has ended."""
        meta = self.stage("meta")
        ended = [record for record in meta.ranked if record.status is not Status.RUNNING] if meta is not None else []
        if not ended or self.comparison is None:
            return ended[0] if ended else None
        return {record.trial: record for record in ended}[self.comparison.chosen.trial]

    @property
    def trained_another(self) -> str:
        """What the final training is of, where it is not of the best; else empty."""
        if self.final is None or self.best is None:
            return ""
        trained = self.final.manifest.origin.get(META_TRIAL, "another ensemble")
        return "" if trained == self.best.trial else trained

    @property
    def final_frames(self) -> str:
        """What the final training was measured on, for titles."""
        of = f", {self.trained_another}" if self.trained_another else ""
        return "" if self.final is None else f"on {self.final.split}{of}"

    @cached_property
    def manifest(self) -> EnsembleManifest | None:
        """The final training's, or what `run` exported. Raises ConfigError for a damaged file."""
        if self.final is not None:
            return self.final.manifest
        exported = self.place / "best.toml"
        return EnsembleManifest.load(exported) if exported.is_file() else None

    def crossfit(self, fusion: Fusion) -> Evidence | None:
        """What a compared fusion made of every training frame; None where that is not there any more."""
        meta = self.stage("meta")
        record = next((r for r in meta.trials if r.trial == fusion.trial), None) if meta is not None else None
        try:
            blocks = range(1, int(record.params.get("folds", 0)) + 1) if record is not None else range(0)
            parts = [Evidence.open(self.place / EVIDENCE / evidence_name(fusion.trial, block)) for block in blocks]
            whole = parts[0].join(*parts[1:])
        except (RunError, IndexError, ValueError, OverflowError):
            return None
        return whole if math.isclose(measured(whole).miou, fusion.crossfit.miou, abs_tol=1e-9) else None
