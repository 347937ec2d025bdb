"""What a run has trained and kept the weights of, so that it is not trained twice."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import replace

from ensemble_tune.ensemble.config import BaseConfig, MetaConfig
from ensemble_tune.ensemble.training_state import holds_training_of
from ensemble_tune.errors import RunError
from ensemble_tune.storage import Location
from ensemble_tune.trial import StoredCheckpoint
from ensemble_tune.tune.trial_folder import CHECKPOINTS, TrialFolder, rows_of


def trained_before(out: Location, trial: str, config: BaseConfig | MetaConfig) -> StoredCheckpoint | None:
    """The checkpoint of a trial of the run folder `out`, where it trained `config` as far as that goes; else None.

    With it come the scores that its rows tell, unless they are damaged.
    """
    checkpoint = TrialFolder(out.absolute() / CHECKPOINTS / trial).at(config.stop_epoch or config.epochs)
    if checkpoint is None or not holds_training_of(checkpoint.folder, config):
        return None
    with suppress(RunError):
        scores = {row.epoch: row.scores for row in rows_of(checkpoint)}.get(checkpoint.epoch)
        checkpoint = replace(checkpoint, scores=scores)
    return checkpoint
