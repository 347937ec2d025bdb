"""`search base`: trains base models of one space, and keeps the best."""

from __future__ import annotations

from pathlib import Path

from ensemble_tune.ensemble.base_model import check_base_model
from ensemble_tune.ensemble.base_trial import BaseTrial
from ensemble_tune.ensemble.config import BaseConfig, format_size, parse_size
from ensemble_tune.ensemble.image_file import read_image
from ensemble_tune.ensemble.stage_data import StageData
from ensemble_tune.errors import ConfigError, RunError
from ensemble_tune.export import exported_trials
from ensemble_tune.library import keep_library
from ensemble_tune.settings import Settings
from ensemble_tune.strategy import Strategy
from ensemble_tune.trial import Value
from ensemble_tune.tune.record import Status, rank
from ensemble_tune.tune.search import SearchResult
from ensemble_tune.tune.search_space import SearchSpace

STAGE = "base"
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
    fixed: dict[str, Value] = {"size": format_size(parse_size(size)) if size else own_size(data), "epochs": epochs}
    if encoder_weights is not None:
        fixed["encoder_weights"] = encoder_weights
    chosen = SearchSpace.load(space).fixed(**fixed)
    _check(chosen, data)
    search = strategy.search(
        settings,
        trial=BaseTrial(data=data),
        stage=STAGE,
        max_epochs=epochs,
        space=chosen,
        trials=trials,
        provenance=data.provenance(),
        comparable=("size", "epochs"),
        protected=exported_trials(settings.out),
    )
    with settings.workers:
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
    """The size of the first training frame, as text."""
    height, width = read_image(data.dataset().splits["train"][0].image).shape[:2]
    return format_size((height, width))


def _check(space: SearchSpace, data: StageData) -> None:
    """Refuses what no trial could train. Raises ConfigError."""
    names = [name for name in BaseConfig.field_names() if name not in ("seed", "stop_epoch")]
    space.check(names, BaseConfig.from_params)
    fixed = {name: value for name, value in space.fixed_values().items() if name in ("size", "epochs")}
    for values in space.combinations(_BUILT):
        config = BaseConfig.from_params(fixed | values)
        data.check(config)
        check_base_model(config)
