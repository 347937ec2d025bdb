"""Stage 2: fits one fusion to the members' out-of-fold predictions, and scores it on frames it was not fitted to."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache, partial
from itertools import count

import numpy as np
import torch
from torch import Tensor, nn

from ensemble_tune.ensemble.ahead import ahead
from ensemble_tune.ensemble.augment import Augment
from ensemble_tune.ensemble.config import BaseConfig, MetaConfig
from ensemble_tune.ensemble.cost import ForwardTimer, costs
from ensemble_tune.ensemble.evidence import Evidence, evidence_name
from ensemble_tune.ensemble.frames import Frames
from ensemble_tune.ensemble.fusion import WeightedMean, build_fusion
from ensemble_tune.ensemble.gpu_share import gpu_bytes
from ensemble_tune.ensemble.losses import SegmentationLoss, class_weights
from ensemble_tune.ensemble.member_predictions import MemberPredictions, MemberSource, stack
from ensemble_tune.ensemble.memory import inference_bytes
from ensemble_tune.ensemble.prediction_store import PredictionStore
from ensemble_tune.ensemble.predictions import OutOfFold, Predictions
from ensemble_tune.ensemble.score_names import MILLISECONDS
from ensemble_tune.ensemble.scoring import score_frames
from ensemble_tune.ensemble.selection import PixelSample, greedy_weights
from ensemble_tune.ensemble.stage_data import StageData, as_images, shuffled_rows
from ensemble_tune.ensemble.training import Batch, train_epochs
from ensemble_tune.ensemble.training_memory import fusion_training_bytes
from ensemble_tune.ensemble.training_state import TrainingState, copy_state, load_weights
from ensemble_tune.errors import ConfigError
from ensemble_tune.storage import Location, fetched
from ensemble_tune.trial import Checkpoint, EpochResult, Params, StoredCheckpoint

_SCORED_TOGETHER = 8
"""Frames a forward pass outside training."""

MEMBERS, MEMBER_EPOCHS, BASES, DEPLOY, STACKING, FOLDS, ENSEMBLE, WITH_VAL, BLOCK, OF = (
    "members",
    "member_epochs",
    "bases",
    "deploy",
    "stacking",
    "folds",
    "ensemble",
    "with_val",
    "block",
    "of",
)
"""Parameters beside those of MetaConfig: the names of the members, best first and divided by commas; which of them are
fused, "all" or their places such as "1+3", from 1; what stands for a member; what the fusion learns from; the block of
training frames that it is scored on and not fitted to (0: none, val is scored); and, for the ledger's readers, the
epochs that each member was trained for, how many folds there are, the digest of the manifest, whether val is trained
on, and the trial that a fit on other blocks is of."""

_BESIDE = (MEMBERS, MEMBER_EPOCHS, BASES, DEPLOY, STACKING, FOLDS, ENSEMBLE, WITH_VAL, BLOCK, OF)


@dataclass(frozen=True, kw_only=True)
class MetaTrial:
    """A Trial over MetaConfig's fields, with `members`, `bases`, `deploy`, `stacking` and `block`."""

    data: StageData
    store: Location
    """Where the members' predictions are saved."""
    library: Mapping[str, BaseConfig]
    """The base models that may be fused, by name."""
    costs: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    """The scores of each member's model, for what the whole ensemble costs."""
    starts: Mapping[str, StoredCheckpoint] = field(default_factory=dict)
    """Fusions that were fitted before, by the trial that `of` names ("" where there is none): without a block they are
    not fitted again."""
    evidence: Location | None = None
    """Where what the last epoch made of each frame is saved, under `evidence_name`; None saves none."""

    def __call__(self, params: Params, resume: Checkpoint | None, /) -> Iterator[EpochResult]:
        """Fits; scores are those of val, or, after the last epoch alone, of the block that it is not fitted to.

        Fusions that no gradient trains have one epoch.
        """
        device = self.data.prepare()
        fused, config = _fused(params), _config(params)
        deploy, stacking = params.get(DEPLOY, "refit"), params.get(STACKING, "out-of-fold")
        block, of = int(params.get(BLOCK, 0)), str(params.get(OF, ""))
        store = PredictionStore(self.store, self.data)
        predicted = MemberPredictions(store, [self.library[name] for name in fused], config.flip)
        frames = self.data.training(config.size)
        scored = self.data.held_out(config.size)
        learned_from = predicted.of_training_frames(stacking) if config.trained or block else []  # type: ignore[arg-type]
        sources: Sequence[MemberSource] = learned_from
        if scored is not None and not block:
            sources = predicted.of_val(deploy)  # type: ignore[arg-type]
        fitted = frames
        if block:
            fold_of = self.data.fold_of(frames)
            fitted = frames.subset((fold_of != block).nonzero()[0])
            scored = frames.subset((fold_of == block).nonzero()[0])
        fusion = build_fusion(config, len(fused), len(frames.classes), frames.images)
        shapes = [(1, len(fused), len(frames.classes), *config.size), (1, frames.images.channels, *config.size)]
        megabytes = cache(lambda: inference_bytes(fusion, *shapes) / 1e6)
        members = self._member_costs(fused, config.flip, 1 if deploy == "refit" else self.data.folds)
        last = config.stop_epoch or config.epochs

        def score(model: nn.Module, *, final: bool = False) -> dict[str, float]:
            if scored is None or (block and not final):
                return {}

            def inputs_of(rows: Sequence[int]) -> list[Tensor]:
                inputs = [torch.from_numpy(np.stack([stack(sources, scored.names[i]) for i in rows]))]
                if config.use_image:
                    inputs.append(as_images([scored.image(i) for i in rows]))
                return [tensor.to(device) for tensor in inputs]

            timer = ForwardTimer(model, inputs_of, device)
            found = score_frames(timer, scored, _SCORED_TOGETHER)
            if final and self.evidence is not None:
                identity = evidence_identity(params)
                dataclasses.replace(found.evidence, of=identity).save(self.evidence / evidence_name(of, block))
            return {**found.scores, **costs(model, timer, megabytes(), members)}

        start = None if block else self.starts.get(of)
        if config.kind == "mean":
            if resume is None:
                yield EpochResult(epoch=1, scores=score(fusion.to(device).eval(), final=True))
        elif start is not None:
            with fetched(start.folder) as folder:
                load_weights(fusion.to(device).eval(), folder)
                # One that was interrupted while it was trained ends at these weights too, not at its own.
                if resume is None or resume.epoch != start.epoch:
                    saved = partial(copy_state, folder)
                    yield EpochResult(epoch=start.epoch, scores=score(fusion, final=True), save=saved)
        elif isinstance(fusion, WeightedMean) and config.kind == "greedy":
            if resume is None:
                sample = PixelSample.draw(fitted, learned_from, config.seed)
                fusion.set_weights(greedy_weights(sample, bagged=False))
                state = TrainingState(fusion.eval(), config, 1, device)
                yield EpochResult(epoch=1, scores=score(fusion, final=True), save=partial(state.save, epoch=1))
        else:
            epochs = count(1 if resume is None else resume.epoch + 1)
            weights = class_weights(config.class_weights, fitted.class_frequencies())
            yield from train_epochs(
                model=fusion,
                config=config,
                loss=SegmentationLoss(weights, config.jaccard_weight),
                batches=lambda epoch: ahead(_batches(config, fitted, learned_from, epoch)),
                steps=len(fitted) // config.batch_size,
                score=lambda model: score(model, final=next(epochs) == last),
                device=device,
                resume=resume,
            )

    def gpu_bytes(self, params: Params, /) -> int:
        """Bytes of a card's memory that fitting and scoring take."""
        spec, members = self.data.dataset().spec, len(_fused(params))
        return gpu_bytes(
            fusion_training_bytes(
                _config(params),
                members,
                len(spec.classes),
                scored=_SCORED_TOGETHER,
                on_gpu=True,
                images=spec.images,
                full_size=self.data.full_size,
            )
        )

    def _member_costs(self, fused: Sequence[str], flip: bool, models: int) -> list[Mapping[str, float]]:
        """The costs of every model that runs before the fusion."""
        found = [self.costs.get(name, {}) for name in fused]
        if flip:
            found = [{name: (1 + (name == MILLISECONDS)) * cost for name, cost in own.items()} for own in found]
        return found * models


