"""A synthetic street that a camera drives along: walls, ground and sky by ray geometry, everything else as sprites.

Metres: x to the right of the road's middle, y up, z along the road. A pixel (column u, row v) of a point (x, y, z) is
u = middle + focal (x - camera x) / depth, v = horizon - focal (y - camera y) / depth, depth = z - camera z.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from ensemble_tune.ensemble.dataset_spec import CAMVID_IGNORED, CAMVID_SMALL
from ensemble_tune.ensemble.image_file import Pixels
from ensemble_tune.ensemble.street_sprites import LABELS, NOTHING, PER_METRE, Kind, Sprite, draw_sprite

Floats = npt.NDArray[np.float32]

_NEAR, _VISIBLE, _FAR = 2.2, 75.0, 130.0
"""Depths in metres: things are drawn from the first to the second, walls up to the third."""
_EYE = 1.45
"""The camera's height in metres."""
_BUILDING, _FENCE, _HEDGE = 0, 1, 2
_FACADES = [(150, 92, 74), (176, 160, 132), (140, 138, 136), (196, 190, 180), (118, 100, 86), (128, 136, 146)]
_SKIES = [((92, 138, 206), (188, 206, 222)), ((176, 180, 186), (212, 212, 210)), ((120, 132, 158), (224, 200, 170))]
"""Colour at the zenith and in the haze: blue, overcast, evening."""
_TILE = 512
"""Side in pixels of the noise that all textures are cut from."""


@dataclass(frozen=True, slots=True)
class _Thing:
    """A sprite at a place, on its way."""

    sprite: Sprite
    x: float
    z: float
    speed: float = 0.0
    """Metres a frame along z."""
    drift: float = 0.0
    """Metres a frame along x."""
    length: float = 0.0
    """Metres along z."""

    def after(self, k: int) -> _Thing:
        return replace(self, x=self.x + self.drift * k, z=self.z + self.speed * k)


@dataclass(frozen=True, slots=True)
class _Wall:
    """What stands along one side of the street, section by section."""

    kinds: npt.NDArray[np.int64]
    ends: Floats
    """Where each section ends along z."""
    heights: Floats
    colours: Floats
    windows: Floats
    """(N, 2) metres from window to window, along and up."""
    panes: Floats
    """Brightness of the glass."""


@dataclass(frozen=True, slots=True)
class _Camera:
    x: float
    z: float
    middle: float
    """Column in pixels that looks straight along the road."""
    horizon: float
    """Row in pixels."""
    focal: float
    """Pixels."""


