"""Stage 2: trains one fusion on the members' out-of-fold predictions, and scores it on val as it would be deployed."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache, partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from ensemble_tune.ensemble.ahead import ahead
from ensemble_tune.ensemble.augment import Augment
from ensemble_tune.ensemble.config import BaseConfig, MetaConfig
from ensemble_tune.ensemble.cost import ForwardTimer, costs
from ensemble_tune.ensemble.frames import Frames
from ensemble_tune.ensemble.fusion import build_fusion
from ensemble_tune.ensemble.losses import SegmentationLoss, class_weights
from ensemble_tune.ensemble.memory import inference_bytes
from ensemble_tune.ensemble.prediction_store import PredictionStore
from ensemble_tune.ensemble.predictions import OutOfFold, Predictions
from ensemble_tune.ensemble.scoring import score_frames
from ensemble_tune.ensemble.stage_data import StageData, as_images, shuffled_rows
from ensemble_tune.ensemble.training import Batch, train_epochs
from ensemble_tune.ensemble.training_state import copy_state, load_weights
from ensemble_tune.errors import ConfigError
from ensemble_tune.trial import Checkpoint, EpochResult, Params, Value

_SCORED_TOGETHER = 8
"""Frames a forward pass outside training."""

MEMBERS, MEMBER_EPOCHS, BASES, DEPLOY, STACKING, FOLDS, ENSEMBLE, WITH_VAL = (
    "members",
    "member_epochs",
    "bases",
    "deploy",
    "stacking",
    "folds",
    "ensemble",
    "with_val",
)
"""Parameters beside those of MetaConfig: the names of the members, best first and divided by commas; which of them are
fused, "all" or their places such as "1+3", from 1; what stands for a member; what the fusion learns from; and, for
the ledger's readers, the epochs that each member was trained for, how many folds there are, the digest of the manifest
and whether val is trained on."""


@dataclass(frozen=True, kw_only=True)
class MetaTrial:
    """A Trial over MetaConfig's fields, with `members`, `bases`, `deploy` and `stacking`."""

    data: StageData
    store: Path
    """Where the members' predictions are saved."""
    library: Mapping[str, BaseConfig]
    """The base models that may be fused, by name."""
    costs: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    """The scores of each member's model, for what the whole ensemble costs."""
    start: Checkpoint | None = None
    """Where the fusion was trained before: there it is not trained again."""

    def __call__(self, params: Params, resume: Checkpoint | None, /) -> Iterator[EpochResult]:
        """Trains; scores are those of val. A fusion without weights of its own has one epoch."""
        device = self.data.prepare()
        values = dict(params)
        names = str(values.pop(MEMBERS)).split(",")
        fused = [names[i] for i in places(str(values.pop(BASES, "all")), len(names))]
        chosen = [self.library[name] for name in fused]
        for name in (FOLDS, ENSEMBLE, WITH_VAL, MEMBER_EPOCHS):
            values.pop(name, None)
        deploy, stacking = values.pop(DEPLOY, "refit"), values.pop(STACKING, "out-of-fold")
        config = MetaConfig.from_params(values)
        training = self.data.training(config.size)
        held_out = self.data.held_out(config.size)
        store = PredictionStore(self.store, self.data)
        fusion = build_fusion(config, len(chosen), len(training.classes))
        shapes = [(1, len(chosen), len(training.classes), *config.size), (1, 3, *config.size)]
        megabytes = cache(lambda: inference_bytes(fusion, *shapes) / 1e6)
        deployed = [self._deployed(store, member, deploy) for member in chosen] if held_out is not None else []

        def score(model: nn.Module) -> dict[str, float]:
            if held_out is None:
                return {}

            def logits_of(rows: Sequence[int]) -> Tensor:
                stacks = [np.stack([source.read(held_out.names[i]) for source in deployed]) for i in rows]
                inputs = [torch.from_numpy(np.stack(stacks))]
                if config.use_image:
                    inputs.append(as_images([held_out.image(i) for i in rows]))
                logits: Tensor = model(*(tensor.to(device) for tensor in inputs))
                return logits

            timer = ForwardTimer(logits_of, device)
            scores = score_frames(timer, held_out, _SCORED_TOGETHER).scores
            models = 1 if deploy == "refit" else self.data.folds
            members = [self.costs.get(name, {}) for name in fused] * models
            return {**scores, **costs(model, timer, megabytes(), members)}

        if not config.trained:
            if resume is None:
                yield EpochResult(epoch=1, scores=score(fusion.to(device).eval()))
            return
        if self.start is not None:
            load_weights(fusion.to(device).eval(), self.start.folder)
            # One that was interrupted while it was trained ends at these weights too, not at its own.
            if resume is None or resume.epoch != self.start.epoch:
                saved = partial(copy_state, self.start.folder)
                yield EpochResult(epoch=self.start.epoch, scores=score(fusion), save=saved)
            return
        learned_from = [self._learned_from(store, member, stacking) for member in chosen]
        weights = class_weights(config.class_weights, training.class_frequencies())
        yield from train_epochs(
            model=fusion,
            config=config,
            loss=SegmentationLoss(weights),
            batches=lambda epoch: ahead(_batches(config, training, learned_from, epoch)),
            steps=len(training) // config.batch_size,
            score=score,
            device=device,
            resume=resume,
        )

    def _learned_from(self, store: PredictionStore, member: BaseConfig, stacking: Value) -> OutOfFold | Predictions:
        """A member's predictions of the training frames."""
        if stacking == "in-sample":
            return store.open(member, 0, "train")
        return OutOfFold([store.open(member, fold, "held-out") for fold in range(1, self.data.folds + 1)])

    def _deployed(self, store: PredictionStore, member: BaseConfig, deploy: Value) -> _Deployed:
        """A member's predictions of val, by what would be deployed of it."""
        folds = (0,) if deploy == "refit" else tuple(range(1, self.data.folds + 1))
        return _Deployed([store.open(member, fold, "val") for fold in folds])


