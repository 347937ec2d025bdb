"""A trained ensemble: the members' networks and their fusion, from images to logits; saved as TOML and safetensors.

OUT/ensemble.toml                         the manifest, classes included
OUT/members/1-fold-0/model.safetensors    the one model of a refit member, or the first of K fold models
OUT/fusion/model.safetensors              the weights of the fusion, where it has any
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from ensemble_tune.ensemble.base_model import build_base_model, class_probabilities
from ensemble_tune.ensemble.blend import tiled_labels
from ensemble_tune.ensemble.fusion import build_fusion
from ensemble_tune.ensemble.image_file import Deep, Pixels, resized
from ensemble_tune.ensemble.manifest import MANIFEST_FILE, EnsembleManifest
from ensemble_tune.ensemble.predictions import quantise
from ensemble_tune.ensemble.scoring import logits_at
from ensemble_tune.ensemble.stage_data import as_images
from ensemble_tune.ensemble.tiles import Tiles
from ensemble_tune.ensemble.training_state import WEIGHTS_FILE, load_weights
from ensemble_tune.errors import ConfigError, DataError, RunError, quoted
from ensemble_tune.storage import Location, atomic_folder, copy_file
from ensemble_tune.waits import tracked


class TrainedEnsemble(nn.Module):
    """Images to logits, by the same arithmetic as the scores that chose the ensemble."""

    def __init__(self, manifest: EnsembleManifest, members: Sequence[Sequence[nn.Module]], fusion: nn.Module) -> None:
        """members: for each base its one refit model or its K fold models."""
        super().__init__()
        self.manifest = manifest
        self.members = nn.ModuleList(nn.ModuleList(models) for models in members)
        self.fusion = fusion

    def forward(self, images: Tensor) -> Tensor:
        """Pixels (B, K, h, w), such as uint8 RGB, at the working size to logits (B, C, h, w)."""
        logits: Tensor = self.fusion(self.member_probabilities(images), images)
        return logits

    @torch.inference_mode()
    def labels(self, image: Deep) -> Pixels:
        """The class of each pixel, (H, W), of one image (H, W, K) of any size, such as uint8 RGB.

        It is brought to the working size, and its logits back; or tile by tile, where the data set has tiles. Raises
        DataError where it does not have the channels and bits that the ensemble was trained on.
        """
        kind, size = self.manifest.images, self.manifest.fusion.size
        if image.ndim != 3 or image.shape[2] != kind.channels or image.dtype != kind.dtype or not image.size:
            raise DataError(
                f"an image must be (height, width, {kind.channels}) of {np.dtype(kind.dtype)}, but got {image.shape} "
                f"of {image.dtype}; give it as the training frames are"
            )
        device = next(self.parameters()).device

        def logits_of(part: Deep) -> Tensor:
            return logits_at(self(as_images([resized(part, size)]).to(device))[0], part.shape[:2])

        return tiled_labels(logits_of, image, self.manifest.tiles or Tiles(size=image.shape[:2], overlap=0))

    def member_probabilities(self, images: Tensor) -> Tensor:
        """Images as above to what the fusion sees, (B, M, C, h, w) in [0, 1]."""
        return torch.stack([self._member(models, images) for models in self.members], dim=1)

    def _member(self, models: nn.Module, images: Tensor) -> Tensor:
        """One member's probabilities (B, C, h, w); rounded as they are stored, since the fusion learned from those."""
        flip = self.manifest.fusion.flip
        seen = [class_probabilities(model, images, flip=flip) for model in models.children()]
        rounded = [quantise(probabilities).float() for probabilities in seen]
        # Whole numbers, summed without rounding and divided once: bit for bit what the fusion is scored on.
        return torch.stack(rounded).sum(0) / (255 * len(rounded))

    def parameter_count(self) -> int:
        """Numbers that were learned, in all networks together."""
        return sum(parameter.numel() for parameter in self.parameters())

    @classmethod
    def load(cls, folder: Path) -> TrainedEnsemble:
        """Reads what `assemble` wrote, ready to segment on the CPU. Raises RunError or ConfigError."""
        if not (folder / MANIFEST_FILE).exists():
            raise RunError(
                f"no trained ensemble is in {folder}: {MANIFEST_FILE} is missing; "
                f"train one with: ensemble-tune train MANIFEST --data DATA --out {quoted(folder)}"
            )
        manifest = EnsembleManifest.load(folder / MANIFEST_FILE)
        if not manifest.classes:
            raise RunError(
                f"{folder / MANIFEST_FILE} names no classes, so it is of no trained ensemble; train it first"
            )
        classes = len(manifest.classes)
        members = []
        for place, base in enumerate(tracked(manifest.bases, "loading the ensemble", len(manifest.bases)), start=1):
            models = []
            for fold in models_of(manifest):
                try:
                    models.append(build_base_model(base, classes, images=manifest.images, pretrained=False))
                except ConfigError as error:
                    raise ConfigError(f"{folder / MANIFEST_FILE}: {error}") from error
                load_weights(models[-1], folder / "members" / f"{place}-fold-{fold}")
            members.append(models)
        fusion = build_fusion(manifest.fusion, len(members), classes, manifest.images)
        if manifest.fusion.trained:
            load_weights(fusion, folder / "fusion")
        return cls(manifest, members, fusion).eval()


def models_of(manifest: EnsembleManifest) -> tuple[int, ...]:
    """The folds whose models stand for a member: 0 is the model that was trained on all training frames."""
    return (0,) if manifest.deploy == "refit" else tuple(range(1, manifest.folds + 1))


def assemble(
    folder: Location, manifest: EnsembleManifest, weights: Sequence[Sequence[Location]], fusion_weights: Location | None
) -> None:
    """Writes a trained ensemble from the weights of its trainings, replacing an older one in `folder`.

    weights: for each base, the checkpoint folders of its models in the order of `models_of`.
    """
    with atomic_folder(folder) as aside:
        for place, checkpoints in enumerate(weights, start=1):
            for fold, checkpoint in zip(models_of(manifest), checkpoints, strict=True):
                _copy_weights(checkpoint, aside / "members" / f"{place}-fold-{fold}")
        if fusion_weights is not None:
            _copy_weights(fusion_weights, aside / "fusion")
        manifest.save(aside / MANIFEST_FILE)


def _copy_weights(checkpoint: Location, folder: Path) -> None:
    folder.mkdir(parents=True)
    copy_file(checkpoint / WEIGHTS_FILE, folder / WEIGHTS_FILE)
