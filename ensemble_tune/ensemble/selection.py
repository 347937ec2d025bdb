"""Greedy selection of an ensemble: how often each model joins a mean, so that the mean scores best."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from ensemble_tune.ensemble.frames import IGNORED, Frames
from ensemble_tune.ensemble.image_file import Pixels
from ensemble_tune.errors import DataError
from ensemble_tune.waits import tracked

_OF_EACH_CLASS, _OF_ALL = 10_000, 200_000
"""Pixels sampled of each class, and at most of all: of few classes, the IoU of the rarest is known to about 0.005."""
_LARGEST_START = 5
_ROUNDS = 20
_BAGS = 16
"""Each bag sees half of the library, as in Caruana 2004; the more models, the likelier is one that fits by luck."""
_FEWEST_IN_A_BAG = 3
"""The mean of two is seldom better than the better one: it takes three for a majority."""
ONE_BAG = 1 / _BAGS
"""What a single bag can give to a model: no more than that is luck."""


class Source(Protocol):
    """Predictions of one model, looked up by frame name."""

    def __getitem__(self, name: str, /) -> Pixels:
        """Class probabilities of a frame, (C, h, w) uint8 in 1/255."""
        ...


@dataclass(frozen=True, slots=True)
class PixelSample:
    """Labelled pixels with what each of M models makes of them; rare classes are sampled more densely."""

    predictions: Tensor
    """(M, C, P) uint8, probabilities in 1/255."""
    labels: Tensor
    """(P,) int64 true classes."""
    weights: Tensor
    """(P,) float64: how many pixels of the frames each one stands for."""

    @classmethod
    def draw(cls, frames: Frames, sources: Sequence[Source], seed: int) -> PixelSample:
        """Pixels of all frames at the working size. Raises DataError where none is labelled."""
        classes = len(frames.classes)
        counts = np.zeros(IGNORED + 1, np.int64)
        for i in range(len(frames)):
            counts += np.bincount(frames.label(i).ravel(), minlength=IGNORED + 1)
        wanted = min(_OF_EACH_CLASS, _OF_ALL // classes)
        chance = np.zeros(IGNORED + 1)
        chance[:classes] = np.minimum(1.0, wanted / np.maximum(1, counts[:classes]))
        predictions, labels = [], []
        for i in range(len(frames)):
            label = frames.label(i)
            luck = np.random.default_rng([seed, i]).random(label.shape)
            chosen = luck < chance[label]
            labels.append(label[chosen])
            predictions.append(np.stack([source[frames.names[i]][:, chosen] for source in sources]))
        if not any(len(part) for part in labels):
            raise DataError("models are selected by labelled pixels, but no frame has any; check the masks")
        drawn = np.concatenate(labels)
        return cls(
            torch.from_numpy(np.concatenate(predictions, axis=2)),
            torch.from_numpy(drawn).long(),
            torch.from_numpy(1 / chance[drawn]),
        )

    def miou(self, scores: Tensor) -> float:
        """Mean IoU, over the classes that are there, of the class of highest score; (C, P) of any numbers."""
        predicted = scores.max(0).indices
        classes = len(scores)
        hits = self.labels == predicted
        found = torch.bincount(self.labels[hits], self.weights[hits], minlength=classes)
        truth = torch.bincount(self.labels, self.weights, minlength=classes)
        union = truth + torch.bincount(predicted, self.weights, minlength=classes) - found
        return float((found / union.clamp(min=1e-9))[truth > 0].mean())

    def disagreement(self) -> Tensor:
        """(M, M) share of pixels to which two models give different classes: how diverse they are."""
        predicted = self.predictions.max(1).indices
        differ = torch.stack([((predicted != own) * self.weights).sum(1) for own in predicted])
        return differ / self.weights.sum()


def greedy_weights(sample: PixelSample, *, bagged: bool = True, seed: int = 0) -> Tensor:
    """(M,) weights of the models, at least 0, summing to 1, whose mean has a high mean IoU on the sample.

    From the best few models on, the one joins that makes the mean best, as often as it does; the weights are how often
    each one is in. bagged: the mean of such selections, each from a random half of the models, so that of many models
    none wins by one lucky sample; of a few, bags miss the best one too often. Each model is in about as many bags as
    any other, and weighs what it does in those. Source: Caruana et al. 2004, Ensemble selection from libraries of
    models.
    """
    models = len(sample.predictions)
    alone = [sample.miou(own) for own in sample.predictions]
    ranked = sorted(range(models), key=lambda model: -alone[model])
    if not bagged or models <= _FEWEST_IN_A_BAG:
        return _selected(sample, ranked)
    chance = np.random.default_rng(seed)
    half = max(_FEWEST_IN_A_BAG, (models + 1) // 2)
    orders = [chance.permutation(models) for _ in range(_BAGS // 2)]
    bags = [set(bag.tolist()) for order in orders for bag in (order[:half], order[-half:])]
    total = torch.zeros(models, dtype=torch.float64)
    for bag in tracked(bags, "choosing members", _BAGS):
        total += _selected(sample, [model for model in ranked if model in bag])
    mean = total / torch.tensor([sum(model in bag for bag in bags) for model in range(models)])
    return mean / mean.sum()


def _selected(sample: PixelSample, ranked: Sequence[int]) -> Tensor:
    """One selection among the models `ranked`, best first: (M,) weights, 0 for the others."""
    counts = torch.zeros(len(sample.predictions), dtype=torch.float64)
    prefixes = list(range(1, min(_LARGEST_START, len(ranked)) + 1))
    sums = [sample.predictions[ranked[:size]].sum(0, dtype=torch.int32) for size in prefixes]
    scores = [sample.miou(total) for total in sums]
    start = max(range(len(prefixes)), key=lambda place: scores[place])
    counts[ranked[: prefixes[start]]] = 1
    total, score = sums[start], scores[start]
    for _ in range(_ROUNDS):
        found = {model: sample.miou(total + sample.predictions[model]) for model in ranked}
        best = max(found, key=lambda model: found[model])
        if found[best] <= score:
            break
        total, score = total + sample.predictions[best], found[best]
        counts[best] += 1
    return counts / counts.sum()
