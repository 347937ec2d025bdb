"""The options of the command line, each written once: verbs that share options take a group of them."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import MISSING, dataclass, fields, is_dataclass
from enum import StrEnum
from functools import partial, wraps
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, get_type_hints

import typer

from ensemble_tune.storage import Location, location

if TYPE_CHECKING:
    from ensemble_tune.settings import Settings
    from ensemble_tune.strategy import Strategy


class DeployChoice(StrEnum):
    """What stands for a member."""

    REFIT = "refit"
    FOLDS = "folds"


class SplitChoice(StrEnum):
    """What val is."""

    OFFICIAL = "official"
    BLOCKS = "blocks"


class StackingChoice(StrEnum):
    """What a meta-model learns from."""

    OUT_OF_FOLD = "out-of-fold"
    IN_SAMPLE = "in-sample"


_how = partial(typer.Option, rich_help_panel="How to search")
_limit = partial(typer.Option, rich_help_panel="When to end")
_where = partial(typer.Option, rich_help_panel="Machines")

_place = {"parser": location, "metavar": "PATH|URL"}
"""Of what may be in an object store too. Typer takes no union, so that the options below are of any type to it."""

Data = Annotated[
    str,
    typer.Option(help='A folder in the CamVid layout, s3://... too, or "synthetic" for built-in street scenes.'),
]
Out = Annotated[
    Any, typer.Option(help="The run folder, s3://... too; the same command on the same folder goes on.", **_place)
]
RunFolder = Annotated[Any, typer.Argument(help="A run folder.", show_default=False, **_place)]
ManifestOut = Annotated[Any, typer.Option(help="The manifest to write.", **_place)]
Manifest = Annotated[Any, typer.Argument(help="A manifest, exported or written by hand.", show_default=False, **_place)]
TrainedFor = Annotated[
    Any, typer.Option("--run", help="The run it is from: what that trained and kept is not trained again.", **_place)
]
Ensemble = Annotated[Any, typer.Argument(help="A run, or what `train` wrote to.", show_default=False, **_place)]
ConvertedTo = Annotated[Any, typer.Option("--to", help="The file to write; for smp a folder.", **_place)]
ReportOut = Annotated[Any, typer.Option(help="The page to write. (default: report.html in the run folder)", **_place)]
TrainedIn = Annotated[Any, typer.Option(help="What `train` wrote to. (default: final in the run folder)", **_place)]
FramesAt = Annotated[
    str | None,
    typer.Option(help="Where the frames are, to show the worst and the best. (default: where the manifest says)"),
]
Cache = Annotated[
    Path | None,
    typer.Option(
        help="Decoded frames, local to each machine. (default: ~/.cache/ensemble_tune)", rich_help_panel="Machines"
    ),
]
CacheLimit = Annotated[
    float,
    typer.Option(
        help="GiB that decoded frames may take, predictions and fetched data as much each; unused ones go first.",
        rich_help_panel="Machines",
    ),
]
Folds = Annotated[int, typer.Option(help="Blocks the training frames are cut into for out-of-fold predictions.")]
LibraryLimit = Annotated[
    float,
    typer.Option(
        help="GiB that base models' predictions of val may take; those that fusions learn from are not counted.",
        rich_help_panel="Machines",
    ),
]
Split = Annotated[
    SplitChoice,
    typer.Option(help="What val is: the data set's own, or a block of every sequence of train and val together."),
]
Seed = Annotated[int, typer.Option(min=0, help="Of proposals, weights, frame order and augmentation.")]
Cpus = Annotated[float, _where("--cpus-per-trial", help="Processor cores a trial.")]


def _devices(text: str) -> float | None:
    """A number, or None for auto."""
    try:
        return None if text == "auto" else float(text)
    except ValueError:
        raise typer.BadParameter(f"must be auto or a number, but got {text!r}; try 0.25") from None


Gpus = Annotated[
    Any,
    _where(
        "--gpus-per-trial",
        help="Devices a trial: 0.25 shares one, auto takes the part of one whose memory holds it. (default: auto)",
        parser=_devices,
        metavar="NUMBER|auto",
    ),
]
Memory = Annotated[
    float, _where("--memory-per-trial", help="GiB of a machine's memory that a trial may take; 0 is without bound.")
]
Cpu = Annotated[bool, _where("--cpu", help="Use no GPU.")]
Address = Annotated[
    str | None,
    typer.Option(
        help='A Ray cluster to join, for example "auto"; without it Ray starts here.', rich_help_panel="Machines"
    ),
]
Slots = Annotated[
    int | None,
    typer.Option(
        help="Trials side by side that an autoscaling cluster may grow to hold. (default: what its machines hold)",
        rich_help_panel="Machines",
    ),
]
TensorBoard = Annotated[
    Path | None,
    typer.Option(
        "--tensorboard", help="A folder for TensorBoard's logs, written while trials run.", rich_help_panel="Machines"
    ),
]
Size = Annotated[str | None, typer.Option(help="Working size HEIGHTxWIDTH in pixels. (default: the frames' own)")]
EncoderWeights = Annotated[
    str | None, typer.Option(help='"imagenet", "none" or a file. (default: what the space says)')
]
Trials = Annotated[int, typer.Option(help="Trials in all, those of earlier calls included.")]
Epochs = Annotated[int, typer.Option(help="Epochs of a trial that is not stopped early.")]
Sampler = Annotated[
    str | None,
    _how(
        help="Who proposes parameters: random, tpe, qmc, gp or grid. (default: gp for base models, else tpe)",
        autocompletion=lambda: ["random", "tpe", "qmc", "gp", "grid"],
    ),
]
Scheduler = Annotated[
    str | None,
    _how(
        help="Who is stopped early: asha-promote, asha, median or none. (default: asha-promote for base models)",
        autocompletion=lambda: ["asha-promote", "asha", "median", "none"],
    ),
]
Grace = Annotated[
    int | None,
    typer.Option(
        help="Epochs before a trial may be stopped. (default: 40% for base models, else the scheduler's choice)",
        rich_help_panel="How to search",
    ),
]
Factor = Annotated[
    int | None,
    _how(help="One in so many trials goes on from a rung of asha. (default: 2 for base models, else 3)"),
]
Objectives = Annotated[
    list[str],
    typer.Option(
        "--objective",
        help="A score to make higher, or NAME:min lower; again for more. The first one leads.",
        rich_help_panel="How to search",
    ),
]
Points = Annotated[Path | None, _how(help="A TOML file of points to start from.")]
WarmStart = Annotated[
    Any,
    _how(help="Another run's folder, whose trials teach the sampler.", **_place),
]
Hours = Annotated[float | None, _limit(help="End after so many hours, earlier calls included.")]
GpuHours = Annotated[float | None, _limit(help="End after so many hours times GPU shares.")]
Cost = Annotated[float | None, _limit(help="End at this cost; needs --price.")]
Price = Annotated[float | None, _limit(help="What a machine costs an hour.")]
Goal = Annotated[
    str | None,
    typer.Option(
        "--target", help="End once a trial has reached it, for example miou=0.6.", rich_help_panel="When to end"
    ),
]
Patience = Annotated[int | None, _limit(help="End after so many trials that came after the best one.")]
Keep = Annotated[int, _how(help="How many of the best trials keep their weights.")]
Bases = Annotated[str, typer.Option(help='Base models to fuse: "auto", how many of the best, or names with commas.')]
Deploy = Annotated[
    DeployChoice | None,
    typer.Option(
        help="What stands for a member: one model on all frames, or its fold models. (default: what the space says)"
    ),
]
Stacking = Annotated[
    StackingChoice,
    typer.Option(help="in-sample learns from predictions on the bases' own training frames: it leaks; for comparison."),
]
AsJson = Annotated[
    bool, typer.Option("--json", help="For machines: one JSON object a line on standard output, and no screen.")
]
WithVal = Annotated[bool, typer.Option("--with-val", help="Train on val too.")]


@dataclass(frozen=True, kw_only=True)
class WhereOptions:
    """Where trials run, and what they keep there."""

    cache: Cache = None
    cache_limit: CacheLimit = 100.0
    library_limit: LibraryLimit = 10.0
    cpus: Cpus = 1
    gpus: Gpus = None
    memory: Memory = 0.0
    cpu: Cpu = False
    address: Address = None
    slots: Slots = None
    as_json: AsJson = False
    tensorboard: TensorBoard = None

    def settings(
        self, *, data: str, out: Location, folds: int, seed: int, split: SplitChoice = SplitChoice.OFFICIAL
    ) -> Settings:
        """The settings of a run."""
        from ensemble_tune.cli_output import choose_reporter
        from ensemble_tune.ensemble.disk_cache import default_cache
        from ensemble_tune.settings import TRIALS_NEED, Settings
        from ensemble_tune.tune.resources import Resources
        from ensemble_tune.tune.workers import Workers

        reporter = choose_reporter(out, as_json=self.as_json)
        return Settings(
            data=data,
            out=out,
            cache=self.cache or default_cache(),
            cache_limit=self.cache_limit,
            library_limit=self.library_limit,
            folds=folds,
            split=split.value,
            seed=seed,
            workers=Workers(
                Resources(cpus=self.cpus, gpus=0.0 if self.cpu else self.gpus, memory=self.memory),
                self.address,
                self.slots,
                TRIALS_NEED,
            ),
            tensorboard=self.tensorboard,
            say=reporter.say,
            watcher=reporter,
        )


@dataclass(frozen=True, kw_only=True)
class RunOptions:
    """What every search needs."""

    data: Data
    out: Out
    folds: Folds = 3
    split: Split = SplitChoice.OFFICIAL
    seed: Seed = 0


@dataclass(frozen=True, kw_only=True)
class StrategyOptions:
    """How a stage is searched."""

    sampler: Sampler = None
    scheduler: Scheduler = None
    grace: Grace = None
    factor: Factor = None
    objective: Objectives = ("miou",)  # type: ignore[assignment]  # typer makes a list of it
    points: Points = None
    warm_start: WarmStart = None
    hours: Hours = None
    gpu_hours: GpuHours = None
    cost: Cost = None
    price: Price = None
    target: Goal = None
    patience: Patience = None
    keep: Keep = 12

    def strategy(self) -> Strategy:
        """The same, checked. Raises ConfigError."""
        from ensemble_tune.strategy import Strategy
        from ensemble_tune.tune.budget import Budget, Target
        from ensemble_tune.tune.record import Objective

        return Strategy(
            sampler=self.sampler,
            scheduler=self.scheduler,
            grace=self.grace,
            factor=self.factor,
            objectives=tuple(Objective.parse(text) for text in self.objective),
            points=self.points,
            warm_start=self.warm_start,
            budget=Budget(
                hours=self.hours,
                gpu_hours=self.gpu_hours,
                cost=self.cost,
                price=self.price,
                target=Target.parse(self.target) if self.target is not None else None,
                patience=self.patience,
            ),
            keep=self.keep,
        )


def with_groups(verb: Callable[..., None]) -> Callable[..., None]:
    """Shows typer the fields of a verb's groups as options, and gives the verb the groups."""
    hints = get_type_hints(verb, include_extras=True)
    groups = {name: kind for name, kind in hints.items() if is_dataclass(kind)}
    shown: dict[str, inspect.Parameter] = {}
    for name, parameter in inspect.signature(verb).parameters.items():
        if name not in groups:
            shown[name] = parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY, annotation=hints[name])
            continue
        types = get_type_hints(groups[name], include_extras=True)
        for each in fields(groups[name]):
            default = inspect.Parameter.empty if each.default is MISSING else each.default
            shown[each.name] = inspect.Parameter(
                each.name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=types[each.name]
            )

    @wraps(verb)
    def called(**values: Any) -> None:
        made = {
            name: group(**{each.name: values.pop(each.name) for each in fields(group)})  # type: ignore[operator]
            for name, group in groups.items()
        }
        verb(**values, **made)

    called.__signature__ = inspect.Signature(list(shown.values()))  # type: ignore[attr-defined]
    called.__annotations__ = {name: parameter.annotation for name, parameter in shown.items()}
    return called
