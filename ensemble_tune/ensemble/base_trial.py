"""Stage 1: trains one base model, on all training frames or on all but one fold, and saves its predictions."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import count, product

import numpy as np
import torch
from torch import Tensor, nn

from ensemble_tune.ensemble.ahead import ahead
from ensemble_tune.ensemble.augment import Augment
from ensemble_tune.ensemble.base_model import build_base_model, class_probabilities
from ensemble_tune.ensemble.config import BaseConfig
from ensemble_tune.ensemble.cost import ForwardTimer, costs
from ensemble_tune.ensemble.frames import Frames
from ensemble_tune.ensemble.gpu_share import gpu_bytes
from ensemble_tune.ensemble.image_file import Deep, Pixels
from ensemble_tune.ensemble.losses import SegmentationLoss, class_weights
from ensemble_tune.ensemble.memory import inference_bytes
from ensemble_tune.ensemble.prediction_store import Part, PredictionStore
from ensemble_tune.ensemble.predictions import write_predictions
from ensemble_tune.ensemble.scoring import scores_of
from ensemble_tune.ensemble.stage_data import StageData, as_images, shuffled_rows
from ensemble_tune.ensemble.training import Batch, train_epochs
from ensemble_tune.ensemble.training_memory import base_training_bytes
from ensemble_tune.ensemble.training_state import copy_state, load_weights
from ensemble_tune.storage import Location, fetched
from ensemble_tune.trial import Checkpoint, EpochResult, Params, StoredCheckpoint

_SCORED_TOGETHER = 8
"""Frames a forward pass outside training."""

FOLD, FOLDS, MEMBER, WITH_VAL = "fold", "folds", "member", "with_val"
"""Parameters beside those of BaseConfig: the held-out fold (0: none), how many folds there are, the member that the
model stands for, and whether val is trained on; all but the first tell the ledger's readers what the trial is of."""


@dataclass(frozen=True, kw_only=True)
class BaseTrial:
    """A Trial over BaseConfig's fields, with `fold` to hold one out, `folds`, `member` and `with_val`."""

    data: StageData
    store: Location | None = None
    """Where predictions are saved after the last epoch; None saves none."""
    parts: Mapping[int, tuple[Part, ...]] = field(default_factory=dict)
    """Which predictions a trial of a fold saves."""
    flips: tuple[bool, ...] = (False,)
    """Whether with frames as they are alone, with mirrored ones too, or each of the two."""
    starts: Mapping[tuple[str, int], StoredCheckpoint] = field(default_factory=dict)
    """By member and fold: models that were trained before, which are not trained again."""

    def __call__(self, params: Params, resume: Checkpoint | None, /) -> Iterator[EpochResult]:
        """Trains; scores are those of val, or of the fold that is held out: of this after the last epoch alone.

        How long the model of a fold is trained was chosen before: nobody reads what it scores on the way.
        """
        device = self.data.prepare()
        fold, member = int(params.get(FOLD, 0)), str(params.get(MEMBER, ""))
        config = _config(params)
        frames = self.data.training(config.size)
        fold_of = self.data.fold_of(frames)
        training = frames.subset((fold_of != fold).nonzero()[0])
        scored = frames.subset((fold_of == fold).nonzero()[0]) if fold else self.data.held_out(config.size)
        start = self.starts.get((member, fold))
        model = build_base_model(
            config, len(frames.classes), images=frames.images, pretrained=start is None and resume is None
        )

        def score(model: nn.Module) -> dict[str, float]:
            if scored is None:
                return {}
            timer = ForwardTimer(model, lambda rows: [_images(scored, rows, device)], device)
            return {
                **scores_of(timer, scored, _SCORED_TOGETHER),
                **costs(model, timer, _megabytes(model, config, frames, device)),
            }

        if start is not None:
            with fetched(start.folder) as folder:
                load_weights(model.to(device).eval(), folder)
                self._predict(model, config, fold, device)
                # One that was interrupted while it was trained ends at these weights too, not at its own.
                if resume is None or resume.epoch != start.epoch:
                    known = {name: value for name, value in (start.scores or {}).items() if name != "train_loss"}
                    scores = known or score(model)
                    yield EpochResult(epoch=start.epoch, scores=scores, save=partial(copy_state, folder))
            return
        last = config.stop_epoch or config.epochs
        epochs = count(1 if resume is None else resume.epoch + 1)
        weights = class_weights(config.class_weights, training.class_frequencies())
        for result in train_epochs(
            model=model,
            config=config,
            loss=SegmentationLoss(weights, config.jaccard_weight),
            batches=lambda epoch: ahead(augmented_batches(config, training, epoch, self.data.threads)),
            steps=len(training) // config.batch_size,
            score=lambda model: score(model) if next(epochs) == last or not fold else {},
            device=device,
            resume=resume,
        ):
            if result.epoch == last:
                started = time.perf_counter()
                self._predict(model, config, fold, device)
                result = replace(result, seconds={**result.seconds, "predict": time.perf_counter() - started})
            yield result
        if resume is not None and resume.epoch == last:
            self._predict(model.eval(), config, fold, device)

    def gpu_bytes(self, params: Params, /) -> int:
        """Bytes of a card's memory that training and predicting take."""
        spec = self.data.dataset().spec
        return gpu_bytes(
            base_training_bytes(
                _config(params),
                len(spec.classes),
                scored=_SCORED_TOGETHER,
                on_gpu=True,
                images=spec.images,
                full_size=self.data.full_size,
            )
        )

    def _predict(self, model: nn.Module, config: BaseConfig, fold: int, device: torch.device) -> None:
        """Saves what is asked for and not there yet; un-augmented frames, one softmax."""
        if self.store is None:
            return
        store = PredictionStore(self.store, self.data)
        for part, flip in product(self.parts.get(fold, ()), self.flips):
            if not store.has(config, fold, part, flip=flip):
                stamp = store.stamp(config, fold, part, flip=flip)
                frames = self.data.held_out(config.size) if part == "val" else self.data.training(config.size)
                assert frames is not None  # stamp() has refused val where it is trained on
                row_of = {name: row for row, name in enumerate(frames.names)}
                chosen = frames.subset(row_of[name] for name in stamp.frames)
                predicted = _probabilities(model, chosen, device, flip=flip)
                write_predictions(store.folder(config, fold, part, flip=flip), stamp, predicted)


