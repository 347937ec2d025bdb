"""The command line: one verb for each thing a person wants. It picks defaults, sets up logging, and prints.

Everything heavy is imported inside the verbs, so that help and results come at once.
"""

from __future__ import annotations

import logging
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ensemble_tune.cli_cluster import cluster_app
from ensemble_tune.cli_data import data_app
from ensemble_tune.cli_errors import exit_status
from ensemble_tune.cli_formats import convert, tensorboard
from ensemble_tune.cli_options import (
    Bases,
    Cpu,
    Deploy,
    EncoderWeights,
    Ensemble,
    Epochs,
    Manifest,
    ManifestOut,
    Objectives,
    Out,
    RunFolder,
    RunOptions,
    Size,
    SplitChoice,
    Stacking,
    StackingChoice,
    StrategyOptions,
    TrainedFor,
    Trials,
    WhereOptions,
    WithVal,
    with_groups,
)
from ensemble_tune.cli_output import (
    LogHandler,
    busy,
    choose_reporter,
    hush_others,
    out_console,
    print_final,
    print_stage,
    warn_of_leak,
)
from ensemble_tune.cli_read import plan, report, results
from ensemble_tune.cli_watch import watch
from ensemble_tune.errors import ConfigError, quoted

if TYPE_CHECKING:
    from ensemble_tune.settings import Settings

