"""What the pixels of a data set's images are: channels, bits, and how they are brought to the scale of a network."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, Self

import numpy as np

from ensemble_tune.errors import DataError, suggest

if TYPE_CHECKING:
    from ensemble_tune.ensemble.image_file import Deep, Pixels

MOST_CHANNELS = 64
_KEYS = ("channels", "bits", "mean", "std")
_BOUNDS = (2.0, 98.0)
"""Percentiles of an image that are shown as black and white."""
_SAMPLED = 1000
"""Pixels of a side of which these are taken, at most."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageSpec:
    """The pixels of images; a network sees (pixel - mean) / std, channel by channel."""

    channels: int = 3
    bits: Literal[8, 16] = 8
    mean: tuple[float, ...] | None = None
    """Of each channel over the training frames, in pixels' own units; None is what ImageNet's are, for 8-bit RGB."""
    std: tuple[float, ...] | None = None

    @property
    def plain(self) -> bool:
        """Whether images are pictures of three channels and 8 bits, as files of other kinds are turned into too."""
        return self.channels == 3 and self.bits == 8

    @property
    def measured(self) -> bool:
        """Whether it is known how pixels are brought to the scale of a network."""
        return self.plain or self.mean is not None

    @property
    def dtype(self) -> type[np.uint8] | type[np.uint16]:
        """Of an array of pixels."""
        return np.uint8 if self.bits == 8 else np.uint16

    @property
    def bytes(self) -> int:
        """Of one pixel."""
        return self.channels * self.bits // 8

    def to_document(self) -> dict[str, Any]:
        """As TOML has it; `read` reads it back."""
        values: dict[str, Any] = {"channels": self.channels, "bits": self.bits}
        return values | {k: list(v) for k, v in (("mean", self.mean), ("std", self.std)) if v is not None}

    @classmethod
    def read(cls, table: Any) -> Self:
        """From the table `images` of a TOML file. Raises DataError, which names all that is wrong."""
        if not isinstance(table, dict):
            raise DataError(f"images must be a table, but got {table!r}; folders of images stand under splits")
        faults = [f"images has no key {key!r}; {suggest(key, _KEYS)}" for key in table if key not in _KEYS]
        channels, bits = table.get("channels", 3), table.get("bits", 8)
        if type(channels) is not int or not 1 <= channels <= MOST_CHANNELS:
            faults.append(f"images.channels must be a whole number within 1..{MOST_CHANNELS}, but got {channels!r}")
        if type(bits) is not int or bits not in (8, 16):
            faults.append(f"images.bits must be 8 or 16, but got {bits!r}")
        if ("mean" in table) != ("std" in table):
            faults.append("images needs both mean and std, or neither")
        for key in ("mean", "std"):
            faults += _wrong_figures(key, table, channels)
        if faults:
            raise DataError("; ".join(faults))
        mean, std = (tuple(map(float, table[key])) if key in table else None for key in ("mean", "std"))
        return cls(channels=channels, bits=bits, mean=mean, std=std)

    def shown(self, pixels: Deep) -> Pixels:
        """Pixels (H, W, C) as a person can look at them, (H, W, 3) uint8.

        Pictures are as they are. Of other images the first three channels are taken as red, green and blue, or the
        first one as grey, each stretched between its darkest and brightest fiftieth.
        """
        if self.plain:
            return pixels.astype(np.uint8, copy=False)
        places = [0, 1, 2] if self.channels >= 3 else [0, 0, 0]
        step = math.ceil(max(pixels.shape[:2]) / _SAMPLED)
        low, high = np.percentile(pixels[::step, ::step][..., places], _BOUNDS, axis=(0, 1)).astype(np.float32)
        stretched = (pixels[..., places].astype(np.float32) - low) / np.maximum(high - low, 1) * 255
        return np.asarray(stretched.clip(0, 255), np.uint8)


RGB = ImageSpec()
"""Pictures, on the scale of ImageNet's."""


def _wrong_figures(key: str, table: Mapping[str, Any], channels: Any) -> list[str]:
    if key not in table:
        return []
    figures = table[key]
    numbers = isinstance(figures, list) and all(type(each) in (int, float) and math.isfinite(each) for each in figures)
    if not numbers or len(figures) != channels:
        return [f"images.{key} must be a list of {channels} numbers, one a channel, but got {figures!r}"]
    if key == "std" and min(figures) <= 0:
        return [f"images.std must be above 0 in every channel, but got {figures!r}"]
    return []