_counted: dict[tuple[object, ...], int] = {}
"""The bytes of a forward pass, by all that they depend on: in a worker one network is trained again and again."""


def _megabytes(model: nn.Module, config: BaseConfig, frames: Frames, device: torch.device) -> float:
    """What a forward pass over one frame holds."""
    network = (config.architecture, config.encoder, config.decoder_attention, config.precision)
    key = (*network, config.size, len(frames.classes), frames.images, device)
    if key not in _counted:
        _counted[key] = inference_bytes(model, (1, frames.images.channels, *config.size))
    return _counted[key] / 1e6


def _config(params: Params) -> BaseConfig:
    return BaseConfig.from_params({n: v for n, v in params.items() if n not in (FOLD, FOLDS, MEMBER, WITH_VAL)})


def augmented_batches(config: BaseConfig, frames: Frames, epoch: int, threads: int = 1) -> Iterator[Batch]:
    """An epoch's augmented batches, whose frames so many threads vary at once."""
    own = threading.local()  # an `Augment` holds a seed while it works

    def varied(i: int, seed: int) -> tuple[Deep, Pixels]:
        if not hasattr(own, "augment"):
            own.augment = Augment(config.augmentation)
        image, label = own.augment(frames.image(i), frames.label(i), seed)
        return image, label

    with ThreadPoolExecutor(threads) if threads > 1 else nullcontext() as pool:
        each = map if pool is None else pool.map
        for rows, seeds in shuffled_rows(config, epoch, len(frames)):
            images, labels = zip(*each(varied, rows, seeds), strict=True)
            yield Batch((as_images(list(images)),), torch.from_numpy(np.stack(labels)))


def _images(frames: Frames, rows: Sequence[int], device: torch.device) -> Tensor:
    return as_images([frames.image(i) for i in rows]).to(device)


def _probabilities(model: nn.Module, frames: Frames, device: torch.device, *, flip: bool) -> Iterator[Tensor]:
    """Class probabilities (C, h, w) of frame after frame."""
    for start in range(0, len(frames), _SCORED_TOGETHER):
        rows = range(start, min(start + _SCORED_TOGETHER, len(frames)))
        with torch.inference_mode():
            yield from class_probabilities(model, _images(frames, rows, device), flip=flip).cpu()
