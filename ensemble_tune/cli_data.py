"""The verbs around data sets: looking at one before anything is trained on it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ensemble_tune.cli_output import choose_reporter, err_console, out_console
from ensemble_tune.errors import ConfigError, DataError

if TYPE_CHECKING:
    from ensemble_tune.ensemble.data_check import DataCheck, SplitCheck

data_app = typer.Typer(help="Data sets: see what one holds, and all that is wrong with it.", no_args_is_help=True)
_SEQUENCES_SHOWN = 4
_DRAWN = (".png", ".jpg", ".jpeg")


@data_app.callback()
def options() -> None:
    """Data sets: see what one holds, and all that is wrong with it."""


@data_app.command("check")
def check(
    data: Annotated[
        str,
        typer.Argument(metavar="DIR", help="A folder, here or in an object store, or synthetic.", show_default=False),
    ],
    sheet: Annotated[
        Path, typer.Option(help="Where a picture of frames with their masks is drawn, a PNG or JPEG file.")
    ] = Path("contact-sheet.png"),
    cache: Annotated[
        Path | None, typer.Option(help="Where a data set out of a store is kept. (default: as search)")
    ] = None,
) -> None:
    """Say what a data set holds, draw frames with their masks, and name every fault; with any, the status is 2."""
    from ensemble_tune.ensemble.contact_sheet import write_contact_sheet
    from ensemble_tune.ensemble.data_check import check_data
    from ensemble_tune.ensemble.dataset import data_folder
    from ensemble_tune.ensemble.disk_cache import default_cache
    from ensemble_tune.storage import make_folder, named_as

    if sheet.suffix.lower() not in _DRAWN:
        raise ConfigError(f"--sheet must be a file that ends in {' or '.join(_DRAWN)}, but got {sheet}")
    choose_reporter(None)
    place, root = data_folder(data, cache or default_cache())
    with named_as(place, root):
        found = check_data(root)
    _print_found(found)
    for note in found.notes:
        out_console.print(f"note: {note}", soft_wrap=True)
    # Before anything is written, which may fail: what is wrong with the data is what was asked.
    for fault in found.faults:
        err_console.print(f"- {fault.rule}".replace(str(root), str(place)), soft_wrap=True)
        for offender in fault.offenders:
            err_console.print(f"    {offender}".replace(str(root), str(place)), soft_wrap=True)
    if any(split.sound for split in found.splits.values()):
        try:
            make_folder(sheet.absolute().parent)
        except ConfigError as error:
            raise ConfigError(f"{error}, with --sheet FILE.png") from None
        write_contact_sheet(sheet, found)
        out_console.print(f"frames with their masks are in {sheet}", soft_wrap=True)
    if found.faults:
        count = len(found.faults)
        raise DataError(f"{data} breaks {count} {'rule' if count == 1 else 'rules'}; mend it, then check it again")
    out_console.print(f"{data} keeps to every rule", soft_wrap=True)


def _print_found(found: DataCheck) -> None:
    """What each split holds, and the balance of classes."""
    from rich.table import Table

    from ensemble_tune.ensemble.config import format_size
    from ensemble_tune.ensemble.labels import IGNORED

    spec = found.spec
    cut = "" if spec.tiles is None else f"; images are cut into tiles of {format_size(spec.tiles.size)}"
    out_console.print(f"{spec.name}: {len(spec.classes)} classes, {_masks(found)}{cut}", soft_wrap=True)
    table = Table("split", "frames", "sequences", "height x width", "unlabelled", box=None, pad_edge=False)
    for split, own in found.splits.items():
        pixels = own.pixels if own.frames else None
        unlabelled = "" if pixels is None or not pixels.sum() else f"{pixels[IGNORED] / pixels.sum():.1%}"
        table.add_row(split, str(len(own.frames)), _sequences(found, own), _sizes(own), unlabelled)
    out_console.print(table)
    held = {split: own for split, own in found.splits.items() if own.frames}
    balance = Table("class", box=None, pad_edge=False)
    for split in held:
        balance.add_column(f"% of {split}", justify="right")
        balance.add_column("frames", justify="right")
    figures = [(own.shares, own.holding) for own in held.values()]
    for label, name in enumerate(spec.classes):
        cells = [(f"{100 * shares[label]:.2f}", str(holding[label])) for shares, holding in figures]
        balance.add_row(name, *(cell for pair in cells for cell in pair))
    out_console.print(balance)


def _masks(found: DataCheck) -> str:
    spec = found.spec
    if spec.palette is not None:
        colours = sum(len(own) for own in spec.palette.colours.values())
        return f"{colours} colours and {len(spec.palette.ignored)} of unlabelled pixels"
    return "every pixel labelled" if spec.ignored is None else f"{spec.ignored} where a pixel is unlabelled"


def _sequences(found: DataCheck, split: SplitCheck) -> str:
    if found.spec.sequence is None:
        return "none"
    counted = split.sequences
    shown = [f"{name} ({count})" for name, count in sorted(counted.items())[:_SEQUENCES_SHOWN]]
    return f"{len(counted)}: {', '.join(shown)}{', ...' if len(counted) > _SEQUENCES_SHOWN else ''}" if counted else "0"


def _sizes(split: SplitCheck) -> str:
    sizes = sorted(split.sizes)
    shown = [f"{height}x{width}" for height, width in (sizes[:1] + sizes[-1:] if len(sizes) > 1 else sizes)]
    return " to ".join(shown) + (f" ({len(sizes)} sizes)" if len(sizes) > 2 else "")
