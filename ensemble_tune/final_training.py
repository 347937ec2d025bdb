"""`train`: from a manifest and the data alone to a trained ensemble, through the same runner as a search."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, replace

from ensemble_tune.ensemble.base_model import check_base_model
from ensemble_tune.ensemble.base_trial import FOLD, FOLDS, MEMBER, WITH_VAL, BaseTrial
from ensemble_tune.ensemble.config import BaseConfig
from ensemble_tune.ensemble.ensemble_trial import EnsembleTrial
from ensemble_tune.ensemble.manifest import META_TRIAL, EnsembleManifest
from ensemble_tune.ensemble.meta_trial import BASES, DEPLOY, ENSEMBLE, MEMBERS, STACKING, MetaTrial
from ensemble_tune.ensemble.prediction_store import PredictionStore
from ensemble_tune.ensemble.stage_data import StageData
from ensemble_tune.ensemble.trained_ensemble import assemble, models_of
from ensemble_tune.errors import RunError
from ensemble_tune.export import EXPORTS
from ensemble_tune.final_folder import ENSEMBLE_FOLDER, METRICS, measured_ensemble
from ensemble_tune.library import models_before
from ensemble_tune.meta_search import predicted_parts
from ensemble_tune.points import Point, train_points
from ensemble_tune.settings import PREDICTIONS, Settings
from ensemble_tune.storage import Location, write_text
from ensemble_tune.tensorboard import logged
from ensemble_tune.trained_before import trained_before
from ensemble_tune.trial import StoredCheckpoint, Value
from ensemble_tune.tune.ledger import LEDGER, Ledger
from ensemble_tune.tune.record import Status, TrialRecord
from ensemble_tune.tune.trial_folder import CHECKPOINTS, TrialFolder

_STAGE = "final"


@dataclass(frozen=True, kw_only=True)
class FinalResult:
    """What a final training gave."""

    folder: Location
    """The trained ensemble's folder, for `segment`."""
    split: str | None
    """What was measured: test, or val where there is no test; None where nothing was left to measure on."""
    scores: dict[str, float]
    """On that split: miou and the others; mean.miou, member-1.miou, ... beside them."""


def train(
    manifest: EnsembleManifest, settings: Settings, *, with_val: bool = False, run: Location | None = None
) -> FinalResult:
    """Trains every member and the fusion as the manifest says, then measures the ensemble on test, once.

    with_val: whether val is trained on too. run: the run folder that the manifest was exported from; what was predicted
    there on the same frames, or trained there and kept, is not done again. Folds and split are the manifest's, not the
    settings'. Members, folds and fusion are trials in settings.out's ledger, so an interrupted training goes on. Raises
    an EnsembleTuneError for whatever a user can mend.
    """
    settings = replace(settings, folds=manifest.folds, split=manifest.split)
    data = settings.stage_data(with_val=with_val)
    spec = data.dataset().spec
    for base in manifest.bases:
        check_base_model(base, spec.images)
        data.check(base)
    if manifest.fusion.trained:
        data.check(manifest.fusion)
    if manifest.classes and manifest.classes != spec.classes:
        raise RunError(
            f"the manifest's classes are {', '.join(manifest.classes)}, but the data has {', '.join(spec.classes)}; "
            "give the data that the manifest was exported from"
        )
    manifest = replace(manifest, classes=spec.classes, images=spec.images, tiles=spec.tiles)
    if with_val or manifest.data_digest != data.dataset().digest:
        run = None  # that run saw other frames
    store = _store(manifest, settings, data, run)
    trained = {ENSEMBLE: manifest.digest(), WITH_VAL: with_val}
    with settings.workers, logged(settings):
        members = _train_members(manifest, settings, data, store, run)
        fusion = _train_fusion(manifest, settings, data, store, run) if manifest.fusion.trained else None
        weights = [[_weights(settings.out, trial) for trial in trials] for trials in members]
        folder, metrics = settings.out / ENSEMBLE_FOLDER, settings.out / METRICS
        again = measured_ensemble(settings.out) == trained
        if not again:  # what stands there is of another one: its scores and masks would pass for this one's
            metrics.unlink(missing_ok=True)
        assemble(folder, manifest, weights, None if fusion is None else _weights(settings.out, fusion))
        split = measured_split(data)
        scores = _measure(manifest, settings, data, split, again=again) if split else {}
    known = {name: score for name, score in scores.items() if not math.isnan(score)}
    write_text(metrics, json.dumps({"split": split, "scores": known, "trained": trained}, indent=1))
    return FinalResult(folder=folder, split=split, scores=scores)


def _store(manifest: EnsembleManifest, settings: Settings, data: StageData, run: Location | None) -> PredictionStore:
    """Where the members' predictions are: the run's, if it has all of them. Nothing is written into another's run."""
    if run is not None and manifest.fusion.trained:
        theirs = PredictionStore(run.absolute() / PREDICTIONS, data)
        parts = predicted_parts(data, (manifest.deploy,), manifest.stacking)
        wanted = [(base, fold, part) for base in manifest.bases for fold, own in parts.items() for part in own]
        if all(theirs.has(base, fold, part, flip=manifest.fusion.flip) for base, fold, part in wanted):
            return theirs
    return PredictionStore(settings.out.absolute() / PREDICTIONS, data)


