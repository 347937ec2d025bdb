"""`search meta`: the members' out-of-fold predictions, then fusions fitted to them."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import get_args

from ensemble_tune.cross_fitting import compare_fusions
from ensemble_tune.ensemble.config import MetaConfig, format_size
from ensemble_tune.ensemble.manifest import Deploy, Stacking
from ensemble_tune.ensemble.meta_trial import BASES, DEPLOY, FOLDS, MEMBER_EPOCHS, MEMBERS, STACKING, MetaTrial, places
from ensemble_tune.ensemble.prediction_store import Part
from ensemble_tune.ensemble.stage_data import StageData
from ensemble_tune.errors import ConfigError, suggest
from ensemble_tune.export import exported_trials
from ensemble_tune.library import (
    AUTO,
    Members,
    choose_members,
    count_members,
    ended_base_trials,
    member_config,
    predict,
)
from ensemble_tune.settings import PREDICTIONS, Settings
from ensemble_tune.strategy import Strategy
from ensemble_tune.tensorboard import logged
from ensemble_tune.timetable import Timetable, used_by_stage
from ensemble_tune.trial import Params, Value
from ensemble_tune.tune.budget import Budget
from ensemble_tune.tune.ledger import LEDGER, Ledger
from ensemble_tune.tune.record import TrialRecord
from ensemble_tune.tune.search import SearchResult
from ensemble_tune.tune.search_space import SearchSpace

STAGE = "meta"
_FLIP = "flip"
_PLACES = re.compile(r"[1-9]\d*(\+[1-9]\d*)*")
_FITTED = ("weighted", "greedy", "linear")
"""Fusions that are simpler than a meta-model, and fitted."""
_SIMPLE_TRAINING: Params = {"learning_rate": 0.02, "weight_decay": 0.0}
"""Few weights, all of which start where the mean is, need large steps and no decay."""


def search_meta(
    settings: Settings,
    *,
    space: str | Path = "meta",
    trials: int = 30,
    epochs: int = 30,
    bases: str = "auto",
    deploy: Deploy | None = None,
    stacking: Stacking = "out-of-fold",
    strategy: Strategy | None = None,
    timetable: Timetable | None = None,
) -> SearchResult:
    """Searches fusions of base models; the simple fusions and each member alone are tried beside them.

    bases: "auto" (3), a number (that many: those that a greedy selection on val chooses), or names such as
    "base-0003,base-0007". deploy: what stands for a member; None is what the space says, or refit. timetable: what
    may be spent; None is without limit. Raises an EnsembleTuneError for whatever a user can mend.
    """
    if trials < 0 or epochs < 1:
        raise ConfigError(f"--trials must be at least 0 and --epochs at least 1, but got {trials} and {epochs}")
    strategy, timetable = strategy or Strategy(), timetable or Timetable(None)
    data = settings.stage_data()
    with settings.workers, logged(settings):
        ranked = ended_base_trials(settings.out, data)
        size = format_size(member_config(ranked[0]).size)
        members_there = count_members(bases, ranked)
        meta_space = checked_space(space, data, size=size, epochs=epochs, members=members_there)
        chosen, fit = _choose(settings, data, ranked, bases, strategy.keep, timetable)
        # Hours may hold fewer members than there are.
        meta_space = _with_members_there(meta_space, len(chosen.records))
        comparable = ("size", "epochs", STACKING, FOLDS, *([DEPLOY] if deploy is not None and fit else []))
        if not fit:
            trials, deploy = 0, "refit"
        members = {record.trial: member_config(record) for record in chosen.records}
        fixed: dict[str, Value] = {
            "size": size,
            "epochs": epochs,
            STACKING: stacking,
            FOLDS: data.folds,
            MEMBERS: ",".join(members),
            # A paused trial may be trained further: what was fused then is another ensemble.
            MEMBER_EPOCHS: ",".join(str(record.best_epoch) for record in chosen.records),
        }
        if deploy is not None or DEPLOY not in meta_space.names:
            fixed[DEPLOY] = deploy or "refit"
        meta_space = meta_space.fixed(**fixed)
        search = strategy.search(
            settings,
            trial=MetaTrial(
                data=data,
                store=settings.out.absolute() / PREDICTIONS,
                library=members,
                costs={record.trial: record.scores for record in chosen.records},
            ),
            stage=STAGE,
            max_epochs=epochs,
            space=meta_space,
            trials=trials,
            points=simple_fusions(meta_space, fixed, len(members), fit=fit),
            start=MetaConfig().to_params(),
            provenance=data.provenance(),
            comparable=comparable,
            protected=exported_trials(settings.out),
            belongs=lambda record: all(record.params.get(name) == fixed[name] for name in (MEMBERS, MEMBER_EPOCHS)),
        )
        search.check()
        _tell(settings, chosen)
        parts = predicted_parts(data, _values(meta_space, DEPLOY, "refit"), stacking if fit else None)
        predict(settings, data, members, parts, flips(meta_space))
        if timetable.hours is not None:
            # What is simple is tried in any case: there is an answer, however short the time.
            given = search.points
            simple = replace(search, trials=0, budget=Budget(), belongs=lambda r: any(map(r.is_of, given)))
            result = simple.run()
        if timetable.left:
            if timetable.hours is not None:
                hours = timetable.meta(used_by_stage(settings.out)[STAGE])
                search = replace(search, budget=replace(search.budget, hours=hours))
            result = search.run()
        if fit and stacking == "out-of-fold":
            own = [record for record in Ledger(settings.out / LEDGER).trials(STAGE) if search.belongs(record)]
            seconds = 3600 * timetable.compare * min(slots(settings), data.folds)
            compare_fusions(settings, data, chosen, own, seconds=seconds)
        return result


def _choose(
    settings: Settings, data: StageData, ranked: Sequence[TrialRecord], bases: str, keep: int, timetable: Timetable
) -> tuple[Members, bool]:
    """The members, and whether the hours left hold the fold trainings that a fit to them needs."""
    wanted = count_members(bases, ranked)
    affordable = timetable.members(ranked, wanted, data.folds, slots(settings))
    fit = timetable.holds_fits(ranked, wanted, data.folds, slots(settings))
    if not fit:
        settings.say(
            "no fusion is fitted: the hours left hold no fold trainings; means and single models are ranked on val, "
            "one model a member"
        )
    elif affordable < wanted:
        settings.say(f"{affordable} members, not {wanted}: the hours left do not hold the fold trainings of more")
        named = bases != "auto" and not bases.isdecimal()
        names = [record.trial for record in ranked if record.trial in re.split(r"\s*,\s*", bases.strip())]
        bases = ",".join(names[:affordable]) if named else str(affordable)
    return choose_members(settings, data, ranked, bases, keep), fit


def slots(settings: Settings) -> int:
    """How many trials the run has trained side by side; 1 where nothing is known."""
    return max((session.slots for session in Ledger(settings.out / LEDGER).sessions()), default=1)


def simple_fusions(space: SearchSpace, fixed: Params, members: int, *, fit: bool = True) -> list[dict[str, Value]]:
    """What is tried beside a space's points: the mean, each alone, means of the best few, and (fit) simple fits.

    Each as often as the space has ways to mirror frames, and the means as often as it has ways to deploy members: a fit
    is the same for all of these.
    """
    best = ["+".join(str(place) for place in range(1, size + 1)) for size in range(1, members + 1)]
    everyone, fewer = best[-1], best[1:-1]
    alone = [str(place) for place in range(1, members + 1) if members > 1]
    ways = _values(space, DEPLOY, "refit")
    fusions: list[dict[str, Value]] = [
        {"kind": "mean", BASES: subset, DEPLOY: way} for way in ways for subset in (everyone, *alone, *fewer)
    ]
    if members > 1 and fit:
        own: Params = {"batch_size": min(int(size) for size in _values(space, "batch_size", 8)), **_SIMPLE_TRAINING}
        fusions += [{"kind": kind, BASES: everyone, DEPLOY: ways[0], **own} for kind in _FITTED]
    return [{**fixed, **fusion, **({_FLIP: True} if flip else {})} for flip in flips(space) for fusion in fusions]


def flips(space: SearchSpace) -> tuple[bool, ...]:
    """Whether members' predictions are needed of frames as they are, of mirrored ones too, or both."""
    return tuple(sorted({bool(value) for value in _values(space, _FLIP, False)}))


