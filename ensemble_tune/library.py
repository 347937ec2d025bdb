"""The library: the base trials worth fusing, what they predict on val, and the members chosen among them."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from ensemble_tune.ensemble.base_trial import FOLD, FOLDS, MEMBER, BaseTrial
from ensemble_tune.ensemble.config import BaseConfig
from ensemble_tune.ensemble.pieces import piece_counts
from ensemble_tune.ensemble.prediction_store import Part, PredictionStore
from ensemble_tune.ensemble.selection import ONE_BAG, PixelSample, greedy_weights
from ensemble_tune.ensemble.stage_data import StageData
from ensemble_tune.errors import ConfigError, RunError, quoted, suggest
from ensemble_tune.points import Point, train_points
from ensemble_tune.settings import PREDICTIONS, Settings
from ensemble_tune.storage import Location
from ensemble_tune.trained_before import trained_before
from ensemble_tune.trial import StoredCheckpoint
from ensemble_tune.tune.ledger import LEDGER, Ledger
from ensemble_tune.tune.record import Status, TrialRecord, rank

_STAGE = "fold"
AUTO = 3
"""Members of an ensemble where nothing else is wished, at most."""
_FEWEST = 2
"""Members in any case, where there are so many: a selection on val may take one by luck; cross-fitting tells."""
_GIB = 2**30


@dataclass(frozen=True, slots=True, kw_only=True)
class Members:
    """The base trials to fuse, best first, and how they were chosen."""

    records: tuple[TrialRecord, ...]
    weights: Mapping[str, float]
    """By trial: its share in the greedy selection on val; empty where the members were named."""
    disagreement: float | None
    """Mean share of val's labelled pixels to which two of them give different classes; None of a single one."""


def member_config(record: TrialRecord) -> BaseConfig:
    """A base trial's config, to be trained as far as its best epoch."""
    return BaseConfig.from_params({**record.params, "seed": record.seed, "stop_epoch": record.best_epoch})


def ended_base_trials(out: Location, data: StageData) -> list[TrialRecord]:
    """The base trials of a run that have ended, best first. Raises RunError where there is none, or of other data."""
    advice = f"run first: ensemble-tune search base --data DATA --out {quoted(out)}"
    if not Ledger.exists(out / LEDGER):
        raise RunError(f"no search is in {out}; {advice}")
    ranked = rank([r for r in Ledger(out / LEDGER).trials("base") if r.status is not Status.RUNNING], "max")
    if not ranked:
        raise RunError(f"no base trial has ended in {out}; {advice}")
    split = ranked[0].provenance.get("split", "official")
    if split != data.split:
        raise RunError(
            f"both stages need the same split, but the base trials in {out} had {split} and --split is {data.split}; "
            f"add --split {split}"
        )
    digest = ranked[0].provenance.get("data")
    if digest != data.dataset().digest:
        raise RunError(
            f"both stages need the same data, but the base trials in {out} saw {digest} and --data is "
            f"{data.dataset().digest}; give the data that the base search had"
        )
    return ranked


def keep_library(settings: Settings, data: StageData, ranked: Sequence[TrialRecord], size: int) -> list[TrialRecord]:
    """The best trials whose weights are there, `size` at most, with what they predict on val; predicts what is missing.

    Fewer where their predictions would not fit `settings.library_limit`. Raises RunError where predicting failed.
    """
    out = settings.out
    bytes_each = _predicted_bytes(data, member_config(ranked[0]))
    fitting = min(size, int(settings.library_limit * _GIB / bytes_each))
    kept = [record for record in ranked if trained_before(out, record.trial, member_config(record)) is not None]
    if fitting < min(size, len(kept)):
        settings.say(
            f"the library keeps {fitting} base models, not {min(size, len(kept))}: predictions of each take "
            f"{bytes_each / _GIB:.2g} of --library-limit {settings.library_limit:g} GiB"
        )
    library = kept[:fitting]
    predict(settings, data, {record.trial: member_config(record) for record in library}, {0: ("val",)})
    return library


def count_members(bases: str, ranked: Sequence[TrialRecord]) -> int:
    """How many members `bases` asks for, of the trials that have ended. Raises ConfigError where they are not there."""
    if bases == "auto":
        return min(AUTO, len(ranked))
    if bases.isdecimal():
        if not 1 <= int(bases) <= len(ranked):
            raise ConfigError(f"--bases must be within 1 and the {len(ranked)} base trials that ended, but got {bases}")
        return int(bases)
    known = [record.trial for record in ranked]
    names = [name.strip() for name in bases.split(",")]
    for name in names:
        if name not in known:
            raise ConfigError(f"--bases names {name!r}, which is no base trial that ended; {suggest(name, known)}")
    return len(set(names))


