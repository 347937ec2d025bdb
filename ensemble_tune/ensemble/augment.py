"""Varying a training frame: mirrored, moved, turned, lit otherwise, its labels and predictions moved with it."""

from __future__ import annotations

from typing import overload

import albumentations as A
import cv2

from ensemble_tune.ensemble.frames import IGNORED
from ensemble_tune.ensemble.image_file import Pixels


class Augment:
    """Random variations of a frame, which depend on the arguments of the call alone, in any order, thread or process.

    strength: in [0, 1]; how far a frame is moved and its light changed. 0 returns what it is given.
    """

    def __init__(self, strength: float) -> None:
        self.strength = strength
        # The label is told apart from predictions and image: it alone is taken from the nearest pixel, never blended.
        self._move = A.Compose(
            [
                A.HorizontalFlip(p=0.5),
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
        self._light = A.Compose(
            [
                A.RandomBrightnessContrast(brightness_limit=0.4 * strength, contrast_limit=0.4 * strength, p=0.8),
                A.HueSaturationValue(
                    hue_shift_limit=10 * strength, sat_shift_limit=40 * strength, val_shift_limit=0, p=0.5
                ),
            ]
        )

    @overload
    def __call__(self, image: Pixels, label: Pixels, seed: int) -> tuple[Pixels, Pixels]: ...

    @overload
    def __call__(self, image: Pixels, label: Pixels, seed: int, maps: Pixels) -> tuple[Pixels, Pixels, Pixels]: ...

    def __call__(
        self, image: Pixels, label: Pixels, seed: int, maps: Pixels | None = None
    ) -> tuple[Pixels, Pixels] | tuple[Pixels, Pixels, Pixels]:
        """The frame varied by `seed`.

        image: (h, w, 3) uint8 RGB. label: (h, w) uint8. maps: (h, w, K) uint8 such as predictions, moved with the image
        but not relit. Returns image and label, and maps where given; outside the frame image and maps are 0, the label
        is IGNORED.
        """
        if self.strength > 0:
            # A seed for every call: the library's own random stream would depend on what was varied before.
            self._move.set_random_seed(seed)
            self._light.set_random_seed(seed)
            moved = self._move(image=image, mask=label, **({} if maps is None else {"maps": maps}))
            image, label = self._light(image=moved["image"])["image"], moved["mask"]
            maps = None if maps is None else moved["maps"]
        return (image, label) if maps is None else (image, label, maps)
