"""Varying a training frame: mirrored, moved, turned, lit otherwise, its labels and predictions moved with it."""

from __future__ import annotations

import random
from typing import Any, TypeVar, cast, overload

import albumentations as A
import cv2
import numpy as np
import numpy.typing as npt

from ensemble_tune.ensemble.frames import IGNORED
from ensemble_tune.ensemble.image_file import Deep, Pixels

_PICTURE = 3
"""Channels of an image that has a hue."""
_MIRRORED = 0.5
_MOST_CHANNELS = 128
"""What OpenCV 5 mirrors."""
_Array = TypeVar("_Array", bound=npt.NDArray[Any])


class Augment:
    """Random variations of a frame, which depend on the arguments of the call alone, in any order, thread or process.

    strength: in [0, 1]; how far a frame is moved and its light changed. 0 returns what it is given.
    """

    def __init__(self, strength: float) -> None:
        self.strength = strength
        # The label is told apart from predictions and image: it alone is taken from the nearest pixel, never blended.
        self._move = A.Compose(
            [
                A.Affine(
                    scale=(1 - 0.3 * strength, 1 + 0.6 * strength),
                    translate_percent=(-0.1 * strength, 0.1 * strength),
                    rotate=(-8 * strength, 8 * strength),
                    keep_ratio=True,
                    interpolation=cv2.INTER_LINEAR,
                    mask_interpolation=cv2.INTER_NEAREST,
                    fill=0,
                    fill_mask=IGNORED,
                    p=0.9,
                ),
            ],
            additional_targets={"maps": "image"},
        )

        def light(by_max: bool) -> A.BasicTransform:
            limit = 0.4 * strength
            # Numbers of 16 bits may be a small part of their range: what is added goes by their own mean.
            return A.RandomBrightnessContrast(limit, limit, brightness_by_max=by_max, p=0.8)

        hue = A.HueSaturationValue(
            hue_shift_limit=10 * strength, sat_shift_limit=40 * strength, val_shift_limit=0, p=0.5
        )
        self._light = {True: A.Compose([light(by_max=True), hue]), False: A.Compose([light(by_max=False)])}
        """Of pictures, and of images that have no hue."""

    @overload
    def __call__(self, image: Deep, label: Pixels, seed: int) -> tuple[Deep, Pixels]: ...

    @overload
    def __call__(self, image: Deep, label: Pixels, seed: int, maps: Pixels) -> tuple[Deep, Pixels, Pixels]: ...

    def __call__(
        self, image: Deep, label: Pixels, seed: int, maps: Pixels | None = None
    ) -> tuple[Deep, Pixels] | tuple[Deep, Pixels, Pixels]:
        """The frame varied by `seed`.

        image: (h, w, C), of which uint8 of three channels is RGB. label: (h, w) uint8. maps: (h, w, K) uint8 such as
        predictions, moved with the image but not relit. Returns image and label, and maps where given; outside the
        frame image and maps are 0, the label is IGNORED.
        """
        if self.strength > 0:
            picture = image.dtype == np.uint8 and image.shape[2] == _PICTURE
            # The library knows pictures, and numbers from 0 to 1.
            shown = image if picture else image.astype(np.float32) / np.iinfo(image.dtype).max
            light = self._light[picture]
            # A seed for every call: the library's own random stream would depend on what was varied before. And one
            # stream for all: of a seed the library gives each transform one that begins alike, so that whatever is
            # shifted to the right would be of high contrast too.
            state = np.random.default_rng(seed), random.Random(seed)
            self._move.set_random_state(*state)
            light.set_random_state(*state)
            if state[1].random() < _MIRRORED:
                shown, label = _mirrored(shown), _mirrored(label)
                maps = None if maps is None else _mirrored(maps)
            moved = self._move(image=shown, mask=label, **({} if maps is None else {"maps": maps}))
            shown, label = light(image=moved["image"])["image"], moved["mask"]
            maps = None if maps is None else moved["maps"]
            image = shown if picture else np.rint(shown * np.iinfo(image.dtype).max).astype(image.dtype)
        return (image, label) if maps is None else (image, label, maps)


def _mirrored(array: _Array) -> _Array:
    """(h, w) or (h, w, C), of any number of channels."""
    if array.ndim == 3 and array.shape[2] > _MOST_CHANNELS:
        return cast(_Array, np.ascontiguousarray(array[:, ::-1]))
    return cast(_Array, cv2.flip(array, 1).reshape(array.shape))
