"""The frames of one search as its trials see them: what is trained on, what is held out, in which folds."""

from __future__ import annotations

import socket
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache, reduce
from pathlib import Path

import cv2
import numpy as np
import torch

from ensemble_tune.ensemble.config import BaseConfig, MetaConfig
from ensemble_tune.ensemble.dataset import Dataset, open_dataset
from ensemble_tune.ensemble.disk_cache import DEFAULT_LIMIT, DiskCache
from ensemble_tune.ensemble.folds import assign_folds
from ensemble_tune.ensemble.frame_cache import cached_bytes
from ensemble_tune.ensemble.frames import Frames, load_frames
from ensemble_tune.ensemble.gpu_share import keep_to_share
from ensemble_tune.ensemble.image_file import Deep
from ensemble_tune.ensemble.pieces import first_shape, piece_counts
from ensemble_tune.ensemble.split import Split
from ensemble_tune.errors import ConfigError
from ensemble_tune.object_path import ObjectPath
from ensemble_tune.trial import given_share


@dataclass(frozen=True, slots=True, kw_only=True)
class StageData:
    """Where frames come from and how they are split; small, so that it travels to every worker."""

    data: str | ObjectPath
    """A folder in the CamVid layout, here or in an object store, or "synthetic"."""
    cache: Path
    """A local folder for decoded frames, one a machine."""
    cache_limit: int = DEFAULT_LIMIT
    """Its size in bytes."""
    folds: int = 3
    """Blocks that the training frames are cut into for out-of-fold predictions."""
    split: Split = "official"
    """What val is: the data set's own, or a block of every sequence."""
    with_val: bool = False
    """Whether val is trained on too, and with it the frames that blocks leave out beside it; then nothing is held out
    but test."""
    threads: int = 1
    """Computing threads of one trial."""
    device: str = "auto"
    """"auto" takes a GPU where the trial was given one; "cpu" never does."""

    def dataset(self) -> Dataset:
        """The checked data set. Raises DataError."""
        return _dataset(self.data, self.cache, self.cache_limit, self.split)

    def provenance(self) -> dict[str, str]:
        """What the rows of all trials on these frames share, and no other's: `data` and `split`."""
        return {"data": self.dataset().digest, "split": self.split}

    def training(self, size: tuple[int, int]) -> Frames:
        """All frames that may be trained on, at a working size (height, width) in pixels."""
        return reduce(Frames.join, [self.frames(name, size) for name in self._trained_on()])

    def held_out(self, size: tuple[int, int]) -> Frames | None:
        """The val frames; None where they are trained on."""
        return None if self.with_val else self.frames("val", size)

    def frames(self, name: str, size: tuple[int, int]) -> Frames:
        """The frames of train, val or test at a working size."""
        return _frames(self.data, self.cache, self.cache_limit, self.split, name, size)

    @property
    def full_size(self) -> tuple[int, int]:
        """Height and width in pixels at which frames are scored, as if all had the first one's."""
        return _first_shape(self.data, self.cache, self.cache_limit)

    def fold_of(self, frames: Frames) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
        """(N,) fold of each training frame, in 1..folds; of the tiles of an image, one."""
        sequence_of = dict(zip(frames.parents, frames.sequences, strict=True))
        found = self._folds(list(sequence_of), list(sequence_of.values()))
        fold_of = dict(zip(sequence_of, found.tolist(), strict=True))
        return np.array([fold_of[parent] for parent in frames.parents], np.int64)

    def check(self, config: BaseConfig | MetaConfig) -> None:
        """Raises ConfigError where the frames do not fit the cache, or the training that sees the fewest frames would
        have no full batch."""
        decoded = _dataset(self.data, self.cache, self.cache_limit, "official")
        DiskCache(self.cache, self.cache_limit).check(cached_bytes(decoded, config.size))
        frames = [frame for name in self._trained_on() for frame in self.dataset().splits[name]]
        folds = self._folds([frame.name for frame in frames], [frame.sequence for frame in frames])
        counts = piece_counts(self.dataset(), frames)
        fewest = sum(counts) - int(np.bincount(folds, counts).max())
        if config.batch_size > fewest:
            raise ConfigError(
                f"batch_size must be at most {fewest}, the frames of the smallest training, but got "
                f"{config.batch_size}; lower it"
            )

    def prepare(self) -> torch.device:
        """Gives this process its threads, chooses its device, and keeps it to its share of that.

        Without a share of a GPU it is the processor, whatever cards there are: others may have them. Raises ConfigError
        where a trial was given a GPU that torch cannot use.
        """
        torch.set_num_threads(self.threads)
        cv2.setNumThreads(self.threads)
        share = given_share()
        wanted = self.device == "auto" and (share is None or share.gpus > 0)
        usable = wanted and torch.cuda.is_available()
        # Where Ray was told of GPUs that are not there, as on a cluster for trying things out, it is the processor.
        if wanted and share is not None and not usable and any(_DEVICES.glob("nvidia[0-9]*")):
            raise ConfigError(
                f"a trial was given a GPU on {socket.gethostname()}, but torch {torch.__version__} finds none that it "
                "can use; install a newer driver or the build of torch for yours, or search with --gpus-per-trial 0"
            )
        # The first that it sees: Ray shows a worker its own one. A limit of memory wants its number, too.
        device = torch.device("cuda:0" if usable else "cpu")
        keep_to_share(device)
        return device

    def _folds(self, names: Sequence[str], sequences: Sequence[str]) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
        return assign_folds(names, sequences, self.folds, whole=self.dataset().spec.whole)

    def _trained_on(self) -> list[str]:
        """Which of the data set's splits."""
        wanted = ("train", "val", "gap") if self.with_val else ("train",)
        return [name for name in wanted if name in self.dataset().splits]


