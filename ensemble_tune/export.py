"""`export`: from a run's ledger to the manifest of its best ensemble."""

from __future__ import annotations

import math
from collections.abc import Sequence

from ensemble_tune.choices import alone, choices
from ensemble_tune.comparison import Comparison, current_comparison
from ensemble_tune.ensemble.bootstrap import Interval
from ensemble_tune.ensemble.config import BaseConfig, MetaConfig
from ensemble_tune.ensemble.manifest import META_TRIAL, EnsembleManifest
from ensemble_tune.ensemble.score_names import MILLISECONDS
from ensemble_tune.errors import ConfigError, RunError, quoted
from ensemble_tune.fused import (
    COSTS,
    check_fusions,
    fused_members,
    fusion_params,
    member_epochs,
    member_scores,
    simple_scores,
)
from ensemble_tune.settings import METRIC
from ensemble_tune.storage import Location, location, make_folder, names_in, reason_of
from ensemble_tune.tune.ledger import LEDGER, Ledger
from ensemble_tune.tune.pareto import pick
from ensemble_tune.tune.record import Objective, Status, TrialRecord, rank
from ensemble_tune.tune.search import versions

OBJECTIVES = (Objective(METRIC), Objective(MILLISECONDS, "min"))
"""What a compromise is between, where nothing else is wished."""
EXPORTS = "exports"


def export_best(
    out: str | Location,
    to: str | Location,
    *,
    data: str | None = None,
    rule: str = "best",
    objectives: Sequence[Objective] = OBJECTIVES,
) -> EnsembleManifest:
    """Writes the best ensemble that a run found, and remembers it in the run folder, so that its weights are kept.

    data: where the data was, if the manifest shall say so. rule: best, knee of the objectives' front, bounds such as
    "milliseconds<20", or a trial's own name; all but best may be a base model alone. The best is the simplest fusion
    than which no other is measurably better (Comparison.chosen); where fusions were not compared, the one of the
    highest score on val, among equals the earlier, simpler one. Raises RunError where no fusion has ended, ConfigError
    for a rule that none meets.
    """
    out, to = location(out), location(to)
    if not Ledger.exists(out / LEDGER):
        raise RunError(f"no search is in {out}; run first: ensemble-tune run --data DATA --out {quoted(out)}")
    records = Ledger(out / LEDGER).trials()
    ended = [record for record in records if record.stage == "meta" and record.status is not Status.RUNNING]
    ranked = rank(ended, "max")
    if not ranked:
        raise RunError(
            f"no fusion has ended in {out}; run first: ensemble-tune search meta --data DATA --out {quoted(out)}"
        )
    if to.is_dir():
        raise ConfigError(f"--to is the file to write, but {to} is a folder; try {to / 'best.toml'}")
    make_folder(to.absolute().parent)
    check_fusions(ranked, out / LEDGER / "trials")
    comparison = current_comparison(out, ranked)
    ended_bases = [record for record in records if record.stage == "base" and record.status is not Status.RUNNING]
    bases = rank(ended_bases, "max")
    named = {**alone(ranked, bases), **{record.trial: record for record in ranked}}
    if rule == "best":
        best = ranked[0] if comparison is None else named[comparison.chosen.trial]
    else:
        best = named.get(rule) or pick(choices(ranked, bases), objectives, rule)
    try:
        manifest = _manifest(best, ranked, records, comparison, data)
        EnsembleManifest.from_document(manifest.to_document())  # nothing is written that nobody could read
    except (ConfigError, LookupError, TypeError, ValueError) as error:
        raise RunError(
            f"an export needs whole settings of {best.trial} and its members, but {out / LEDGER / 'trials'} has others "
            f"({reason_of(error)}); restore the ledger, or export with the version that searched"
        ) from error
    manifest.save(out / EXPORTS / f"{manifest.origin[META_TRIAL]}.toml")
    manifest.save(to)
    return manifest


def exported_trials(out: Location) -> frozenset[str]:
    """The trials that exports of a run name; their weights are never removed. Raises ConfigError for a damaged file."""
    names = [name for name in names_in(out / EXPORTS) if name.endswith(".toml")]
    manifests = [EnsembleManifest.load(out / EXPORTS / name) for name in names]
    named = {name for manifest in manifests for name in (*manifest.trials, manifest.origin.get(META_TRIAL, ""))}
    return frozenset(named - {""})


