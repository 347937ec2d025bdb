"""Fusions of base models: from every member's class probabilities to one set of logits."""

from __future__ import annotations

from torch import Tensor, nn

from ensemble_tune.ensemble.config import MetaConfig
from ensemble_tune.ensemble.meta_model import as_float, build_meta_model, mean_logits


class MeanFusion(nn.Module):
    """The plain mean of the members: what a meta-model must beat."""

    def forward(self, probabilities: Tensor, image: Tensor | None = None) -> Tensor:
        """Probabilities as a meta-model takes them to logits (B, C, h, w), float32; the image is ignored."""
        return mean_logits(as_float(probabilities))


def build_fusion(config: MetaConfig, members: int, classes: int) -> nn.Module:
    """The fusion that `config` describes, its initial weights drawn from `config.seed`; on the CPU."""
    return build_meta_model(config, members, classes) if config.trained else MeanFusion()
