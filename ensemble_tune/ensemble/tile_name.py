"""What a tile of an image is called; no torch."""

from __future__ import annotations

import re

_PLACE = re.compile(r"@\d+x\d+$")


def tile_name(image: str, top: int, left: int) -> str:
    """Of the tile whose first pixel is at (top, left) of the image."""
    return f"{image}@{top}x{left}"


def image_of(name: str) -> str:
    """The image that a tile is of; of a whole image its own name."""
    return _PLACE.sub("", name)