def _fused(params: Params) -> list[str]:
    """The names of the members that are fused."""
    names = str(params[MEMBERS]).split(",")
    return [names[i] for i in places(str(params.get(BASES, "all")), len(names))]


def _config(params: Params) -> MetaConfig:
    return MetaConfig.from_params({name: value for name, value in params.items() if name not in _BESIDE})


def evidence_identity(params: Params) -> str:
    """16 hex digits that name all that a fusion's evidence depends on, beside the data."""
    return hashlib.sha256(json.dumps(dict(params), sort_keys=True).encode()).hexdigest()[:16]


def open_evidence(folder: Location, params: Params) -> Evidence:
    """What the fit of a meta trial's parameters left in `folder`. Raises RunError where it is missing or another's."""
    return Evidence.open(folder / evidence_name(str(params[OF]), int(params[BLOCK])), evidence_identity(params))


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
            seen = np.stack([member[frames.names[i]] for member in members])
            image, label = frames.image(i), frames.label(i)
            if config.augmentation:
                flat = seen.reshape(-1, *seen.shape[2:]).transpose(1, 2, 0)
                image, label, moved = augment(image, label, seed, flat)
                seen = moved.transpose(2, 0, 1).reshape(seen.shape)
            stacks.append(seen)
            images.append(image)
            labels.append(label)
        inputs = [torch.from_numpy(np.stack(stacks))]
        if config.use_image:
            inputs.append(as_images(images))
        yield Batch(tuple(inputs), torch.from_numpy(np.stack(labels)))
