"""Compares the best fusions of a search, each fitted on all blocks of training frames but one and scored on that."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from typing import get_args

from ensemble_tune.comparison import Candidate, Comparison, compare, fusion_name
from ensemble_tune.ensemble.bootstrap import gain
from ensemble_tune.ensemble.config import MetaConfig, MetaKind
from ensemble_tune.ensemble.evidence import EVIDENCE, Evidence, evidence_name
from ensemble_tune.ensemble.meta_trial import BLOCK, OF, MetaTrial, evidence_identity, open_evidence
from ensemble_tune.ensemble.stage_data import StageData
from ensemble_tune.fused import COSTS, fusion_params, member_scores, model_passes
from ensemble_tune.library import Members, member_config
from ensemble_tune.points import Point, train_points
from ensemble_tune.settings import PREDICTIONS, Settings
from ensemble_tune.trained_before import trained_before
from ensemble_tune.tune.ledger import LEDGER, Ledger
from ensemble_tune.tune.record import TrialRecord, rank

STAGE = "compare"
_SIMPLICITY = ("best single", *get_args(MetaKind))
_WITHOUT_GRADIENT = ("mean", "greedy")


def compare_fusions(
    settings: Settings,
    data: StageData,
    members: Members,
    records: Sequence[TrialRecord],
    *,
    seconds: float = math.inf,
) -> Comparison | None:
    """Measures the best fusion of each kind on frames that it was not fitted to, and writes it into OUT/comparisons.

    records: the meta trials that fuse these members; of each kind the cheapest is taken than which no dearer one is
    measurably better on val. seconds: of fitting; kinds that would take longer are left out, those of a lower score on
    val first, and so are those of which a fit fails. None where no trial has a score.
    """
    variants = variants_of_each_kind(records)
    everyone = [record for own in variants for record in own]
    library = {record.trial: member_config(record) for record in members.records}
    evidence = settings.out.absolute() / EVIDENCE
    points = {record.trial: [_point(record, block) for block in range(data.folds + 1)] for record in everyone}

    def there(point: Point, finished: bool = True) -> bool:
        return Evidence.has(evidence / evidence_name(str(point[OF]), int(point[BLOCK])), evidence_identity(point))

    starts = {
        record.trial: start
        for record in everyone
        if (start := trained_before(settings.out, record.trial, _config(record))) is not None
    }
    trial = MetaTrial(
        data=data,
        store=settings.out.absolute() / PREDICTIONS,
        library=library,
        costs={record.trial: record.scores for record in members.records},
        starts=starts,
        evidence=evidence,
    )
    seen = data.provenance()

    def read(point: Point) -> Evidence:
        return open_evidence(evidence, point)

    # What needs no fit for it is set beside the best of its kind on val.
    known = [[record for record in own if record.trial in starts or _is_free(record)] for own in variants]
    on_val = [points[record.trial][0] for own in known if len(own) > 1 for record in own]
    train_points(settings, stage=STAGE, trial=trial, points=on_val, provenance=seen, done=there, keep=0, must=False)
    found_on_val = {str(point[OF]): read(point) for point in on_val if there(point)}
    best = [cheapest_of_its_kind(own, found_on_val, seed=settings.seed) for own in variants]

    done = {name for name, own in points.items() if all(there(point) for point in own)}
    finalists = affordable(best, data.folds, seconds, done)
    for record in best:
        if record not in finalists:
            name = fusion_name(record.params)
            settings.say(
                f"{record.trial} ({name}) is not compared: the hours left do not hold its fits on other blocks"
            )

    # Longest first: the fits of one block are the last to end, side by side with others.
    wanted = [point for record in finalists for point in points[record.trial]]
    wanted.sort(key=lambda point: -_effort(point))
    train_points(settings, stage=STAGE, trial=trial, points=wanted, provenance=seen, done=there, keep=0, must=False)
    for record in [record for record in finalists if not all(there(point) for point in points[record.trial])]:
        settings.say(f"{record.trial} ({fusion_name(record.params)}) is not compared: a fit on other blocks failed")
        finalists.remove(record)
    if not finalists:
        return None

    candidates = [
        Candidate(
            name=fusion_name(record.params),
            trial=record.trial,
            epochs=record.best_epoch or 0,
            blocks=tuple(read(point) for point in points[record.trial][1:]),
            val=read(points[record.trial][0]),
            costs={name: record.scores[name] for name in COSTS if name in record.scores},
        )
        for record in finalists
    ]
    names = [fusion_name(record.params) for record in finalists]
    left_out = [name for record in best if (name := fusion_name(record.params)) not in names]
    found = compare(candidates, _told(settings, members), members.disagreement, left_out, seed=settings.seed)
    found.save(settings.out, finalists[0].params)
    return found


def variants_of_each_kind(records: Sequence[TrialRecord]) -> list[list[TrialRecord]]:
    """Of each kind, the simplest first: the trials than which none that runs fewer models scores as much on val.

    Those of one kind come cheapest first, so that the last one is the best on val.
    """
    found: dict[str, list[TrialRecord]] = {}
    for record in rank(records, "max"):
        own = found.setdefault(fusion_name(record.params), [])
        if not own or model_passes(record) < model_passes(own[0]):
            own.insert(0, record)
    return [found[name] for name in _SIMPLICITY if name in found]


def cheapest_of_its_kind(
    variants: Sequence[TrialRecord], on_val: Mapping[str, Evidence], *, seed: int = 0
) -> TrialRecord:
    """The first one that is not measurably worse on val than any that runs more models.

    variants: the cheapest first, the last one the best on val. on_val: by trial, evidence; without its own a trial is
    passed over. More members, fold models and mirrored frames cost time on every image: chance must not choose them.
    """
    known = [record for record in variants if record.trial in on_val]
    for place, record in enumerate(known if variants[-1] in known else ()):
        dearer = [on_val[other.trial] for other in known[place + 1 :]]
        if not any(gain([other], [on_val[record.trial]], seed=seed).above_zero for other in dearer):
            return record
    return variants[-1]


def affordable(
    finalists: Sequence[TrialRecord], blocks: int, seconds: float, done: Collection[str] = ()
) -> list[TrialRecord]:
    """Those that can be fitted on all blocks but one, for each block, in so many seconds of one worker after another.

    Fusions without a gradient stay in any case, and so do the trials in `done`, which are fitted already.
    """
    kept = []
    for record in rank(finalists, "max"):
        free = _is_free(record) or record.trial in done
        # Each fit sees (blocks - 1) / blocks of the frames, for as many epochs as the best one took.
        cost = 0.0 if free else record.seconds * (record.best_epoch or 1) / max(1, record.epochs) * (blocks - 1)
        if free or cost <= seconds:
            seconds -= cost
            kept.append(record)
    return [record for record in finalists if record in kept]


def _config(record: TrialRecord) -> MetaConfig:
    """What a meta trial fitted, as far as its best epoch."""
    config = MetaConfig.from_params({**fusion_params(record), "seed": record.seed})
    if config.kind in _WITHOUT_GRADIENT or record.best_epoch is None:
        return config
    return MetaConfig.from_params({**config.to_params(), "stop_epoch": record.best_epoch})


def _point(record: TrialRecord, block: int) -> Point:
    """A fit of the same fusion on all blocks but one; block 0: on all, scored on val."""
    return {**record.params, **_config(record).to_params(), OF: record.trial, BLOCK: block}


def _is_free(record: TrialRecord) -> bool:
    return record.params["kind"] in _WITHOUT_GRADIENT


def _effort(point: Point) -> float:
    return 0.0 if point["kind"] in _WITHOUT_GRADIENT else float(point.get("stop_epoch", point["epochs"]))


def _told(settings: Settings, members: Members) -> list[Mapping[str, float | str]]:
    """What each member scores, costs and weighs in the greedy selection."""
    folds = Ledger(settings.out / LEDGER).trials("fold")
    weights = {name: {"weight": weight} for name, weight in members.weights.items()}
    return [
        {"trial": record.trial, **member_scores(record, folds), **weights.get(record.trial, {})}
        for record in members.records
    ]