class StreetScene:
    """One sequence: a street, its light, and what stands and moves in it; the same generator, the same frames."""

    def __init__(self, rng: np.random.Generator, size: tuple[int, int], frames: int) -> None:
        """size: height and width in pixels. frames: how many are wanted; what is rare comes up within them."""
        self._rng, self._size, self._frames = rng, size, frames
        self._seed = int(rng.integers(2**31))
        self._fine, self._coarse = _noise(rng, 0.4), _noise(rng, 1.4)
        self._road, self._edge = rng.uniform(3.8, 4.6), rng.uniform(6.4, 7.8)
        self._pace, self._phase = rng.uniform(1.1, 1.6), rng.uniform(0, 6)
        self._walls = {side: self._build_wall() for side in (-1, 1)}
        self._skyline = rng.uniform(2, 16, 24).astype(np.float32)
        # Brightness, tint and the sunny side are the sequence's own, so that colour alone gives no class away.
        self._light = (rng.uniform(0.9, 1.25) * (1 + rng.uniform(-0.08, 0.08, 3))).astype(np.float32)
        sun = rng.uniform(0.65, 1.1)
        self._sun = {-1: sun, 1: 1.75 - sun}
        self._zenith, self._haze = (np.array(colour, np.float32) for colour in _SKIES[rng.integers(len(_SKIES))])
        grey = rng.uniform(80, 120)
        self._asphalt = np.array([grey, grey, grey + rng.uniform(-4, 8)], np.float32)
        self._paving = (self._asphalt * rng.uniform(0.95, 1.3) + rng.uniform(-6, 10, 3)).astype(np.float32)
        self._things = self._populate()

    def frame(self, k: int) -> tuple[Pixels, Pixels]:
        """Image (H, W, 3) RGB and label (H, W) of frame k, counted from 0."""
        height, width = self._size
        camera = _Camera(
            x=-1.1 + 0.3 * math.sin(0.3 * k + self._phase),
            z=self._pace * k,
            middle=width * (0.5 + 0.05 * math.sin(0.21 * k + 2 * self._phase)),
            horizon=height * (0.44 + 0.01 * math.sin(1.7 * k)),
            focal=0.9 * width,
        )
        image, label = self._sky(camera)
        self._ground(image, label, camera)
        things = sorted((thing.after(k) for thing in self._things), key=lambda thing: -thing.z)
        for behind in (True, False):
            if not behind:
                for side in (-1, 1):
                    self._facades(image, label, camera, side)
            for thing in things:
                if (abs(thing.x) > self._edge) == behind:
                    self._place(image, label, camera, thing)
        self._unlabel_borders(label)
        return self._expose(image, k), label

    def _build_wall(self) -> _Wall:
        """Buildings with gaps between them; in a gap stands a fence or a hedge."""
        rng, count = self._rng, 60
        kinds = rng.choice(3, count, p=[0.68, 0.22, 0.1])
        kinds[1::7] = _FENCE  # whatever the dice say, there is one every now and then
        lengths = np.where(kinds == _BUILDING, rng.uniform(8, 18, count), rng.uniform(5, 11, count))
        colours = np.array(_FACADES, np.float32)[rng.integers(len(_FACADES), size=count)] + rng.uniform(
            -16, 16, (count, 3)
        )
        low = np.where(kinds == _FENCE, rng.uniform(1.1, 1.7, count), rng.uniform(0.9, 2.0, count))
        return _Wall(
            kinds=kinds,
            ends=np.cumsum(lengths).astype(np.float32),
            heights=np.where(kinds == _BUILDING, rng.uniform(6, 15, count), low).astype(np.float32),
            colours=np.where((kinds == _HEDGE)[:, None], [[58, 80, 42]], colours).astype(np.float32),
            windows=rng.uniform((1.6, 2.4), (3.2, 3.4), (count, 2)).astype(np.float32),
            panes=rng.uniform(30, 130, count).astype(np.float32),
        )

    def _populate(self) -> list[_Thing]:
        rng, length = self._rng, self._pace * self._frames + 70
        things = []

        def individuals(kind: Kind) -> list[Sprite]:
            return [draw_sprite(kind, rng) for _ in range(5)]

        def along(
            kind: Kind, every: tuple[float, float], x: tuple[float, float], pace: float = 0, depth: float = 0
        ) -> None:
            """Puts individuals at random distances along both sides, x metres from the middle."""
            sprites = individuals(kind)
            for side in (-1, 1):
                z = rng.uniform(2, every[1])
                while z < length:
                    speed = pace * rng.choice([-1, 1]) * rng.uniform(0.6, 1.2)
                    sprite = sprites[rng.integers(len(sprites))]
                    things.append(_Thing(sprite, side * rng.uniform(*x), z, speed, length=depth))
                    z += rng.uniform(*every)

        road, edge = self._road, self._edge
        along("car", (6, 26), (road - 1.1, road - 0.95), depth=3.6)
        along("lamp", (11, 20), (road + 0.3, road + 0.5))
        along("sign", (9, 18), (road + 0.4, road + 0.9))
        along("bin", (18, 40), (road + 0.6, edge - 0.5))
        along("pedestrian", (4, 13), (road + 0.5, edge - 0.4), pace=0.12)
        along("tree", (14, 40), (road + 0.9, road + 1.4))
        along("tree", (3, 7), (edge + 1.5, edge + 6))
        pace, frames = self._pace, self._frames
        for z, speed, x in (
            (rng.uniform(10, 15), pace * 0.98, -1.6),  # the car ahead
            (rng.uniform(25, 40), -pace, 1.7),  # cars that come towards the camera
            (rng.uniform(55, 80), -pace, 1.8),
        ):
            things.append(_Thing(draw_sprite("car", rng), x, z, speed, length=3.6))
        things.append(_Thing(draw_sprite("pedestrian", rng), -3, pace * frames + 7, drift=0.25))
        # Rare: one is overtaken at the start, one comes the other way later.
        for z, speed, x in ((26, pace - 17 / frames, -rng.uniform(1.6, 2.2)), (1.5 * pace * frames, -0.5 * pace, 1.2)):
            things.append(_Thing(draw_sprite("bicyclist", rng), x, z, speed))
        return things

    def _sky(self, camera: _Camera) -> tuple[Floats, Pixels]:
        """An empty frame: sky down to the horizon, with the roofs and trees of a far-off town."""
        height, width = self._size
        rows, columns = np.arange(math.ceil(camera.horizon) + 1, dtype=np.float32)[:, None], np.arange(width)
        up = np.clip(1 - rows / camera.horizon, 0, 1)[..., None]
        clouds = self._coarse[: 2 * len(rows) : 2, :width, None]
        sky = self._haze + (self._zenith - self._haze) * up + 16 * clouds * (0.3 + up)
        image, label = np.empty((height, width, 3), np.float32), np.full(self._size, LABELS["sky"], np.uint8)
        block = ((columns - int(camera.middle)) // 11) % len(self._skyline)
        town = rows > camera.horizon - self._skyline[block]
        roofs = 0.45 * self._haze + 40 + 14 * self._fine[: len(rows), :width, None]
        image[: len(rows)] = np.where(town[..., None], roofs, sky)
        kinds = np.where(block % 3 == 0, LABELS["tree"], LABELS["building"])
        label[: len(rows)] = np.where(town, kinds, LABELS["sky"])
        return image, label

    def _ground(self, image: Floats, label: Pixels, camera: _Camera) -> None:
        top = int(np.ceil(camera.horizon + 1))
        rows = np.arange(top, self._size[0], dtype=np.float32)[:, None]
        columns = np.arange(self._size[1], dtype=np.float32)
        depth = camera.focal * _EYE / (rows - camera.horizon)
        x = camera.x + (columns - camera.middle) * depth / camera.focal
        z = camera.z + depth + 0 * x
        near = np.clip(1.6 - depth / 16, 0, 1)[..., None]
        grain = self._sample(self._fine, z * 24, x * 24) * near + 0.5 * self._sample(self._coarse, z * 9, x * 9)
        side = np.abs(x)
        lines = (side < 0.08) & (z % 6 < 3) | (np.abs(side - self._road + 0.35) < 0.06)
        slabs = near * ((x % 0.9 < 0.07) | (z % 0.9 < 0.07))[..., None]
        colour = self._asphalt * (1 + 0.13 * grain) + 70 * lines[..., None]
        colour = np.where((side > self._road)[..., None], self._paving * (1 + 0.12 * grain) * (1 - 0.2 * slabs), colour)
        colour = np.where((np.abs(side - self._road) < 0.1)[..., None], self._paving * 1.15, colour)
        colour = np.where(
            (side > self._edge)[..., None], np.array([74, 92, 48], np.float32) * (1 + 0.35 * grain), colour
        )
        # The houses of the sunless side throw a ragged shadow over pavement and road.
        dark = -1 if self._sun[-1] < self._sun[1] else 1
        reach = 0.5 * self._road + 2.5 * self._sample(self._coarse, z * 20, 0 * z)[..., 0]
        colour *= np.where(x * dark > reach, np.float32(0.62), np.float32(1))[..., None]
        image[top:] = self._hazed(colour, depth[..., None])
        label[top:] = np.select(
            [side < self._road, side < self._edge], [LABELS["road"], LABELS["pavement"]], LABELS["tree"]
        )

    def _facades(self, image: Floats, label: Pixels, camera: _Camera, side: int) -> None:
        """One side's wall. All along a column its depth is the same."""
        wall, offset = self._walls[side], side * (np.arange(self._size[1], dtype=np.float32) - camera.middle)
        depth = camera.focal * (self._edge - side * camera.x) / np.maximum(offset, 1e-3)
        seen = np.flatnonzero((offset > 0) & (depth < _FAR))
        depth = depth[seen]
        along = camera.z + depth
        section = np.searchsorted(wall.ends, along)
        y = _EYE - (np.arange(self._size[0], dtype=np.float32)[:, None] - camera.horizon) * depth / camera.focal
        kind, top = wall.kinds[section], wall.heights[section]
        hedge = kind == _HEDGE
        rough = self._sample(self._fine, y * 30 + 0 * along, along * 30 + 0 * y)[..., 0]
        lumps = self._sample(self._coarse, y * 40 + 0 * along, along * 40 + 0 * y)[..., 0]
        inside = (y >= 0) & (y <= top + np.where(hedge, 0.5 * lumps, 0))
        shade = 1 + np.where(hedge, 0.4, 0.1) * rough + 0.1 * lumps
        near = depth < 25
        shade *= np.where(
            near & (kind == _BUILDING) & ((y % 0.3 < 0.06) | ((along + 0.3 * (y // 0.3)) % 0.7 < 0.06)), 0.85, 1
        )
        shade *= np.where((kind == _BUILDING) & (y > top - 0.5), 0.7, 1)
        slats = (along % 0.34 < 0.12) | (np.abs(y - 0.25) < 0.08) | (np.abs(y - top + 0.15) < 0.1)
        shade *= np.where((kind == _FENCE) & ~slats, 0.45, 1)
        colour = wall.colours[section] * shade[..., None] * self._sun[side]
        across, up = wall.windows[section].T
        pane = (kind == _BUILDING) & (along % across > 0.35 * across) & (y % up > 0.3 * up) & (y % up < 0.82 * up)
        pane &= y < top - 0.7
        glass = (wall.panes[section] * (1 + 0.25 * lumps))[..., None] * np.array([0.92, 1, 1.1], np.float32)
        colour = np.where(pane[..., None], glass, colour)
        v, u = np.nonzero(inside)
        image[v, seen[u]] = self._hazed(colour, depth[:, None])[v, u]
        label[v, seen[u]] = np.array([LABELS["building"], LABELS["fence"], LABELS["tree"]], np.uint8)[kind][u]

    def _place(self, image: Floats, label: Pixels, camera: _Camera, thing: _Thing) -> None:
        """Draws a sprite, a long thing as slices from its far end to its near one."""
        depth = thing.z - camera.z
        if not _NEAR < depth < _VISIBLE:
            return
        if thing.sprite.slices is not None:
            corners = [(x, z) for z in (depth, depth + thing.length) for x in (-1.0, 1.0)]
            shadow = [
                (camera.middle + camera.focal * (thing.x + x - camera.x) / z, camera.horizon + camera.focal * _EYE / z)
                for x, z in corners
            ]
            cv2.fillConvexPoly(
                image, np.array([shadow[i] for i in (0, 1, 3, 2)]).round().astype(np.int32), (34, 34, 36)
            )
            for behind in np.linspace(thing.length, 0, 3 + int(60 / depth), endpoint=False):
                self._paste(image, label, camera, thing.sprite.slices, thing.x, depth + float(behind), 0.72)
        self._paste(image, label, camera, thing.sprite, thing.x, depth, 1.0)

    def _paste(
        self, image: Floats, label: Pixels, camera: _Camera, sprite: Sprite, x: float, depth: float, shade: float
    ) -> None:
        scale = camera.focal / depth / PER_METRE
        rows, columns = sprite.label.shape
        left = camera.middle + camera.focal * (x - camera.x) / depth - columns * scale / 2
        top = camera.horizon + camera.focal * _EYE / depth - rows * scale
        u0, u1 = max(0, int(left)), min(self._size[1], int(np.ceil(left + columns * scale)))
        v0, v1 = max(0, int(top)), min(self._size[0], int(np.ceil(top + rows * scale)))
        if u0 >= u1 or v0 >= v1:
            return
        # From the middle of a frame's pixel to the sprite's pixel.
        back = np.array([[1, 0, u0 + 0.5 - left - 0.5 * scale], [0, 1, v0 + 0.5 - top - 0.5 * scale]]) / scale
        shape = (u1 - u0, v1 - v0)
        colour = cv2.warpAffine(
            sprite.image,
            back,
            shape,
            flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP,
            borderMode=cv2.BORDER_REPLICATE,
        )
        mask = cv2.warpAffine(
            sprite.label, back, shape, flags=cv2.INTER_NEAREST | cv2.WARP_INVERSE_MAP, borderValue=(NOTHING,)
        )
        seen = mask != NOTHING
        lit = colour[seen] * np.float32(shade * (0.5 + 0.5 * self._sun[1 if x > 0 else -1]))
        image[v0:v1, u0:u1][seen] = self._hazed(lit, depth)
        label[v0:v1, u0:u1][seen] = mask[seen]

    def _unlabel_borders(self, label: Pixels) -> None:
        """As in hand-made masks, stretches of the outlines of large things are unlabelled."""
        border = cv2.morphologyEx(label, cv2.MORPH_GRADIENT, np.ones((3, 3), np.uint8)) > 0
        ragged = self._coarse[: label.shape[0], : label.shape[1]] > 0.1
        small = np.isin(label, [LABELS[name] for name in CAMVID_SMALL])
        label[border & ragged & ~small] = CAMVID_IGNORED

    def _expose(self, image: Floats, k: int) -> Pixels:
        """The picture that a camera takes: its exposure drifts, its lens is a little soft, its sensor noisy."""
        grain = np.random.default_rng([self._seed, k]).standard_normal(image.shape, dtype=np.float32)
        soft = cv2.GaussianBlur(image * self._light * (1 + 0.06 * math.sin(0.4 * k + self._phase)), (3, 3), 0.6)
        return np.asarray(np.clip(soft + 5 * grain, 0, 255), np.uint8)

    def _hazed(self, colour: Floats, depth: Floats | float) -> Floats:
        clear = np.exp(np.asarray(depth, np.float32) / -110)
        return np.asarray(colour * clear + self._haze * (1 - clear), np.float32)

    @staticmethod
    def _sample(noise: Floats, rows: npt.NDArray[Any], columns: npt.NDArray[Any]) -> Floats:
        """Noise at places that go on for ever, (..., 1)."""
        return np.asarray(noise[rows.astype(np.int32) % _TILE, columns.astype(np.int32) % _TILE, None], np.float32)


def _noise(rng: np.random.Generator, roughness: float) -> Floats:
    """A seamless tile of noise, mean 0, deviation 1; the larger the exponent `roughness`, the larger its patches."""
    spectrum = np.fft.rfft2(rng.standard_normal((_TILE, _TILE)))
    frequency = np.hypot(np.fft.fftfreq(_TILE)[:, None], np.fft.rfftfreq(_TILE))
    frequency[0, 0] = np.inf
    tile = np.fft.irfft2(spectrum / frequency**roughness)
    return np.asarray(tile / tile.std(), np.float32)
