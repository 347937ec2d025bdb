"""Things that stand in a synthetic street, each drawn once as a flat picture that a scene then puts at its distance."""

from __future__ import annotations

from copy import deepcopy
from dataclasses import dataclass, replace
from typing import Literal

import cv2
import numpy as np

from ensemble_tune.ensemble.dataset_spec import CAMVID_CLASSES, CAMVID_IGNORED
from ensemble_tune.ensemble.image_file import Pixels

Kind = Literal["car", "pedestrian", "bicyclist", "lamp", "sign", "tree", "bin"]
LABELS = {name: label for label, name in enumerate(CAMVID_CLASSES)}
NOTHING = 255
"""The label of a sprite's see-through pixels."""
PER_METRE = 36
"""Pixels of a sprite."""

_CLOTHES = [(32, 34, 48), (120, 40, 42), (70, 84, 60), (150, 146, 138), (46, 62, 110), (176, 130, 60), (60, 50, 44)]
_SKIN = [(206, 164, 136), (150, 104, 78), (96, 66, 50)]
_PAINT = [(196, 196, 198), (38, 38, 42), (128, 132, 138), (142, 30, 32), (40, 62, 120), (92, 108, 92), (176, 160, 124)]
_PLATES = [(188, 30, 34), (34, 70, 160), (214, 178, 40), (220, 220, 214), (36, 120, 70)]

Point = tuple[float, float]
Colour = tuple[int, int, int]


@dataclass(frozen=True, slots=True)
class Sprite:
    """A flat picture that stands on the ground: its bottom row is at height 0, its middle column at its own place."""

    image: Pixels
    """(h, w, 3) RGB."""
    label: Pixels
    """(h, w), NOTHING where one sees through."""
    slices: Sprite | None = None
    """What is behind the front of a long thing, all the way to its back."""


def draw_sprite(kind: Kind, rng: np.random.Generator) -> Sprite:
    """One individual of its kind: colours, shape and texture vary."""
    if kind == "car":
        body, front = _car(rng)
        return replace(_finish(front, rng), slices=_finish(body, rng))
    return _finish(_DRAW[kind](rng), rng)


def _finish(brush: _Brush, rng: np.random.Generator) -> Sprite:
    speckle = 1 + 0.07 * rng.standard_normal((*brush.label.shape, 1), dtype=np.float32)
    return Sprite(np.clip(brush.image * speckle, 0, 255).astype(np.uint8), brush.label)


class _Brush:
    """Paints colour and label alike, in metres: x from the middle to the right, y from the ground up."""

    def __init__(self, width: float, height: float, colour: Colour) -> None:
        shape = (round(height * PER_METRE), round(width * PER_METRE))
        self.image = np.full((*shape, 3), colour, np.float32)
        self.label = np.full(shape, NOTHING, np.uint8)

    def polygon(self, points: list[Point], colour: Colour, label: int) -> None:
        corners = [np.array([self._at(point) for point in points], np.int32)]
        cv2.fillPoly(self.image, corners, colour)
        cv2.fillPoly(self.label, corners, (label,))

    def box(self, left: float, right: float, bottom: float, top: float, colour: Colour, label: int) -> None:
        self.polygon([(left, bottom), (right, bottom), (right, top), (left, top)], colour, label)

    def disc(self, centre: Point, radius: float, colour: Colour, label: int, line: float = 0) -> None:
        thickness = max(1, round(line * PER_METRE)) if line else -1
        for canvas, value in ((self.image, colour), (self.label, (label,))):
            cv2.circle(canvas, self._at(centre), round(radius * PER_METRE), value, thickness)

    def line(self, points: list[Point], width: float, colour: Colour, label: int) -> None:
        corners = [np.array([self._at(point) for point in points], np.int32)]
        for canvas, value in ((self.image, colour), (self.label, (label,))):
            cv2.polylines(canvas, corners, False, value, max(1, round(width * PER_METRE)))

    def _at(self, point: Point) -> tuple[int, int]:
        height, width = self.label.shape
        return round(width / 2 + point[0] * PER_METRE), round(height - 1 - point[1] * PER_METRE)


def _pick(rng: np.random.Generator, colours: list[Colour]) -> Colour:
    shift = rng.integers(-14, 15, 3)
    red, green, blue = (
        int(np.clip(c + s, 0, 255)) for c, s in zip(colours[rng.integers(len(colours))], shift, strict=True)
    )
    return red, green, blue


