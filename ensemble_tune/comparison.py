"""What each fusion gains over every simpler one, with intervals: from saved evidence alone; no torch, no Ray.

OUT/comparisons holds one file for each set of members, for export, results and report.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ensemble_tune.documents import Document, number_of
from ensemble_tune.ensemble.bootstrap import (
    Interval,
    difference,
    freedom_of,
    mean_of_numbers,
    resampled_ious,
    resamples_of,
)
from ensemble_tune.ensemble.evidence import Evidence
from ensemble_tune.errors import RunError
from ensemble_tune.storage import Location, read_json, write_text
from ensemble_tune.trial import Params
from ensemble_tune.tune.record import TrialRecord
from ensemble_tune.waits import tracked

COMPARISONS = "comparisons"
NO_GAIN = "no measurable gain"
"""What is said of a gain whose interval spans zero."""
_FORMAT = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """A fusion's scores on frames that it was not fitted to."""

    miou: float
    small_miou: float
    ece: float
    ious: Mapping[str, float]
    """By class; nan where the frames hold none."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Gain:
    """How much a fusion is better than a simpler one, on the cross-fitted frames."""

    over: str
    """The simpler one's name."""
    miou: Interval
    small_miou: Interval
    ious: Mapping[str, Interval] = field(default_factory=dict)
    """By class; empty in comparisons that were written before it was measured."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Fusion:
    """One fusion among those compared."""

    name: str
    """best single, mean, weighted, ..."""
    trial: str
    epochs: int
    """How long the trial was fitted."""
    crossfit: Measured
    """On every training frame by a fit on the other blocks, members out of fold."""
    val: Measured
    """On val, fitted on all training frames, members as deployed."""
    costs: Mapping[str, float]
    """milliseconds an image, millions of parameters, megabytes of memory."""
    gains: tuple[Gain, ...] = ()
    """Over every simpler fusion, the simplest first."""

    def over(self, name: str) -> Gain:
        """The gain over a simpler fusion. Raises KeyError."""
        return {each.over: each for each in self.gains}[name]


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """Fusions of the same members, the simplest first."""

    fusions: tuple[Fusion, ...]
    members: tuple[Mapping[str, float | str], ...]
    """Of each member: trial, miou, milliseconds, parameters, memory, train_seconds, weight in the greedy selection."""
    disagreement: float | None = None
    """Mean share of val's pixels to which two members give different classes."""
    left_out: tuple[str, ...] = ()
    """Kinds that were tried, but not compared: no time was left for their fits, or one failed."""

    @property
    def chosen(self) -> Fusion:
        """The simplest fusion than which no more complex one is measurably better: the interval of the gain is above 0.

        From the simplest on, each takes the place of the one that holds it, if it is measurably better in
        cross-fitting. One that is worse on val is passed over, by chance or not: it is fitted to fold models, which
        have seen fewer frames than those that are deployed, and what suits them need not suit these. Val chose members
        and meta-models, so it proves no gain. The last holder yields to the simplest other that it is not measurably
        better than.
        """
        holder, fit = self.fusions[0], [self.fusions[0]]
        for fusion in self.fusions[1:]:
            if not fusion.val.miou < holder.val.miou:
                fit.append(fusion)
                if fusion.over(holder.name).miou.above_zero:
                    holder = fusion
        return next(each for each in fit if each is holder or not holder.over(each.name).miou.above_zero)

    @property
    def highest(self) -> Fusion:
        """The one of the highest cross-fitted score, measurably better or not."""
        return max(self.fusions, key=lambda fusion: fusion.crossfit.miou)

    def save(self, out: Location, of: Params) -> None:
        """Writes it into a run folder; of: the parameters of a meta trial that fuses these members."""
        document = {"format": _FORMAT, **dataclasses.asdict(self), "chosen": self.chosen.name}
        write_text(_path(out, of), json.dumps(_without_nan(document), indent=1))

    @classmethod
    def load(cls, out: Location, of: Params) -> Comparison | None:
        """What `save` wrote for these members; None where there is none. Raises RunError where it is damaged."""
        path = _path(out, of)
        try:
            document = Document(read_json(path))
            if document.whole("format") != _FORMAT:
                raise RunError(f"{path} is of another version; remove it, and search the fusions again")
            disagreement = document.number("disagreement")
            return cls(
                fusions=_fusions(document),
                members=tuple(_member(each) for each in document.items("members")),
                disagreement=None if math.isnan(disagreement) else disagreement,
                left_out=document.texts("left_out") if "left_out" in document else (),
            )
        except FileNotFoundError:
            return None
        except ValueError as error:
            raise RunError(f"{path} is damaged; remove it, and search the fusions again") from error


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """A fusion to be compared, and where its evidence is from."""

    name: str
    trial: str
    epochs: int
    blocks: tuple[Evidence, ...]
    """Of each block by a fit on the others."""
    val: Evidence
    costs: Mapping[str, float]