def measured_split(data: StageData) -> str | None:
    """What is left to measure on: test, or val where there is no test; None where val was trained on."""
    if data.dataset().has_test:
        return "test"
    return None if data.with_val else "val"


def _train_members(
    manifest: EnsembleManifest, settings: Settings, data: StageData, store: PredictionStore, run: Location | None
) -> list[list[TrialRecord]]:
    """For each member the trials whose models are deployed; trains the others that the fusion learns from too."""
    learns = manifest.fusion.trained and not _has_fusion(manifest, settings, data)
    parts = predicted_parts(data, (manifest.deploy,), manifest.stacking) if learns else {}
    named = dict(zip(manifest.trials, manifest.bases, strict=False))
    places = {name: str(place) for place, name in enumerate(manifest.trials, start=1)}
    before = models_before(run, named, data.folds) if run is not None else {}
    starts = {(places[name], fold): checkpoint for (name, fold), checkpoint in before.items()}
    flip = manifest.fusion.flip
    trial = BaseTrial(data=data, store=store.root if learns else None, parts=parts, flips=(flip,), starts=starts)
    deployed = models_of(manifest)
    others = [fold for fold in parts if fold not in deployed]
    points: list[Point] = [
        {**base.to_params(), FOLD: fold, FOLDS: data.folds, MEMBER: str(place), WITH_VAL: data.with_val}
        for folds in (deployed, others)
        for place, base in enumerate(manifest.bases, start=1)
        for fold in folds
    ]

    def done(point: Point, finished: bool) -> bool:
        fold, base = int(point[FOLD]), manifest.bases[int(point[MEMBER]) - 1]
        predicted = all(store.has(base, fold, part, flip=flip) for part in parts.get(fold, ()))
        return predicted and (finished or fold in others)

    seen = data.provenance()
    prepare = settings.decoded(data, manifest.fusion.size)
    trials = train_points(
        settings, stage=_STAGE, trial=trial, points=points, provenance=seen, done=done, prepare=prepare
    )
    return [trials[place * len(deployed) :][: len(deployed)] for place in range(len(manifest.bases))]


def _train_fusion(
    manifest: EnsembleManifest, settings: Settings, data: StageData, store: PredictionStore, run: Location | None
) -> TrialRecord:
    """The trial whose weights are the fusion's."""
    library = _library(manifest)
    point = _fusion_point(manifest, data)
    before = _fusion_before(run, manifest) if run is not None else None
    trial = MetaTrial(data=data, store=store.root, library=library, starts={} if before is None else {"": before})
    return train_points(settings, stage=_STAGE, trial=trial, points=[point], provenance=data.provenance())[0]


def _library(manifest: EnsembleManifest) -> dict[str, BaseConfig]:
    return {str(place): base for place, base in enumerate(manifest.bases, start=1)}


def _fusion_point(manifest: EnsembleManifest, data: StageData) -> Point:
    return {
        **manifest.fusion.to_params(),
        MEMBERS: ",".join(_library(manifest)),
        BASES: "all",
        DEPLOY: manifest.deploy,
        STACKING: manifest.stacking,
        FOLDS: data.folds,
        ENSEMBLE: manifest.digest(),
        WITH_VAL: data.with_val,
    }


def _has_fusion(manifest: EnsembleManifest, settings: Settings, data: StageData) -> bool:
    """Whether the fusion has been trained; then nobody needs the predictions that it learned from any more."""
    point = _fusion_point(manifest, data)
    trials = Ledger(settings.out / LEDGER).trials(_STAGE)
    return any(record.status is Status.FINISHED and record.is_of(point) for record in trials)


def _measure(
    manifest: EnsembleManifest, settings: Settings, data: StageData, split: str, *, again: bool
) -> dict[str, float]:
    """The ensemble's scores on a split.

    again: whether it is the one whose masks and evidence are there; then what the ledger remembers will do.
    """
    trial = EnsembleTrial(
        data=data,
        ensemble=settings.out.absolute() / ENSEMBLE_FOLDER,
        pictures=settings.out.absolute(),
        split=split,
    )
    point: dict[str, Value] = {"split": split, ENSEMBLE: manifest.digest(), WITH_VAL: data.with_val}
    records = train_points(
        settings,
        stage=_STAGE,
        trial=trial,
        points=[point],
        provenance=data.provenance(),
        done=lambda point, finished: finished and again,
    )
    return dict(records[0].scores)


def _fusion_before(run: Location, manifest: EnsembleManifest) -> StoredCheckpoint | None:
    """The fusion that a run trained, where that was of these very members, in this very way."""
    trial = manifest.origin.get(META_TRIAL, "")
    exported = run / EXPORTS / f"{trial}.toml"
    if not exported.is_file() or EnsembleManifest.load(exported).digest() != manifest.digest():
        return None
    return trained_before(run, trial, manifest.fusion)


def _weights(out: Location, record: TrialRecord) -> Location:
    """The folder that holds a trial's last weights. Raises RunError where they were removed."""
    checkpoint = TrialFolder(out / CHECKPOINTS / record.trial).at(record.best_epoch or 0)
    if checkpoint is None:
        raise RunError(f"the weights of {record.trial} are gone from {out / CHECKPOINTS}; train into a new --out")
    return checkpoint.folder