@dataclass(frozen=True, slots=True)
class _Deployed:
    """The mean of the models that stand for one member: one refit, or K fold models."""

    models: Sequence[Predictions]

    def read(self, name: str) -> np.ndarray[tuple[int, ...], np.dtype[np.float32]]:
        """(C, h, w) in [0, 1]."""
        total = np.zeros_like(self.models[0][name], dtype=np.float32)
        for model in self.models:
            total += model[name]
        return total / np.float32(255 * len(self.models))


def places(bases: str, members: int) -> list[int]:
    """The members that "all" or text such as "1+3" names, from 0. Raises ConfigError."""
    if bases == "all":
        return list(range(members))
    parts = bases.split("+")
    if not all(part.strip().isdecimal() for part in parts):
        raise ConfigError(f'bases must be "all" or places such as "1+3", but got {bases!r}')
    chosen = [int(part) - 1 for part in parts]
    if len(set(chosen)) < len(chosen) or not all(0 <= place < members for place in chosen):
        raise ConfigError(
            f"bases must name different members of 1 to {members}, but got {bases!r}; fuse more base models, or change "
            "bases in the space"
        )
    return chosen


def _batches(
    config: MetaConfig, frames: Frames, members: Sequence[OutOfFold | Predictions], epoch: int
) -> Iterator[Batch]:
    """An epoch's batches of predictions, images where the model sees them, and labels, varied together."""
    augment = Augment(config.augmentation)
    for rows, seeds in shuffled_rows(config, epoch, len(frames)):
        stacks, images, labels = [], [], []
        for i, seed in zip(rows, seeds, strict=True):
            stack = np.stack([member[frames.names[i]] for member in members])
            image, label = frames.image(i), frames.label(i)
            if config.augmentation:
                flat = stack.reshape(-1, *stack.shape[2:]).transpose(1, 2, 0)
                image, label, moved = augment(image, label, seed, flat)
                stack = moved.transpose(2, 0, 1).reshape(stack.shape)
            stacks.append(stack)
            images.append(image)
            labels.append(label)
        inputs = [torch.from_numpy(np.stack(stacks))]
        if config.use_image:
            inputs.append(as_images(images))
        yield Batch(tuple(inputs), torch.from_numpy(np.stack(labels)))