def _with_members_there(space: SearchSpace, members: int) -> SearchSpace:
    """The space without those choices of `bases` that name members beyond the last one, where others are left."""

    def there(choice: Value) -> bool:
        try:
            places(str(choice), members)
        except ConfigError:
            # What is wrong for any number of members is refused, not left out.
            return not _PLACES.fullmatch(str(choice))
        return True

    return space.limited(BASES, there) if BASES in space.names else space


def _values(space: SearchSpace, name: str, default: Value) -> list[Value]:
    """All values that a parameter of few may have."""
    return list(dict.fromkeys(values.get(name, default) for values in space.combinations([name])))


def _tell(settings: Settings, chosen: Members) -> None:
    """Says which members are fused, and why."""
    named = [
        f"{record.trial} (miou {record.score:.4f}{_weight(chosen, record)})"
        for record in chosen.records
        if record.score is not None
    ]
    apart = "" if chosen.disagreement is None else f"; two of them differ on {chosen.disagreement:.1%} of the pixels"
    settings.say(f"members: {', '.join(named)}{apart}")


def _weight(chosen: Members, record: TrialRecord) -> str:
    return f", weight {chosen.weights[record.trial]:.2f}" if record.trial in chosen.weights else ""


def predicted_parts(
    data: StageData, deploys: Iterable[Value], stacking: Stacking | None
) -> dict[int, tuple[Part, ...]]:
    """Which frames the model of each fold predicts; 0 is the model that was trained on all training frames.

    deploys: all that may stand for a member. stacking: what a fusion learns from; None where none is fitted.
    """
    on_val: tuple[Part, ...] = () if data.with_val else ("val",)
    parts: dict[int, tuple[Part, ...]] = {}
    if stacking == "out-of-fold":
        parts |= dict.fromkeys(range(1, data.folds + 1), ("held-out",))
    elif stacking == "in-sample":
        parts[0] = ("train",)
    for deploy in deploys:
        for fold in (0,) if deploy == "refit" else range(1, data.folds + 1):
            parts[fold] = parts.get(fold, ()) + on_val
    return {fold: wanted for fold, wanted in parts.items() if wanted}


