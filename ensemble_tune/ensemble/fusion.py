"""Fusions of base models: from every member's class probabilities to one set of logits; here those without layers."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ensemble_tune.ensemble.config import MetaConfig
from ensemble_tune.ensemble.image_spec import RGB, ImageSpec
from ensemble_tune.ensemble.meta_model import as_float, build_meta_model, log_probabilities, mean_logits


class MeanFusion(nn.Module):
    """The plain mean of the members: what a meta-model must beat."""

    def forward(self, probabilities: Tensor, image: Tensor | None = None) -> Tensor:
        """Probabilities as a meta-model takes them to logits (B, C, h, w), float32; the image is ignored."""
        return mean_logits(as_float(probabilities))


class WeightedMean(nn.Module):
    """A mean with a weight a member; untrained it is the plain mean."""

    def __init__(self, members: int) -> None:
        super().__init__()
        self.log_weights = nn.Parameter(torch.zeros(members))
        """Up to a constant, so that any numbers are weights that sum to 1."""

    @property
    def weights(self) -> Tensor:
        """(M,), summing to 1."""
        return self.log_weights.softmax(0)

    def set_weights(self, weights: Tensor) -> None:
        """Takes weights (M,) of at least 0."""
        with torch.no_grad():
            self.log_weights.copy_(weights.clamp(min=torch.finfo(torch.float32).tiny).log())

    def forward(self, probabilities: Tensor, image: Tensor | None = None) -> Tensor:
        """As of `MeanFusion`."""
        weighted = as_float(probabilities) * self.weights.view(-1, 1, 1, 1)
        return log_probabilities(weighted.sum(1))


class LinearStacker(nn.Module):
    """The members' mean, corrected class by class: log(mean) + sum over M of w[m, c] * log(p[m, c]) + b[c].

    All w and b start at zero, so untrained it is the plain mean. Source: Ting and Witten 1999, Issues in stacked
    generalization, which finds that a class needs the members' probabilities of itself alone.
    """

    def __init__(self, members: int, classes: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(members, classes))
        self.bias = nn.Parameter(torch.zeros(classes))

    def forward(self, probabilities: Tensor, image: Tensor | None = None) -> Tensor:
        """As of `MeanFusion`."""
        values = as_float(probabilities)
        correction = torch.einsum("bmchw,mc->bchw", log_probabilities(values), self.weight)
        return mean_logits(values) + correction + self.bias.view(-1, 1, 1)


def build_fusion(config: MetaConfig, members: int, classes: int, images: ImageSpec = RGB) -> nn.Module:
    """The fusion that `config` describes, its initial weights drawn from `config.seed`; on the CPU.

    images: what it may see beside the predictions.
    """
    if config.kind == "mean":
        return MeanFusion()
    if config.kind in ("weighted", "greedy"):
        return WeightedMean(members)
    if config.kind == "linear":
        return LinearStacker(members, classes)
    return build_meta_model(config, members, classes, images)