def choose_members(
    settings: Settings, data: StageData, ranked: Sequence[TrialRecord], bases: str, library_size: int
) -> Members:
    """The base trials to fuse. Raises ConfigError where they are not there, RunError where predicting failed.

    ranked: the base trials that have ended, best first. bases: "auto" (3 at most), a number, or names such as
    "base-0003,base-0007". A number are the best one, which every fusion is measured against, and those that weigh most
    in a greedy selection from the library on val, so that models that err alike do not join together; where the library
    has fewer, the best by score join. "auto" leaves out those beyond two that the selection gives next to no weight:
    each would cost its fold trainings for nothing.
    """
    count = count_members(bases, ranked)
    if bases != "auto" and not bases.isdecimal():
        names = [name.strip() for name in bases.split(",")]
        named = tuple(record for record in ranked if record.trial in names)
        return Members(records=named, weights={}, disagreement=None)
    library = keep_library(settings, data, ranked, library_size)
    if not library:
        return Members(records=tuple(ranked[:count]), weights={}, disagreement=None)
    sample = _sample(settings, data, library)
    weights = dict(zip([r.trial for r in library], greedy_weights(sample, seed=settings.seed).tolist(), strict=True))
    by_weight = sorted(library, key=lambda record: -weights[record.trial])  # stable: among equals the better score
    wanted = list({record.trial: record for record in [ranked[0], *by_weight, *ranked]}.values())[:count]
    if bases == "auto":
        idle = [record.trial for record in wanted[_FEWEST:] if weights.get(record.trial, 1.0) <= ONE_BAG]
        wanted = [record for record in wanted if record.trial not in idle]
        if idle:
            settings.say(f"{len(wanted)} members, not {count}: a greedy selection on val gives the others no weight")
    places = [place for place, record in enumerate(library) if record in wanted]
    return Members(
        records=tuple(rank(wanted, "max")),
        weights={name: weight for name, weight in weights.items() if weight > 0},
        disagreement=_mean_disagreement(sample, places),
    )


def predict(
    settings: Settings,
    data: StageData,
    members: Mapping[str, BaseConfig],
    parts: Mapping[int, tuple[Part, ...]],
    flips: tuple[bool, ...] = (False,),
) -> None:
    """Makes the models of each fold in `parts` predict those frames, side by side; trains those that are not there.

    flips: with frames as they are, mirrored too, or both. Raises RunError where a training failed.
    """
    store = PredictionStore(settings.out.absolute() / PREDICTIONS, data)
    points: list[Point] = [_point(name, config, fold, data.folds) for name, config in members.items() for fold in parts]

    def predicted(point: Point, finished: bool) -> bool:
        fold, config = int(point[FOLD]), members[str(point[MEMBER])]
        return all(store.has(config, fold, part, flip=flip) for part in parts[fold] for flip in flips)

    starts = models_before(settings.out, members, data.folds)
    trial = BaseTrial(data=data, store=store.root, parts=parts, flips=flips, starts=starts)
    train_points(
        settings,
        stage=_STAGE,
        trial=trial,
        points=points,
        provenance=data.provenance(),
        done=predicted,
        # Fold models that may be deployed need their weights once more.
        keep=sys.maxsize if any(fold and "val" in own for fold, own in parts.items()) else 0,
        prepare=settings.decoded(data, next(iter(members.values())).size) if members else lambda: None,
    )


def models_before(
    out: Location, members: Mapping[str, BaseConfig], folds: int
) -> dict[tuple[str, int], StoredCheckpoint]:
    """By member and fold, the models that the run folder `out` has trained and kept; fold 0 is the base trial's."""
    trials = [record for record in Ledger(out / LEDGER).trials(_STAGE) if record.status is Status.FINISHED]
    found = {}
    for name, config in members.items():
        for fold in range(folds + 1):
            point = _point(name, config, fold, folds)
            kept = [name] if fold == 0 else [record.trial for record in trials if record.is_of(point)]
            for trial in kept:
                checkpoint = trained_before(out, trial, config)
                if checkpoint is not None:
                    found[name, fold] = checkpoint
    return found


def _point(member: str, config: BaseConfig, fold: int, folds: int) -> Point:
    """The model of a member that is trained without a fold; 0: on all training frames."""
    return {**config.to_params(), FOLD: fold, FOLDS: folds, MEMBER: member}


def _predicted_bytes(data: StageData, config: BaseConfig) -> int:
    """What a model's predictions of val take."""
    dataset = data.dataset()
    frames = sum(piece_counts(dataset, dataset.splits["val"]))
    return frames * len(dataset.spec.classes) * config.size[0] * config.size[1]


def _sample(settings: Settings, data: StageData, library: Sequence[TrialRecord]) -> PixelSample:
    """Pixels of val with what the library makes of them."""
    configs = [member_config(record) for record in library]
    held_out = data.held_out(configs[0].size)
    assert held_out is not None  # a search never trains on val
    store = PredictionStore(settings.out.absolute() / PREDICTIONS, data)
    return PixelSample.draw(held_out, [store.open(config, 0, "val") for config in configs], settings.seed)


def _mean_disagreement(sample: PixelSample, places: Sequence[int]) -> float | None:
    """The mean over pairs of models."""
    if len(places) < 2:
        return None
    between = sample.disagreement()[list(places)][:, list(places)]
    return float(between.sum() / (len(places) * (len(places) - 1)))