def _darker(colour: Colour, factor: float) -> Colour:
    return int(colour[0] * factor), int(colour[1] * factor), int(colour[2] * factor)


def _car(rng: np.random.Generator) -> tuple[_Brush, _Brush]:
    """A cut through the body, and the end that one sees."""
    label, paint = LABELS["car"], _pick(rng, _PAINT)
    half, height, waist = rng.uniform(0.82, 0.95), rng.uniform(1.35, 1.75), rng.uniform(0.85, 0.98)
    brush = _Brush(2.1, 1.9, paint)
    brush.polygon([(-half, 0.22), (half, 0.22), (half, waist), (-half, waist)], paint, label)
    brush.polygon(
        [(-half, waist), (half, waist), (half - 0.2, height), (0.2 - half, height)], _darker(paint, 0.85), label
    )
    glass = (60, 72, 84) if rng.random() < 0.6 else (130, 144, 156)
    pane = [
        (0.1 - half, waist + 0.03),
        (half - 0.1, waist + 0.03),
        (half - 0.27, height - 0.1),
        (0.27 - half, height - 0.1),
    ]
    brush.polygon(pane, glass, label)
    brush.box(-half, half, 0.22, 0.4, _darker(paint, 0.5), label)
    body = deepcopy(brush)
    lights = (190, 36, 30) if rng.random() < 0.6 else (236, 232, 206)
    for side in (-1, 1):
        brush.box(side * (half - 0.12) - 0.11, side * (half - 0.12) + 0.11, 0, 0.22, (22, 22, 24), label)
        brush.box(side * (half - 0.15) - 0.13, side * (half - 0.15) + 0.13, 0.58, 0.76, lights, label)
    brush.box(-0.26, 0.26, 0.45, 0.56, (222, 214, 150), label)
    return body, brush


def _pedestrian(rng: np.random.Generator) -> _Brush:
    label, coat, trousers = LABELS["pedestrian"], _pick(rng, _CLOTHES), _pick(rng, _CLOTHES)
    tall, stride = rng.uniform(1.6, 1.85), rng.uniform(0.05, 0.3)
    brush = _Brush(1.1, 1.95, coat)
    for side in (-1, 1):
        brush.line([(0, 0.48 * tall), (side * stride, 0.02)], 0.17, trousers, label)
        brush.line(
            [(side * 0.2, 0.8 * tall), (side * (0.25 + stride / 3), 0.48 * tall)], 0.11, _darker(coat, 0.85), label
        )
    brush.polygon([(-0.19, 0.45 * tall), (0.19, 0.45 * tall), (0.24, 0.82 * tall), (-0.24, 0.82 * tall)], coat, label)
    brush.disc((0, 0.92 * tall), 0.13, _pick(rng, _SKIN), label)
    return brush


def _bicyclist(rng: np.random.Generator) -> _Brush:
    label, coat, ahead = LABELS["bicyclist"], _pick(rng, _CLOTHES), int(rng.choice([-1, 1]))
    brush = _Brush(2.0, 1.95, coat)
    frame = _pick(rng, _PLATES)
    for hub in (-0.52, 0.52):
        brush.disc((hub, 0.36), 0.36, (70, 70, 72), label)
        brush.disc((hub, 0.36), 0.34, (20, 20, 22), label, line=0.08)
    brush.line(
        [(-0.52 * ahead, 0.36), (-0.15 * ahead, 0.85), (0.4 * ahead, 0.85), (0.52 * ahead, 0.36)], 0.08, frame, label
    )
    brush.line([(-0.18 * ahead, 0.95), (0.12 * ahead, 0.62), (0.0, 0.25)], 0.17, _pick(rng, _CLOTHES), label)
    shoulder = (0.16 * ahead, 1.48)
    brush.line([(-0.2 * ahead, 0.95), shoulder], 0.3, coat, label)
    brush.line([shoulder, (0.46 * ahead, 1.0)], 0.1, _darker(coat, 0.8), label)
    brush.disc((0.24 * ahead, 1.7), 0.14, _pick(rng, _SKIN), label)
    brush.polygon([(0.08 * ahead, 1.72), (0.4 * ahead, 1.72), (0.24 * ahead, 1.9)], _pick(rng, _PLATES), label)
    return brush


