"""The options of the command line, each written once: verbs that share an option share its words."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer


class DeployChoice(StrEnum):
    """What stands for a member."""

    REFIT = "refit"
    FOLDS = "folds"


class StackingChoice(StrEnum):
    """What a meta-model learns from."""

    OUT_OF_FOLD = "out-of-fold"
    IN_SAMPLE = "in-sample"


Data = Annotated[str, typer.Option(help='A folder in the CamVid layout, or "synthetic" for built-in street scenes.')]
Out = Annotated[Path, typer.Option(help="The run folder; the same command on the same folder goes on.")]
RunFolder = Annotated[Path, typer.Argument(help="A run folder.", show_default=False)]
Cache = Annotated[
    Path | None, typer.Option(help="Decoded frames, local to each machine. (default: ~/.cache/ensemble_tune)")
]
CacheLimit = Annotated[float, typer.Option(help="GiB that decoded frames may take; those unused for longest go first.")]
Folds = Annotated[int, typer.Option(help="Blocks the training frames are cut into for out-of-fold predictions.")]
Seed = Annotated[int, typer.Option(min=0, help="Of proposals, weights, frame order and augmentation.")]
Cpus = Annotated[float, typer.Option("--cpus-per-trial", help="Processor cores a trial.")]
Gpus = Annotated[
    float | None,
    typer.Option("--gpus-per-trial", help="Devices a trial; 0.25 shares one. (default: 1 where there is one)"),
]
Cpu = Annotated[bool, typer.Option("--cpu", help="Use no GPU.")]
Address = Annotated[
    str | None, typer.Option(help='A Ray cluster to join, for example "auto"; without it Ray starts here.')
]
Size = Annotated[str | None, typer.Option(help="Working size HEIGHTxWIDTH in pixels. (default: the frames' own)")]
EncoderWeights = Annotated[
    str | None, typer.Option(help='"imagenet", "none" or a file. (default: what the space says)')
]
Trials = Annotated[int, typer.Option(help="Trials in all, those of earlier calls included.")]
Epochs = Annotated[int, typer.Option(help="Epochs of a trial that is not stopped early.")]
Sampler = Annotated[str, typer.Option(help="Who proposes parameters: tpe or random.")]
Scheduler = Annotated[str, typer.Option(help="Who is stopped early: asha, or none.")]
Keep = Annotated[int, typer.Option(help="How many of the best trials keep their weights.")]
Bases = Annotated[str, typer.Option(help='Base models to fuse: "auto", how many of the best, or names with commas.')]
Deploy = Annotated[
    DeployChoice, typer.Option(help="What stands for a member: one model on all frames, or its fold models.")
]
Stacking = Annotated[
    StackingChoice,
    typer.Option(help="in-sample learns from predictions on the bases' own training frames: it leaks; for comparison."),
]
WithVal = Annotated[bool, typer.Option("--with-val", help="Train on val too.")]
