"""Measures a trained ensemble on frames that chose nothing, beside its members alone and their plain mean."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ensemble_tune.ensemble.evidence import ENSEMBLE, EVIDENCE
from ensemble_tune.ensemble.frames import Frames
from ensemble_tune.ensemble.fusion import MeanFusion
from ensemble_tune.ensemble.image_file import resized
from ensemble_tune.ensemble.overlay import write_mask, write_overlay
from ensemble_tune.ensemble.pixels import read_pixels
from ensemble_tune.ensemble.scoring import labels_at, score_variants
from ensemble_tune.ensemble.stage_data import StageData, as_images
from ensemble_tune.ensemble.trained_ensemble import TrainedEnsemble
from ensemble_tune.storage import Location, fetched
from ensemble_tune.trial import Checkpoint, EpochResult, Params

_SCORED_TOGETHER = 4
"""Frames a forward pass."""


@dataclass(frozen=True, kw_only=True)
class EnsembleTrial:
    """A Trial of one epoch that trains nothing: its scores are those of a trained ensemble.

    miou, loss, ... are the ensemble's, mean.miou the plain mean's of the same members, member-2.miou one member's.
    """

    data: StageData
    ensemble: Location
    """The ensemble's folder."""
    pictures: Location
    """Where a mask and a picture of every frame are written, and the evidence behind all scores."""
    split: str
    """test, or val where there is no test."""

    def __call__(self, params: Params, resume: Checkpoint | None, /) -> Iterator[EpochResult]:
        """Scores every frame of the split once."""
        if resume is not None:
            return
        device = self.data.prepare()
        with fetched(self.ensemble) as folder:
            ensemble = TrainedEnsemble.load(folder).to(device)
        frames = self.data.frames(self.split, ensemble.manifest.fusion.size)

        def variants(rows: Sequence[int]) -> dict[str, Tensor]:
            images = as_images([frames.image(i) for i in rows]).to(device)
            members = ensemble.member_probabilities(images)
            logits = {"": ensemble.fusion(members, images)}
            self._write(frames, rows, logits[""])
            if members.shape[1] > 1:
                mean = MeanFusion()
                logits["mean"] = mean(members)
                for place in range(members.shape[1]):
                    logits[f"member-{place + 1}"] = mean(members[:, place : place + 1])
            return logits

        scored = score_variants(variants, frames, _SCORED_TOGETHER)
        for name, found in scored.items():
            found.evidence.save(self.pictures / EVIDENCE / (name or ENSEMBLE))
        yield EpochResult(
            epoch=1,
            scores={
                f"{name}.{score}" if name else score: value
                for name, found in scored.items()
                for score, value in found.scores.items()
                if not name or not score.startswith("iou.")
            },
        )

    def _write(self, frames: Frames, rows: Sequence[int], logits: Tensor) -> None:
        """A mask and a picture of each frame, at its own size."""
        paths = {frame.name: frame.image for frame in self.data.dataset().splits[self.split]}
        for row, own in zip(rows, logits, strict=True):
            truth, name = np.array(frames.truth(row)), frames.names[row]
            labels = labels_at(own, truth.shape).to(torch.uint8).cpu().numpy()
            write_mask(self.pictures / "masks" / f"{name}.png", labels)
            picture = self.pictures / "overlays" / f"{name}.jpg"
            if name in paths:
                image = frames.images.shown(read_pixels(frames.images, paths[name]))
            else:  # a tile: its image may be too large to be decoded for each of them
                shape = (truth.shape[0], truth.shape[1])
                image = frames.images.shown(resized(frames.image(row), shape))
            write_overlay(picture, image, labels, frames.classes, truth)