def checked_space(source: str | Path, data: StageData, *, size: str, epochs: int, members: int) -> SearchSpace:
    """A space of fusions, all of which could be trained. Raises ConfigError.

    size, epochs: those of every trial. members: how many base models there are to fuse.
    """

    def accepts(values: Mapping[str, Value]) -> None:
        config = {name: value for name, value in values.items() if name not in (BASES, DEPLOY)}
        MetaConfig.from_params({"size": size, "epochs": epochs, **config})
        places(str(values.get(BASES, "all")), members)
        deploy = values.get(DEPLOY, "refit")
        if deploy not in get_args(Deploy):
            raise ConfigError(f"{DEPLOY} cannot be {deploy!r}; {suggest(str(deploy), get_args(Deploy))}")

    space = _with_members_there(SearchSpace.load(source), members)
    names = [name for name in MetaConfig.field_names() if name not in ("seed", "stop_epoch", "size", "epochs")]
    space.check([*names, BASES, DEPLOY], accepts)
    for values in space.combinations(["batch_size"]):
        data.check(MetaConfig.from_params({"size": size, **values}))
    return space


def members_to_be(bases: str, base_trials: int) -> int:
    """How many base models `choose_members` will find after so many base trials, if all goes well. Raises ConfigError.

    bases: as for `search_meta`.
    """
    if bases == "auto":
        return min(AUTO, max(1, base_trials))
    if not bases.isdecimal():
        return len(set(bases.split(",")))
    if not 1 <= int(bases) <= base_trials:
        raise ConfigError(f"--bases must be within 1 and the {base_trials} base trials, but got {bases}")
    return int(bases)
