"""Blending: what is made of an image's tiles, put together."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from ensemble_tune.ensemble.image_file import Deep, Pixels
from ensemble_tune.ensemble.tiles import Tiles, starts
from ensemble_tune.waits import waiting


def tiled_labels(logits_of: Callable[[Deep], Tensor], image: Deep, tiles: Tiles) -> Pixels:
    """Class indices (H, W) of an image (H, W, C), of which no more than a tile is seen at once.

    logits_of: a part (h, w, C) to logits (K, h, w) of its own size. Where tiles overlap, the mean of their class
    probabilities counts, each weighted by how far the pixel is from that tile's edge: it has seen more around. Beside
    the image and its labels, a row of tiles across the image is held at once, K numbers a pixel.
    """
    height, width = tiles.within(image.shape[:2])
    rows, columns = (
        starts(side, tile, tiles.overlap) for side, tile in zip(image.shape[:2], (height, width), strict=True)
    )
    if len(rows) == len(columns) == 1:
        return _labels(logits_of(image))
    weights = torch.outer(_ramp(height, tiles.overlap), _ramp(width, tiles.overlap))
    found = np.empty(image.shape[:2], np.uint8)
    band: Tensor | None = None
    with waiting("tiles of the image", len(rows) * len(columns)) as wait:
        for top, following in zip(rows, [*rows[1:], image.shape[0]], strict=True):
            for left in columns:
                probabilities = logits_of(image[top : top + height, left : left + width]).softmax(0).cpu()
                if band is None:
                    band = torch.zeros(probabilities.shape[0], height, image.shape[1])
                band[:, :, left : left + width] += probabilities * weights
                wait.done += 1
            assert band is not None  # there is a column at least
            done = following - top
            found[top:following] = _labels(band[:, :done])
            rest = torch.zeros_like(band)
            rest[:, : height - done] = band[:, done:]
            band = rest
    return found


def _ramp(length: int, overlap: int) -> Tensor:
    """(length,) weights along a side: 1 inside, falling towards both ends over the overlap, never to 0."""
    places = torch.arange(1, length + 1, dtype=torch.float32)
    return torch.minimum(places, length + 1 - places).clamp(max=overlap + 1) / (overlap + 1)


def _labels(scores: Tensor) -> Pixels:
    labels: Pixels = scores.max(0).indices.to(torch.uint8).cpu().numpy()
    return labels
