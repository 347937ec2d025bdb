"""`search base`: trains base models of one space, and keeps the best."""

from __future__ import annotations

import statistics
from pathlib import Path

from ensemble_tune.ensemble.base_model import check_base_model
from ensemble_tune.ensemble.base_trial import BaseTrial
from ensemble_tune.ensemble.config import BaseConfig, format_size, parse_size
from ensemble_tune.ensemble.image_file import mask_shape
from ensemble_tune.ensemble.stage_data import StageData
from ensemble_tune.errors import ConfigError, RunError
from ensemble_tune.export import exported_trials
from ensemble_tune.library import keep_library
from ensemble_tune.points import train_points
from ensemble_tune.settings import METRIC, Settings
from ensemble_tune.strategy import Strategy
from ensemble_tune.tensorboard import logged
from ensemble_tune.trial import Value
from ensemble_tune.tune.ledger import LEDGER, Ledger
from ensemble_tune.tune.record import Objective, Status, rank
from ensemble_tune.tune.sampler import make_sampler
from ensemble_tune.tune.search import SearchResult
from ensemble_tune.tune.search_space import SearchSpace
from ensemble_tune.waits import tracked

STAGE, PROBE = "base", "probe"
_PROBES = 6
_TRAINING = ("load", "train", "evaluate")
"""What every epoch takes; the first one of a machine decodes the frames too."""
_BUILT = ("architecture", "encoder", "encoder_weights", "decoder_attention", "batch_size")
"""What decides whether a model can be built."""


def search_base(
    settings: Settings,
    *,
    space: str | Path = "base",
    trials: int = 30,
    epochs: int = 30,
    size: str | None = None,
    encoder_weights: str | None = None,
    strategy: Strategy | None = None,
) -> SearchResult:
    """Searches base models: each trial trains on the training frames and is scored on val.

    size: working size such as "120x160"; None is the frames' own. encoder_weights: "imagenet", "none" or a file, in
    place of what the space says. Raises an EnsembleTuneError for whatever a user can mend, before any trial starts.
    """
    if trials < 1 or epochs < 1:
        raise ConfigError(f"--trials and --epochs must be at least 1, but got {trials} and {epochs}")
    strategy = strategy or Strategy()
    data = settings.stage_data()
    chosen = _checked_space(space, data, size=size, epochs=epochs, encoder_weights=encoder_weights)
    search = strategy.search(
        settings,
        trial=BaseTrial(data=data),
        stage=STAGE,
        max_epochs=epochs,
        space=chosen,
        trials=trials,
        # What measurements made the defaults; "none" is how a space says what they leave out.
        start={**dict.fromkeys(BaseConfig.field_names(), "none"), **BaseConfig().to_params()},
        provenance=data.provenance(),
        comparable=("size", "epochs"),
        protected=exported_trials(settings.out),
        prepare=settings.decoded(data, parse_size(str(chosen.fixed_values()["size"]))),
    )
    with settings.workers, logged(settings):
        result = search.run()
        ranked = rank([record for record in result.records if record.status is not Status.RUNNING], "max")
        if ranked:
            keep_library(settings, data, ranked, strategy.keep)
    if result.best is None and result.records:
        failed = [record for record in result.records if record.error]
        if not failed:
            raise RunError(f"no base trial has a score yet: the search ended by {result.reason!r}; raise that limit")
        last = failed[-1]
        raise RunError(
            f"no base trial ended well: {last.trial} failed with {last.error!r}; mend the cause, then raise --trials"
        )
    return result


def own_size(data: StageData) -> str:
    """The size of the first training frame, or of its tiles, as text."""
    dataset = data.dataset()
    shape = mask_shape(dataset.splits["train"][0].mask)
    return format_size(shape if dataset.spec.tiles is None else dataset.spec.tiles.within(shape))


def epoch_seconds(
    settings: Settings, *, space: str | Path = "base", size: str | None = None, encoder_weights: str | None = None
) -> float:
    """What an epoch of a base model takes, in seconds: the mean of two random ones of the space, side by side.

    They are trained for one epoch each, once for a run folder; of those that fail others take the place. Raises as
    `search_base` does, and RunError where none can be trained.
    """
    data = settings.stage_data()
    chosen = _checked_space(space, data, size=size, epochs=1, encoder_weights=encoder_weights)
    sampler = make_sampler("random", chosen, seed=settings.seed, objectives=[Objective(METRIC)])
    trial, seen = BaseTrial(data=data), data.provenance()
    for number in range(0, _PROBES, 2):
        points = [sampler.propose(number), sampler.propose(number + 1)]
        train_points(
            settings,
            stage=PROBE,
            trial=trial,
            points=points,
            provenance=seen,
            keep=0,
            must=False,
            prepare=settings.decoded(data, parse_size(str(chosen.fixed_values()["size"]))),
        )
        rows = Ledger(settings.out / LEDGER).epochs(PROBE)
        if rows:
            return statistics.fmean(sum(row.seconds.get(part, 0.0) for part in _TRAINING) for row in rows)
    failed = Ledger(settings.out / LEDGER).trials(PROBE)[-1]
    raise RunError(f"none of {_PROBES} base models could be trained for one epoch; the last failed: {failed.error}")


def is_anytime(space: str | Path) -> bool:
    """Whether a training of this space that is cut off is worth what it has come to: its learning rate is constant, and
    not on its way to one that is low at the end. Raises ConfigError."""
    choices = SearchSpace.load(space).combinations(["schedule"])
    return all(values.get("schedule", BaseConfig().schedule) == "constant" for values in choices)


def _checked_space(
    source: str | Path, data: StageData, *, size: str | None, epochs: int, encoder_weights: str | None
) -> SearchSpace:
    """A space of base models, all of which could be trained. Raises ConfigError."""
    fixed: dict[str, Value] = {"size": format_size(parse_size(size)) if size else own_size(data), "epochs": epochs}
    if encoder_weights is not None:
        file = Path(encoder_weights)  # or a name; workers on a cluster stand in another folder
        fixed["encoder_weights"] = str(file.absolute()) if file.is_file() else encoder_weights
    space = SearchSpace.load(source)
    for name in ("size", "epochs"):
        if name in space.names:
            raise ConfigError(
                f"{name} is one for all trials of a search, but {source} has a parameter of that name; leave it out, "
                f"and give --{name}"
            )
    space = space.fixed(**fixed)
    _check(space, data)
    return space


def _check(space: SearchSpace, data: StageData) -> None:
    """Refuses what no trial could train. Raises ConfigError."""
    names = [name for name in BaseConfig.field_names() if name not in ("seed", "stop_epoch")]
    space.check(names, BaseConfig.from_params)
    fixed = {name: value for name, value in space.fixed_values().items() if name in ("size", "epochs")}
    built = list(space.combinations(_BUILT))
    for values in tracked(built, "checking the space", len(built)):
        config = BaseConfig.from_params(fixed | values)
        data.check(config)
        check_base_model(config, data.dataset().spec.images)