_DEVICES = Path("/dev")
"""Where NVIDIA's driver shows its cards."""


@lru_cache(maxsize=4)
def _dataset(data: str | ObjectPath, cache: Path, limit: int, split: Split) -> Dataset:
    if split == "official":
        return open_dataset(data, cache, limit)
    return _dataset(data, cache, limit, "official").in_blocks()


@lru_cache(maxsize=4)
def _first_shape(data: str | ObjectPath, cache: Path, limit: int) -> tuple[int, int]:
    return first_shape(_dataset(data, cache, limit, "official"))


@lru_cache(maxsize=8)
def _frames(data: str | ObjectPath, cache: Path, limit: int, split: Split, name: str, size: tuple[int, int]) -> Frames:
    """Memory maps, so that trial after trial in one process shares them with all others.

    They are kept as the folders have them, so that no frame is decoded once more for another split.
    """
    if split == "official" or name == "test":
        return load_frames(_dataset(data, cache, limit, "official"), name, size, cache, limit)
    train, val = (_frames(data, cache, limit, "official", each, size) for each in ("train", "val"))
    stored = train.join(val)
    rows_of: dict[str, list[int]] = {}
    for row, parent in enumerate(stored.parents):
        rows_of.setdefault(parent, []).append(row)
    return stored.subset(
        row for frame in _dataset(data, cache, limit, split).splits[name] for row in rows_of[frame.name]
    )


def shuffled_rows(config: BaseConfig | MetaConfig, epoch: int, count: int) -> Iterator[tuple[list[int], list[int]]]:
    """An epoch's batches: rows in 0..count-1, and a seed for each row's augmentation; full batches only.

    Both depend on the config's seed, the epoch and the row alone, so that a resumed epoch draws the same.
    """
    order = np.random.default_rng([config.seed, epoch]).permutation(count)
    seeds = np.random.default_rng([config.seed, epoch, 1]).integers(0, 2**31, count)
    for start in range(0, count - config.batch_size + 1, config.batch_size):
        rows = order[start : start + config.batch_size].tolist()
        yield rows, [int(seeds[row]) for row in rows]


def as_images(images: Sequence[Deep]) -> torch.Tensor:
    """Images (h, w, C) as one tensor (B, C, h, w), stored channels last: uint8, or float32 of what has 16 bits."""
    stacked = np.stack(images)
    # On 16 bits torch can do next to nothing.
    return torch.from_numpy(stacked if stacked.dtype == np.uint8 else stacked.astype(np.float32)).permute(0, 3, 1, 2)