def _lamp(rng: np.random.Generator) -> _Brush:
    label, grey = LABELS["pole"], int(rng.integers(40, 150))
    colour, half, height = (grey, grey, grey + 4), rng.uniform(0.08, 0.13), rng.uniform(5.0, 8.0)
    brush = _Brush(3.0, 8.4, colour)
    brush.box(-half, half, 0, height, colour, label)
    brush.box(-half * 1.5, half * 1.5, 0, 0.9, _darker(colour, 0.8), label)
    reach = float(rng.choice([-1.2, 1.2, 0.0]))
    brush.line([(0, height), (reach, height + 0.2)], 0.12, colour, label)
    return brush


def _sign(rng: np.random.Generator) -> _Brush:
    plate, label = _pick(rng, _PLATES), LABELS["signsymbol"]
    grey, centre, radius = int(rng.integers(60, 150)), rng.uniform(2.2, 2.9), rng.uniform(0.36, 0.52)
    brush = _Brush(1.6, 3.7, plate)
    brush.box(-0.06, 0.06, 0, centre, (grey, grey, grey), LABELS["pole"])
    shape, white = rng.integers(4), (226, 226, 222)
    if shape == 0:
        brush.disc((0, centre), radius, plate, label)
        brush.disc((0, centre), radius * 0.62, white, label)
    elif shape == 1:
        brush.polygon([(-radius, centre - radius), (radius, centre - radius), (0, centre + radius)], plate, label)
        inner = 0.5 * radius
        brush.polygon(
            [(-inner, centre - 0.7 * radius), (inner, centre - 0.7 * radius), (0, centre + inner)], white, label
        )
    elif shape == 2:
        brush.box(-radius * 1.3, radius * 1.3, centre - radius, centre + radius, plate, label)
        brush.box(-radius, radius, centre - 0.12, centre + 0.12, white, label)
    else:  # a traffic light
        brush.box(-0.22, 0.22, centre - 0.55, centre + 0.55, (24, 24, 26), label)
        for row, light in enumerate(((60, 200, 90), (90, 70, 30), (110, 26, 24))):
            brush.disc((0, centre - 0.34 + 0.34 * row), 0.13, light, label)
    return brush


def _tree(rng: np.random.Generator) -> _Brush:
    label, height = LABELS["tree"], rng.uniform(4.5, 7.0)
    leaf = [(58, 84, 40), (84, 98, 44), (44, 64, 46), (112, 96, 52)][rng.integers(4)]
    brush = _Brush(5.0, 7.4, leaf)
    half = rng.uniform(0.12, 0.24)
    brush.box(-half, half, 0, height * 0.6, (72, 60, 50), label)
    rows, columns = (length / PER_METRE for length in np.indices(brush.label.shape, dtype=np.float32))
    radius = rng.uniform(1.5, 2.3)
    # Distance from the middle of the crown, in crowns, frayed by noise: leaves at the rim, a few holes inside.
    distance = np.hypot((columns - 2.5) / radius, (7.4 - rows - height + radius) / radius)
    lumps = cv2.resize(
        rng.normal(0, 1, (20, 14)).astype(np.float32), brush.label.shape[::-1], interpolation=cv2.INTER_CUBIC
    )
    leaves = rng.normal(0, 1, brush.label.shape).astype(np.float32)
    crown = distance + 0.12 * lumps + 0.05 * cv2.GaussianBlur(leaves, (0, 0), 2) * 8 < 0.95
    brush.label[crown] = label
    light = np.clip(1 + 0.22 * lumps + 1.6 * cv2.GaussianBlur(leaves, (0, 0), 1.5), 0.35, 1.7)
    brush.image[crown] = (np.array(leaf, np.float32) * light[..., None])[crown]
    return brush


def _bin(rng: np.random.Generator) -> _Brush:
    """Litter bins and boxes have no class: part of what is unlabelled."""
    half, height = rng.uniform(0.25, 0.45), rng.uniform(0.8, 1.3)
    colour = _pick(rng, _CLOTHES)
    brush = _Brush(1.0, 1.4, colour)
    brush.box(-half, half, 0, height, colour, CAMVID_IGNORED)
    brush.box(-half, half, height * 0.7, height * 0.8, _darker(colour, 0.5), CAMVID_IGNORED)
    return brush


_DRAW = {
    "pedestrian": _pedestrian,
    "bicyclist": _bicyclist,
    "lamp": _lamp,
    "sign": _sign,
    "tree": _tree,
    "bin": _bin,
}
