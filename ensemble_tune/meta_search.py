"""`search meta`: the members' out-of-fold predictions, then fusions trained on them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from ensemble_tune.ensemble.base_trial import FOLD, FOLDS, MEMBER, BaseTrial
from ensemble_tune.ensemble.config import BaseConfig, MetaConfig, format_size
from ensemble_tune.ensemble.manifest import Deploy, Stacking
from ensemble_tune.ensemble.meta_trial import BASES, DEPLOY, MEMBER_EPOCHS, MEMBERS, STACKING, MetaTrial, places
from ensemble_tune.ensemble.prediction_store import Part, PredictionStore
from ensemble_tune.ensemble.stage_data import StageData
from ensemble_tune.errors import ConfigError, RunError, suggest
from ensemble_tune.export import exported_trials
from ensemble_tune.points import Point, train_points
from ensemble_tune.settings import PREDICTIONS, Settings
from ensemble_tune.strategy import Strategy
from ensemble_tune.trained_before import trained_before
from ensemble_tune.trial import Value
from ensemble_tune.tune.ledger import LEDGER, Ledger
from ensemble_tune.tune.record import Status, TrialRecord, rank
from ensemble_tune.tune.search import SearchResult
from ensemble_tune.tune.search_space import SearchSpace

STAGE = "meta"
SAMPLER, SCHEDULER = "tpe", "none"
"""What a search does where nothing else is wished: fusions are small, and all are trained."""
_AUTO = 3


def search_meta(
    settings: Settings,
    *,
    space: str | Path = "meta",
    trials: int = 30,
    epochs: int = 30,
    bases: str = "auto",
    deploy: Deploy = "refit",
    stacking: Stacking = "out-of-fold",
    strategy: Strategy | None = None,
) -> SearchResult:
    """Searches fusions of base models; the plain mean and each member alone are tried beside them.

    bases: "auto" (of those trained to the end the best of each architecture, then the next best, 3 in all), a number
    (that many of the best), or names such as "base-0003,base-0007". Raises an EnsembleTuneError for whatever a user
    can mend.
    """
    if trials < 0 or epochs < 1:
        raise ConfigError(f"--trials must be at least 0 and --epochs at least 1, but got {trials} and {epochs}")
    strategy = strategy or Strategy()
    data = settings.stage_data()
    chosen = choose_members(settings.out, bases, data)
    members = {record.trial: member_config(record) for record in chosen}
    size = format_size(next(iter(members.values())).size)
    meta_space = checked_space(space, data, size=size, epochs=epochs, members=len(members))
    fixed: dict[str, Value] = {
        "size": size,
        "epochs": epochs,
        DEPLOY: deploy,
        STACKING: stacking,
        FOLDS: data.folds,
        MEMBERS: ",".join(members),
        # A paused trial may be trained further: what was fused then is another ensemble.
        MEMBER_EPOCHS: ",".join(str(record.best_epoch) for record in chosen),
    }
    everyone = "+".join(str(place) for place in range(1, len(members) + 1))
    simple = [everyone] + [str(place) for place in range(1, len(members) + 1) if len(members) > 1]
    search = strategy.search(
        settings,
        trial=MetaTrial(
            data=data,
            store=settings.out.absolute() / PREDICTIONS,
            library=members,
            costs={record.trial: record.scores for record in chosen},
        ),
        stage=STAGE,
        max_epochs=epochs,
        space=meta_space.fixed(**fixed),
        trials=trials,
        sampler=SAMPLER,
        scheduler=SCHEDULER,
        points=[{**fixed, "kind": "mean", BASES: subset} for subset in simple],
        provenance=data.provenance(),
        comparable=("size", "epochs", DEPLOY, STACKING, FOLDS),
        protected=exported_trials(settings.out),
        belongs=lambda record: all(record.params.get(name) == fixed[name] for name in (MEMBERS, MEMBER_EPOCHS)),
    )
    search.check()
    with settings.workers:
        predict_members(settings, data, members, deploy, stacking)
        return search.run()


def choose_members(out: Path, bases: str, data: StageData) -> list[TrialRecord]:
    """The base trials to fuse, best first. Raises RunError or ConfigError."""
    if not Ledger.exists(out / LEDGER):
        raise RunError(f"no search is in {out}; run first: ensemble-tune search base --data DATA --out {out}")
    ranked = rank([r for r in Ledger(out / LEDGER).trials("base") if r.status is not Status.RUNNING], "max")
    if not ranked:
        raise RunError(
            f"no base trial has ended in {out}; run first: ensemble-tune search base --data DATA --out {out}"
        )
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
    if bases == "auto":
        return rank(_varied(ranked)[:_AUTO], "max")
    if bases.isdecimal():
        if not 1 <= int(bases) <= len(ranked):
            raise ConfigError(f"--bases must be within 1 and the {len(ranked)} base trials that ended, but got {bases}")
        return ranked[: int(bases)]
    known = {record.trial: record for record in ranked}
    names = [name.strip() for name in bases.split(",")]
    for name in names:
        if name not in known:
            raise ConfigError(f"--bases names {name!r}, which is no base trial that ended; {suggest(name, known)}")
    return rank([known[name] for name in dict.fromkeys(names)], "max")


def _varied(ranked: Sequence[TrialRecord]) -> list[TrialRecord]:
    """Trials in the order in which they are worth fusing: one of each architecture first, since models that err
    differently fuse well; but those that were stopped early last, since a weak member pulls a mean down."""
    finished = [r for r in ranked if r.status is Status.FINISHED or r.epochs >= int(r.params["epochs"])]
    first = list({record.params["architecture"]: record for record in reversed(finished)}.values())
    order = [*rank(first, "max"), *finished, *ranked]
    return list({record.trial: record for record in order}.values())


def member_config(record: TrialRecord) -> BaseConfig:
    """A base trial's config, to be trained as far as its best epoch."""
    return BaseConfig.from_params({**record.params, "seed": record.seed, "stop_epoch": record.best_epoch})


