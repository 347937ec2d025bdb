"""A contact sheet: frames of every split beside their masks, and how much of the pixels each class has."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import cv2
import numpy as np

from ensemble_tune.ensemble.data_check import DataCheck
from ensemble_tune.ensemble.dataset_spec import DatasetSpec
from ensemble_tune.ensemble.frame_files import Frame
from ensemble_tune.ensemble.image_file import Pixels, resized
from ensemble_tune.ensemble.labels import IGNORED
from ensemble_tune.ensemble.mask import read_labels
from ensemble_tune.ensemble.overlay import draw_text, palette, tinted, write_picture
from ensemble_tune.ensemble.pixels import read_pixels
from ensemble_tune.storage import Location

_COLUMNS, _ROWS = 3, 2
"""Frames of a split beside and below each other."""
_WIDTH = 220
"""Of a panel, in pixels; a frame has two."""
_BAR, _GAP = 22, 6
"""Height of a line of text, and the space between panels, in pixels."""
_CHARACTER = 7.6
"""Width of a letter in pixels, about."""
_SHEET = _COLUMNS * (2 * _WIDTH + 2 * _GAP) + _GAP
_NAME, _SHARE = 190, 260
"""Width in pixels of a class's name, and of what is said of it in one split."""


def write_contact_sheet(path: Location, found: DataCheck) -> None:
    """Draws frames that break no rule, evenly spaced over each split, with their masks, and the balance of classes."""
    parts = []
    for split, own in found.splits.items():
        sound = own.sound
        if not sound:
            continue
        count = min(len(sound), _COLUMNS * _ROWS)
        chosen = [sound[round(place)] for place in np.linspace(0, len(sound) - 1, count)]
        parts.append(_line(f"{split}: {count} of {len(own.frames)} frames"))
        cells = [_cell(found.spec, frame) for frame in chosen]
        parts += [_row(cells[start : start + _COLUMNS]) for start in range(0, count, _COLUMNS)]
    parts += _balance(found)
    write_picture(path, cast(Pixels, cv2.cvtColor(np.concatenate(parts), cv2.COLOR_RGB2BGR)))


def _cell(spec: DatasetSpec, frame: Frame) -> Pixels:
    """A frame and its mask, with its name above."""
    labels = read_labels(spec, frame.mask)
    image = spec.images.shown(read_pixels(spec.images, frame.image))
    size = (max(1, round(_WIDTH * image.shape[0] / image.shape[1])), _WIDTH)
    small = resized(image, size)
    # The nearest pixel, so that no colour is shown that means another class.
    shown = cast(Pixels, cv2.resize(labels, size[::-1], interpolation=cv2.INTER_NEAREST))
    tint = tinted(small, palette(spec.classes)[shown], shown != IGNORED)
    panels = np.concatenate([small, tint], axis=1)
    return np.concatenate([_line(frame.name, panels.shape[1]), panels])


def _row(cells: Sequence[Pixels]) -> Pixels:
    height = max(cell.shape[0] for cell in cells) + _GAP
    row = np.full((height, _SHEET, 3), 255, np.uint8)
    for place, cell in enumerate(cells):
        left = _GAP + place * (2 * _WIDTH + 2 * _GAP)
        row[: cell.shape[0], left : left + cell.shape[1]] = cell
    return row


def _balance(found: DataCheck) -> list[Pixels]:
    """A line for each class: its colour, its name, and in each split its share of the labelled pixels as a bar."""
    splits = {split: own for split, own in found.splits.items() if own.frames}
    colours, classes = palette(found.spec.classes), found.spec.classes
    head = _line("share of the labelled pixels")
    for place, split in enumerate(splits):
        draw_text(head, split, _left(place))
    shares = [own.shares for own in splits.values()]
    lines = [head]
    for label, name in enumerate(classes):
        line = _line("")
        line[5:17, 8:22] = colours[label]
        draw_text(line, _cut(name, _NAME - 30), 28)
        for place, own in enumerate(shares):
            left, share = _left(place), float(own[label])
            line[5:17, left : left + round(share * (_SHARE - 80))] = colours[label]
            draw_text(line, f"{share:.2%}", left + round(share * (_SHARE - 80)) + 6)
        lines.append(line)
    return [*lines, _line("")]


def _left(place: int) -> int:
    return _NAME + 20 + place * _SHARE


def _line(text: str, width: int = _SHEET) -> Pixels:
    line = np.full((_BAR, width, 3), 255, np.uint8)
    draw_text(line, _cut(text, width), 6)
    return line


def _cut(text: str, width: int) -> str:
    """As much of the text as fits."""
    fitting = int(width / _CHARACTER)
    return text if len(text) <= fitting else f"{text[: fitting - 2]}.."
