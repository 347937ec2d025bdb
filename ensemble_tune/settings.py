"""What every stage of a run shares: the data, the run folder, and one trial's share of the machines."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import get_args

from ensemble_tune.ensemble.disk_cache import DEFAULT_LIMIT, GIB, default_cache
from ensemble_tune.ensemble.split import Split
from ensemble_tune.ensemble.stage_data import StageData
from ensemble_tune.errors import ConfigError, suggest
from ensemble_tune.object_path import ObjectPath
from ensemble_tune.storage import Location, location, make_folder
from ensemble_tune.tune.record import TrialRecord
from ensemble_tune.tune.watcher import Watcher
from ensemble_tune.tune.workers import Workers

PREDICTIONS = "predictions"
METRIC = "miou"
TRIALS_NEED = "ensemble_tune.ensemble.base_trial"
"""The module that takes workers longest to import."""


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What every stage of a run shares."""

    data: str
    """A folder in the CamVid layout, here or in an object store, or "synthetic" for built-in street scenes."""
    out: Location
    """The run folder: ledger, checkpoints, predictions; a text will do, s3://bucket/folder too."""
    cache: Path = field(default_factory=default_cache)
    """Decoded frames; local to each machine."""
    cache_limit: float = DEFAULT_LIMIT / GIB
    """GiB that decoded frames may take; those unused for longest go first."""
    library_limit: float = 10.0
    """GiB that the predictions of base models that may be fused may take in the run folder."""
    folds: int = 3
    """Blocks that the training frames are cut into for out-of-fold predictions."""
    split: Split = "official"
    """What is held out as val: the data set's own val, or "blocks" of every sequence of train and val together."""
    seed: int = 0
    """Proposals, initial weights, the order of frames, augmentation."""
    workers: Workers = field(default_factory=lambda: Workers(imports=TRIALS_NEED))
    """Where trials run, and each one's share of a machine."""
    tensorboard: Path | None = None
    """A local folder for TensorBoard's logs of all trials, one folder a run; None writes none."""
    say: Callable[[str], None] = lambda line: None
    """Called with what a person may want to know, for example to print it."""
    on_trial: Callable[[TrialRecord], None] = lambda record: None
    """Called with every trial that ends, for example to print it."""
    watcher: Watcher = field(default_factory=Watcher)
    """Looks on while trials run: what the command line's screen is."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "out", location(self.out))
        object.__setattr__(self, "cache", Path(self.cache))
        if self.tensorboard is not None:
            object.__setattr__(self, "tensorboard", Path(self.tensorboard))

    def stage_data(self, *, with_val: bool = False) -> StageData:
        """The frames as trials see them; the data set is checked at once. Raises DataError or ConfigError."""
        if not 0 < self.cache_limit < math.inf:
            raise ConfigError(f"--cache-limit must be above 0 GiB, but got {self.cache_limit}; try 100")
        if not 0 < self.library_limit < math.inf:
            raise ConfigError(f"--library-limit must be above 0 GiB, but got {self.library_limit}; try 10")
        if self.split not in get_args(Split):
            raise ConfigError(f"--split cannot be {self.split!r}; {suggest(self.split, get_args(Split))}")
        make_folder(self.cache)
        data = StageData(
            data=self._place_of_data(),
            cache=self.cache.absolute(),
            cache_limit=int(self.cache_limit * GIB),
            folds=self.folds,
            split=self.split,
            with_val=with_val,
            threads=self.workers.resources.threads,
            device="cpu" if self.workers.resources.gpus == 0 else "auto",
        )
        frames = len(data.dataset().splits["train"])
        if not 2 <= self.folds <= frames:
            raise ConfigError(
                f"--folds must be at least 2 and at most the {frames} training frames, but got {self.folds}"
            )
        return data

    def decoded(self, data: StageData, size: tuple[int, int]) -> Callable[[], None]:
        """Decodes train and val into the cache when it is called, if trials run on this machine.

        They would do so themselves; but here it is seen how far it is, and no trial's time counts what all wait for.
        """

        def decode() -> None:
            for split in ("train", "val") if self.workers.here else ():
                data.frames(split, size)

        return decode

    def _place_of_data(self) -> str | ObjectPath:
        """The data's name as workers understand it: their working folder and their environment are others."""
        if self.data.partition(":")[0] == "synthetic":
            return self.data
        place = location(self.data).absolute()
        return str(place) if isinstance(place, Path) else place