def compare(
    candidates: Sequence[Candidate],
    members: Sequence[Mapping[str, float | str]] = (),
    disagreement: float | None = None,
    left_out: Sequence[str] = (),
    *,
    seed: int = 0,
) -> Comparison:
    """Compares fusions on all blocks together.

    candidates: the simplest first. Raises ValueError where their evidence is of different frames.
    """
    pooled = [each.blocks[0].join(*each.blocks[1:]) for each in candidates]
    first = pooled[0]
    weights = resamples_of(first, seed=seed)
    crossfit = [evidence.sorted_as(first.names) for evidence in pooled]
    freedom = freedom_of(first)
    ious = [resampled_ious(evidence, weights) for evidence in tracked(crossfit, "comparing fusions", len(crossfit))]
    small = [first.classes.index(name) for name in first.small]
    of_all, of_small = ([mean_of_numbers(own[:, columns]) for own in ious] for columns in (slice(None), small))
    fusions = [
        Fusion(
            name=each.name,
            trial=each.trial,
            epochs=each.epochs,
            crossfit=measured(crossfit[place]),
            val=measured(each.val),
            costs=dict(each.costs),
            gains=tuple(
                Gain(
                    over=candidates[simpler].name,
                    miou=difference(of_all[place], of_all[simpler], freedom=freedom),
                    small_miou=difference(of_small[place], of_small[simpler], freedom=freedom),
                    ious={
                        name: difference(ious[place][:, column], ious[simpler][:, column], freedom=freedom)
                        for column, name in enumerate(first.classes)
                    },
                )
                for simpler in range(place)
            ),
        )
        for place, each in enumerate(candidates)
    ]
    return Comparison(
        fusions=tuple(fusions), members=tuple(members), disagreement=disagreement, left_out=tuple(left_out)
    )


def current_comparison(out: Location, ranked: Sequence[TrialRecord]) -> Comparison | None:
    """A run's comparison; of several, for it has fused several sets of members, the one whose choice is best on val.

    None where the set of the best trial was not compared, or fitted on since. ranked: the meta trials that have ended,
    best first. Raises RunError where a file is damaged.
    """
    known = {record.trial: record.best_epoch for record in ranked}
    sets = {_path(out, record.params): record.params for record in ranked}
    found = [Comparison.load(out, params) for params in sets.values()]
    current = [
        None if each is None or any(known.get(own.trial) != own.epochs for own in each.fusions) else each
        for each in found
    ]
    if not current or current[0] is None:
        return None
    return max(filter(None, current), key=lambda comparison: comparison.chosen.val.miou)


def measured(evidence: Evidence) -> Measured:
    """The scores of all frames together."""
    ious = resampled_ious(evidence, np.ones((1, len(evidence.names))))[0]
    by_class = dict(zip(evidence.classes, ious.tolist(), strict=True))
    small = np.array([[by_class[name] for name in evidence.small]])
    return Measured(
        miou=float(mean_of_numbers(ious[None])[0]),
        small_miou=float(mean_of_numbers(small)[0]) if evidence.small else math.nan,
        ece=evidence.calibration_error,
        ious=by_class,
    )


def fusion_name(params: Params) -> str:
    """What a person calls the fusion of a meta trial."""
    kind = str(params["kind"])
    single = kind == "mean" and "+" not in str(params.get("bases", "all")) and params.get("bases", "all") != "all"
    return "best single" if single else kind


def _path(out: Location, of: Params) -> Location:
    """One file for a set of members, each trained for so many epochs, on so many folds."""
    key = [str(of.get(name, "")) for name in ("members", "member_epochs", "folds")]
    return out / COMPARISONS / f"{hashlib.sha256(json.dumps(key).encode()).hexdigest()[:16]}.json"


def _fusions(document: Document) -> tuple[Fusion, ...]:
    """At least one, each compared with all before it. Raises ValueError."""
    fusions = tuple(_fusion(Document(each)) for each in document.items("fusions"))
    names = [fusion.name for fusion in fusions]
    if not fusions or any([g.over for g in each.gains] != names[:place] for place, each in enumerate(fusions)):
        raise ValueError("each fusion must be compared with every simpler one")
    return fusions


def _fusion(document: Document) -> Fusion:
    return Fusion(
        name=document.text("name"),
        trial=document.text("trial"),
        epochs=document.whole("epochs"),
        crossfit=_measured(document.table("crossfit")),
        val=_measured(document.table("val")),
        costs=document.numbers("costs"),
        gains=tuple(
            Gain(
                over=each.text("over"),
                miou=_interval(each.table("miou")),
                small_miou=_interval(each.table("small_miou")),
                ious=_intervals(each.table("ious")) if "ious" in each else {},
            )
            for each in map(Document, document.items("gains"))
        ),
    )


def _member(document: object) -> dict[str, float | str]:
    if not isinstance(document, dict):
        raise ValueError("a member must be a table")
    return {name: each if isinstance(each, str) else number_of(each, name) for name, each in document.items()}


def _measured(document: Document) -> Measured:
    return Measured(
        miou=document.number("miou"),
        small_miou=document.number("small_miou"),
        ece=document.number("ece"),
        ious=document.numbers("ious"),
    )


def _interval(document: Document) -> Interval:
    return Interval(value=document.number("value"), low=document.number("low"), high=document.number("high"))


def _intervals(document: Document) -> dict[str, Interval]:
    return {name: _interval(document.table(name)) for name in document}


def _without_nan(value: Any) -> Any:
    """JSON knows no nan."""
    if isinstance(value, Mapping):
        return {name: _without_nan(each) for name, each in value.items()}
    if isinstance(value, list | tuple):
        return [_without_nan(each) for each in value]
    return None if isinstance(value, float) and math.isnan(value) else value