def _manifest(
    best: TrialRecord,
    ranked: list[TrialRecord],
    records: Sequence[TrialRecord],
    comparison: Comparison | None,
    data: str | None,
) -> EnsembleManifest:
    """A fusion with the members that it fuses; records: all of the run."""
    bases = {record.trial: record for record in records if record.stage == "base"}
    names = fused_members(best)
    epochs = member_epochs(best)
    members = [bases[name] for name in names]
    stops = [epochs.get(record.trial, record.best_epoch) for record in members]
    trained = {"stop_epoch": best.best_epoch} if best.params["kind"] != "mean" and best.best_epoch else {}
    return EnsembleManifest(
        bases=tuple(
            BaseConfig.from_params({**record.params, "seed": record.seed, "stop_epoch": stop})
            for record, stop in zip(members, stops, strict=True)
        ),
        fusion=MetaConfig.from_params({**fusion_params(best), **trained, "seed": best.seed}),
        deploy=best.params.get("deploy", "refit"),  # type: ignore[arg-type]
        stacking=best.params["stacking"],  # type: ignore[arg-type]
        folds=int(best.params["folds"]),
        split=best.provenance.get("split", "official"),  # type: ignore[arg-type]
        data=data,
        data_digest=best.provenance.get("data"),
        trials=tuple(names),
        scores={**_scores(best, ranked), **_crossfit_scores(best, comparison)},
        members=_all_members(members, [record for record in records if record.stage == "fold"], comparison),
        fusions=_all_fusions(comparison, best.trial),
        origin={**versions(), **best.provenance, META_TRIAL: best.trial},
    )


def _scores(best: TrialRecord, ranked: list[TrialRecord]) -> dict[str, float]:
    """The figures that chose the ensemble, on val."""
    of_its_members = [best, *ranked] if best in ranked else ranked
    compared = {"fusion": best, **simple_scores(of_its_members)}
    return {
        f"{name}_{score}": float(record.scores[score])
        for name, record in compared.items()
        for score in ("miou", "small_miou", *COSTS)
        if not math.isnan(record.scores.get(score, math.nan))
    }


def _crossfit_scores(best: TrialRecord, comparison: Comparison | None) -> dict[str, float]:
    """What cross-fitting says of a fusion: its score, and its gain over each simpler one with its 95% interval."""
    fusions = comparison.fusions if comparison is not None else ()
    chosen = next((fusion for fusion in fusions if fusion.trial == best.trial), None)
    if comparison is None or chosen is None:
        return {}
    scores = {"crossfit_miou": chosen.crossfit.miou, "crossfit_ece": chosen.crossfit.ece}
    for each in chosen.gains:
        scores |= _interval(f"gain_over_{_key(each.over)}", each.miou)
    return scores if comparison.disagreement is None else {**scores, "disagreement": comparison.disagreement}


def _all_fusions(comparison: Comparison | None, best: str) -> dict[str, dict[str, float]]:
    """What each fusion that was compared scores, costs and gains; that of the trial `best` by class too.

    Empty where `best` is of other members.
    """
    found: dict[str, dict[str, float]] = {}
    if comparison is None or best not in [fusion.trial for fusion in comparison.fusions]:
        return found
    for fusion in comparison.fusions:
        scores = {
            "crossfit_miou": fusion.crossfit.miou,
            "crossfit_small_miou": fusion.crossfit.small_miou,
            "crossfit_ece": fusion.crossfit.ece,
            "val_miou": fusion.val.miou,
            "val_small_miou": fusion.val.small_miou,
            **fusion.costs,
        }
        for each in fusion.gains:
            scores |= _interval(f"gain_over_{_key(each.over)}", each.miou)
            scores |= _interval(f"small_gain_over_{_key(each.over)}", each.small_miou)
            for of_class, gain in each.ious.items() if fusion.trial == best else ():
                scores |= _interval(f"iou.{of_class}_gain_over_{_key(each.over)}", gain)
        found[_key(fusion.name)] = {name: score for name, score in scores.items() if not math.isnan(score)}
    return found


def _all_members(
    members: Sequence[TrialRecord], folds: Sequence[TrialRecord], comparison: Comparison | None
) -> dict[str, dict[str, float]]:
    """What each member scores and costs, and weighs in the greedy selection."""
    told = {each["trial"]: each for each in comparison.members} if comparison is not None else {}
    weights = {name: float(own["weight"]) for name, own in told.items() if "weight" in own}
    return {
        record.trial: {
            **member_scores(record, folds),
            **({"weight": weights[record.trial]} if record.trial in weights else {}),
        }
        for record in members
    }


def _interval(name: str, interval: Interval) -> dict[str, float]:
    return {name: interval.value, f"{name}_low": interval.low, f"{name}_high": interval.high}


def _key(name: str) -> str:
    return name.replace(" ", "_")