def predict_members(
    settings: Settings, data: StageData, members: Mapping[str, BaseConfig], deploy: Deploy, stacking: Stacking
) -> None:
    """Trains what is needed to predict the training frames out of fold and val as deployed, side by side.

    Raises RunError where a training failed.
    """
    store = PredictionStore(settings.out.absolute() / PREDICTIONS, data)
    parts = predicted_parts(data, deploy, stacking)
    points: list[Point] = [
        {**config.to_params(), FOLD: fold, FOLDS: data.folds, MEMBER: name}
        for name, config in members.items()
        for fold in parts
    ]

    def predicted(point: Point, finished: bool) -> bool:
        fold = int(point[FOLD])
        return all(store.has(members[str(point[MEMBER])], fold, part) for part in parts[fold])

    found = {name: trained_before(settings.out, name, config) for name, config in members.items()}
    starts = {name: checkpoint for name, checkpoint in found.items() if checkpoint is not None}
    trial = BaseTrial(data=data, store=store.root, parts=parts, starts=starts)
    seen = data.provenance()
    train_points(settings, stage="fold", trial=trial, points=points, provenance=seen, done=predicted, keep=0)


def predicted_parts(data: StageData, deploy: Deploy, stacking: Stacking) -> dict[int, tuple[Part, ...]]:
    """Which frames the model of each fold predicts; 0 is the model that was trained on all training frames."""
    on_val: tuple[Part, ...] = () if data.with_val else ("val",)
    parts: dict[int, tuple[Part, ...]] = {}
    if stacking == "out-of-fold":
        parts |= dict.fromkeys(range(1, data.folds + 1), ("held-out",))
    else:
        parts[0] = ("train",)
    for fold in (0,) if deploy == "refit" else range(1, data.folds + 1):
        parts[fold] = parts.get(fold, ()) + on_val
    return {fold: wanted for fold, wanted in parts.items() if wanted}


def checked_space(source: str | Path, data: StageData, *, size: str, epochs: int, members: int) -> SearchSpace:
    """A space of fusions, all of which could be trained. Raises ConfigError.

    size, epochs: those of every trial. members: how many base models there are to fuse.
    """

    def accepts(values: Mapping[str, Value]) -> None:
        config = {name: value for name, value in values.items() if name != BASES}
        MetaConfig.from_params({"size": size, "epochs": epochs, **config})
        places(str(values.get(BASES, "all")), members)

    space = SearchSpace.load(source)
    names = [name for name in MetaConfig.field_names() if name not in ("seed", "stop_epoch", "size", "epochs")]
    space.check([*names, BASES], accepts)
    for values in space.combinations(["batch_size"]):
        data.check(MetaConfig.from_params({"size": size, **values}))
    return space


def members_to_be(bases: str, base_trials: int) -> int:
    """How many base models `choose_members` will find after so many base trials, if all goes well. Raises ConfigError.

    bases: as for `search_meta`.
    """
    if bases == "auto":
        return min(_AUTO, max(1, base_trials))
    if not bases.isdecimal():
        return len(set(bases.split(",")))
    if not 1 <= int(bases) <= base_trials:
        raise ConfigError(f"--bases must be within 1 and the {base_trials} base trials, but got {bases}")
    return int(bases)
