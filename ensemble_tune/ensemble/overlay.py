"""Pictures for people: a frame beside its truth, its prediction, and where the two differ."""

from __future__ import annotations

import colorsys
import math
from collections.abc import Sequence
from typing import cast

import cv2
import numpy as np

from ensemble_tune.ensemble.frames import IGNORED
from ensemble_tune.ensemble.image_file import Pixels
from ensemble_tune.errors import DataError
from ensemble_tune.storage import Location, retried, write_bytes

_CAMVID = {
    "sky": (128, 128, 128),
    "building": (128, 0, 0),
    "pole": (192, 192, 128),
    "road": (128, 64, 128),
    "pavement": (60, 40, 222),
    "tree": (128, 128, 0),
    "signsymbol": (192, 128, 128),
    "fence": (64, 64, 128),
    "car": (64, 0, 128),
    "pedestrian": (64, 64, 0),
    "bicyclist": (0, 128, 192),
}
"""The colours in which CamVid is always shown, RGB."""
_OPACITY = 0.6
_BAR = 24
"""Height of a picture's caption in pixels."""
_LARGEST = 16_000
"""Width of all panels and height of one, in pixels: what a person can look at, and far fewer than a JPEG can hold."""
_RIGHT, _WRONG = (70, 160, 90), (215, 40, 40)


def palette(classes: Sequence[str]) -> Pixels:
    """(256, 3) RGB: a colour for each class, black for IGNORED and whatever is no class."""
    colours = np.zeros((256, 3), np.uint8)
    for place, name in enumerate(classes):
        # The golden ratio spreads hues evenly, however many there are.
        hue = colorsys.hsv_to_rgb(place * 0.618034 % 1, 0.75, 0.9)
        colours[place] = _CAMVID.get(name, tuple(round(255 * part) for part in hue))
    return colours


def write_mask(path: Location, labels: Pixels) -> None:
    """Writes class indices (H, W) as a single-channel PNG."""
    write_picture(path, labels)


def write_overlay(
    path: Location, image: Pixels, prediction: Pixels, classes: Sequence[str], truth: Pixels | None
) -> None:
    """Writes one picture: frame, truth, prediction, errors; without truth, frame and prediction.

    image: (H, W, 3) RGB. prediction, truth: (H, W) class indices, or IGNORED in the truth. The classes that occur are
    named below. Of a very large image each second, third, ... pixel is shown.
    """
    colours, count = palette(classes), 2 if truth is None else 4
    seen = set(np.unique(prediction)) | (set(np.unique(truth)) if truth is not None else set())
    share = 0.0 if truth is None else _wrong_share(prediction, truth)
    # What is said is of all pixels, whatever is shown of them.
    step = math.ceil(max(count * image.shape[1], image.shape[0]) / _LARGEST)
    image, prediction = image[::step, ::step], prediction[::step, ::step]
    truth = None if truth is None else truth[::step, ::step]
    panels = [("frame", image)]
    if truth is not None:
        panels.append(("truth", tinted(image, colours[truth], truth != IGNORED)))
    panels.append(("prediction", tinted(image, colours[prediction], np.ones(prediction.shape, bool))))
    if truth is not None:
        wrong = (truth != prediction)[..., None]
        verdict = np.where(wrong, np.array(_WRONG, np.uint8), np.array(_RIGHT, np.uint8))
        panels.append((f"errors: {share:.1%} of labelled pixels", tinted(image, verdict, truth != IGNORED)))
    sheet = np.concatenate([_captioned(caption, panel) for caption, panel in panels], axis=1)
    legend = [(name, colours[place]) for place, name in enumerate(classes) if place in seen]
    whole = np.concatenate([sheet, _legend(legend, sheet.shape[1])])
    write_picture(path, cast(Pixels, cv2.cvtColor(whole, cv2.COLOR_RGB2BGR)))


def _wrong_share(prediction: Pixels, truth: Pixels) -> float:
    labelled = int(np.count_nonzero(truth != IGNORED))
    return np.count_nonzero((truth != prediction) & (truth != IGNORED)) / labelled if labelled else 0.0


def tinted(image: Pixels, colours: Pixels, where: np.ndarray[tuple[int, ...], np.dtype[np.bool_]]) -> Pixels:
    """The image in grey, coloured where it is labelled, so that texture and class are both seen.

    image, colours: (H, W, 3) RGB. where: (H, W).
    """
    grey = cv2.cvtColor(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY), cv2.COLOR_GRAY2RGB).astype(np.float32)
    mixed = np.where(where[..., None], _OPACITY * colours + (1 - _OPACITY) * grey, grey * (1 - _OPACITY))
    return cast(Pixels, mixed.astype(np.uint8))


def _captioned(caption: str, panel: Pixels) -> Pixels:
    bar = np.full((_BAR, panel.shape[1], 3), 255, np.uint8)
    draw_text(bar, caption, 6)
    return np.concatenate([bar, panel])


def _legend(entries: Sequence[tuple[str, Pixels]], width: int) -> Pixels:
    """Swatches with names, in as many rows as they need."""
    rows = [np.full((_BAR, width, 3), 255, np.uint8)]
    left = 6
    for name, colour in entries:
        needed = 30 + 8 * len(name)
        if left + needed > width and left > 6:
            rows.append(np.full((_BAR, width, 3), 255, np.uint8))
            left = 6
        rows[-1][6:18, left : left + 14] = colour
        draw_text(rows[-1], name, left + 19)
        left += needed
    return np.concatenate(rows)


def draw_text(bar: Pixels, text: str, left: int) -> None:
    """Writes a line into the top of a picture, `left` pixels from its left edge."""
    cv2.putText(bar, text, (left, 16), cv2.FONT_HERSHEY_SIMPLEX, 0.42, (30, 30, 30), 1, cv2.LINE_AA)


def write_picture(path: Location, picture: Pixels) -> None:
    """Encodes a picture, BGR or grey, by the path's ending, and replaces the file in one step.

    Raises DataError where the format holds none of its size.
    """
    done, encoded = cv2.imencode(path.suffix, picture)
    if not done:
        height, width = picture.shape[:2]
        raise DataError(f"{path} must be of a size that {path.suffix} can hold, but is {height}x{width}; cut the image")
    retried(lambda: write_bytes(path, encoded.tobytes()), path)