app = typer.Typer(
    help="Search, train and use two-stage semantic-segmentation ensembles.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
search_app = typer.Typer(help="Search one stage: base models, or fusions of them.", no_args_is_help=True)
app.add_typer(search_app, name="search")
app.add_typer(cluster_app, name="cluster")
app.add_typer(data_app, name="data")


@app.callback()
def options(
    log: Annotated[
        str, typer.Option(help="What to tell of a search's workings: debug, info, warning, error.")
    ] = "warning",
) -> None:
    """Search, train and use two-stage semantic-segmentation ensembles."""
    if log.upper() not in ("DEBUG", "INFO", "WARNING", "ERROR"):
        raise ConfigError(f"--log must be debug, info, warning or error, but got {log!r}")
    told = "%(levelname)s %(name)s: %(message)s"
    logging.basicConfig(level=logging.WARNING, format=told, handlers=[LogHandler()])
    hush_others()
    logging.getLogger("ensemble_tune").setLevel(log.upper())  # as the user has asked


@search_app.command("base")
@with_groups
def search_base(
    run: RunOptions,
    how: StrategyOptions,
    where: WhereOptions,
    space: Annotated[str, typer.Option(help="A TOML file, or a shipped space: base, base-small, demo.")] = "base",
    trials: Trials = 30,
    epochs: Epochs = 30,
    size: Size = None,
    encoder_weights: EncoderWeights = None,
) -> None:
    """Stage 1: search base models; those that show little promise are stopped early."""
    with busy("loading"):
        from ensemble_tune.base_search import search_base as search

    search(
        _settings(run, where),
        space=space,
        trials=trials,
        epochs=epochs,
        size=size,
        encoder_weights=encoder_weights,
        strategy=how.strategy(),
    )
    split = "" if run.split is SplitChoice.OFFICIAL else f" --split {run.split.value}"
    print_stage(
        run.out,
        "base",
        f"ensemble-tune search meta --data {quoted(run.data)} --out {quoted(run.out)}{split}",
    )


@search_app.command("meta")
@with_groups
def search_meta(
    run: RunOptions,
    how: StrategyOptions,
    where: WhereOptions,
    space: Annotated[str, typer.Option(help="A TOML file, or a shipped space: meta, meta-small.")] = "meta",
    trials: Trials = 30,
    epochs: Epochs = 30,
    bases: Bases = "auto",
    deploy: Deploy = None,
    stacking: Stacking = StackingChoice.OUT_OF_FOLD,
) -> None:
    """Stage 2: train the members' folds, then search fusions of their out-of-fold predictions."""
    with busy("loading"):
        from ensemble_tune.meta_search import search_meta as search

    warn_of_leak(stacking)
    search(
        _settings(run, where),
        space=space,
        trials=trials,
        epochs=epochs,
        bases=bases,
        deploy=None if deploy is None else deploy.value,
        stacking=stacking.value,
        strategy=how.strategy(),
    )
    print_stage(run.out, "meta", f"ensemble-tune export {quoted(run.out)} --to best.toml")


@app.command()
@with_groups
def run(
    run: RunOptions,
    how: StrategyOptions,
    where: WhereOptions,
    base_space: Annotated[str, typer.Option(help="Space of the base models.")] = "base",
    base_trials: Annotated[
        int | None, typer.Option(help="Base trials in all. (default: 30, or what --hours holds)")
    ] = None,
    base_epochs: Annotated[
        int | None, typer.Option(help="Epochs of a base trial. (default: 30, or what suits --hours)")
    ] = None,
    size: Size = None,
    encoder_weights: EncoderWeights = None,
    meta_space: Annotated[str, typer.Option(help="Space of the fusions.")] = "meta",
    meta_trials: Annotated[int, typer.Option(help="Fusions in all.")] = 30,
    meta_epochs: Annotated[int, typer.Option(help="Epochs of a fusion.")] = 30,
    bases: Bases = "auto",
    deploy: Deploy = None,
    stacking: Stacking = StackingChoice.OUT_OF_FOLD,
    with_val: WithVal = False,
) -> None:
    """Everything in one go: both searches, export to OUT/best.toml, final training in OUT/final.

    --hours bounds it all: half goes to the base models, the rest to the fusions that it can fit. How to search, and all
    other limits, hold for the base models; fusions are few and small, and all are trained.
    """
    with busy("loading"):
        from ensemble_tune.run import run_all

    warn_of_leak(stacking)
    result = run_all(
        _settings(run, where),
        base_space=base_space,
        base_trials=base_trials,
        base_epochs=base_epochs,
        size=size,
        encoder_weights=encoder_weights,
        meta_space=meta_space,
        meta_trials=meta_trials,
        meta_epochs=meta_epochs,
        bases=bases,
        deploy=None if deploy is None else deploy.value,
        stacking=stacking.value,
        strategy=how.strategy(),
        with_val=with_val,
    )
    print_final(run.out / "final", result.final, run.out)


for verb in (watch, results, report, plan):
    app.command()(verb)


@app.command()
def export(
    run_folder: RunFolder,
    to: ManifestOut = "best.toml",
    pick: Annotated[
        str,
        typer.Option(
            help='best, knee of the objectives, bounds such as "milliseconds<20", or a trial such as meta-0003.'
        ),
    ] = "best",
    objective: Objectives = ("miou", "milliseconds:min"),  # type: ignore[assignment]  # typer makes a list of it
) -> None:
    """Write the best ensemble of a run as a manifest."""
    from ensemble_tune.export import export_best
    from ensemble_tune.results import manifest_lines
    from ensemble_tune.tune.record import Objective

    manifest = export_best(run_folder, to, rule=pick, objectives=[Objective.parse(text) for text in objective])
    out_console.print(manifest_lines(manifest.to_document()))
    following = f"ensemble-tune train {quoted(to)} --data DATA --out OUT --run {quoted(run_folder)}"
    out_console.print(f"wrote {to}; next: {following}", soft_wrap=True)


@app.command()
@with_groups
def train(
    manifest: Manifest,
    out: Out,
    where: WhereOptions,
    data: Annotated[str | None, typer.Option(help="The data set. (default: what the manifest says)")] = None,
    run: TrainedFor = None,
    with_val: WithVal = False,
    epochs: Annotated[int | None, typer.Option(help="In place of the bases' own epochs.")] = None,
    batch_size: Annotated[int | None, typer.Option(help="In place of the bases' own.")] = None,
    learning_rate: Annotated[float | None, typer.Option(help="In place of the bases' own.")] = None,
    size: Annotated[str | None, typer.Option(help="In place of the manifest's own, HEIGHTxWIDTH in pixels.")] = None,
    seed: Annotated[int | None, typer.Option(min=0, help="In place of the bases' own.")] = None,
) -> None:
    """Train an ensemble from its manifest and the data alone, and measure it on test."""
    with busy("loading"):
        from ensemble_tune.ensemble.manifest import EnsembleManifest
        from ensemble_tune.final_training import train as train_ensemble
        from ensemble_tune.results import read_run

    read = EnsembleManifest.load(manifest).with_settings(
        epochs=epochs, batch_size=batch_size, learning_rate=learning_rate, size=size, seed=seed
    )
    source = data or read.data
    if source is None:
        raise ConfigError(f"{manifest} does not say where the data is; add --data DATA")
    if run is not None:
        read_run(run)  # refuses what is none
    settings = where.settings(data=source, out=out, folds=read.folds, seed=seed or 0)
    print_final(out, train_ensemble(read, settings, with_val=with_val, run=run))


@app.command()
def segment(
    ensemble: Ensemble,
    images: Annotated[Path, typer.Argument(help="A folder of images, or one image.", show_default=False)],
    out: Annotated[Path, typer.Option(help="Where the masks go.")],
    overlays: Annotated[bool, typer.Option("--overlays", help="A picture to look at beside each mask.")] = False,
    cpu: Cpu = False,
) -> None:
    """Segment new images: one mask of class indices for each."""
    with busy("loading"):
        from ensemble_tune.segment import segment_images

    choose_reporter(None)
    masks = sum(1 for _ in segment_images(ensemble, images, out, cpu=cpu, overlays=overlays))
    out_console.print(f"{masks} masks are in {out}", soft_wrap=True)


app.command()(convert)
app.command()(tensorboard)


def main() -> None:
    """Runs the command line; how it ends, `cli_errors` decides."""
    sys.exit(exit_status(lambda: app(standalone_mode=False)))


def _settings(run: RunOptions, where: WhereOptions) -> Settings:
    return where.settings(data=run.data, out=run.out, folds=run.folds, seed=run.seed, split=run.split)
