"""Distributed hyper-parameter search for two-stage semantic-segmentation ensembles.

    from ensemble_tune import Settings, export_best, search_base, search_meta, segment_images, train

    settings = Settings(data="CamVid", out="runs/camvid")
    search_base(settings, trials=30, epochs=50, size="360x480")
    search_meta(settings, trials=30)
    train(export_best(settings.out, "best.toml"), Settings(data="CamVid", out="runs/final"))
    list(segment_images("runs/final", "photos", "masks"))

A search of anything else takes `Search`, `SearchSpace` and a generator of `EpochResult`.
"""

from __future__ import annotations

import os
from importlib import import_module
from typing import TYPE_CHECKING

# albumentations asks PyPI for a newer version whenever it is imported, and warns where it gets no answer: nothing that
# whoever trains could mend, and each worker would ask. All of them import this package first.
os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")

if TYPE_CHECKING:
    from ensemble_tune.base_search import search_base as search_base
    from ensemble_tune.convert import convert_ensemble as convert_ensemble
    from ensemble_tune.ensemble.config import BaseConfig as BaseConfig
    from ensemble_tune.ensemble.config import MetaConfig as MetaConfig
    from ensemble_tune.ensemble.manifest import EnsembleManifest as EnsembleManifest
    from ensemble_tune.ensemble.trained_ensemble import TrainedEnsemble as TrainedEnsemble
    from ensemble_tune.errors import EnsembleTuneError as EnsembleTuneError
    from ensemble_tune.export import export_best as export_best
    from ensemble_tune.final_training import train as train
    from ensemble_tune.meta_search import search_meta as search_meta
    from ensemble_tune.report.page import write_report as write_report
    from ensemble_tune.run import run_all as run_all
    from ensemble_tune.saved_ensemble import load_ensemble as load_ensemble
    from ensemble_tune.segment import segment_images as segment_images
    from ensemble_tune.settings import Settings as Settings
    from ensemble_tune.trial import Checkpoint as Checkpoint
    from ensemble_tune.trial import EpochResult as EpochResult
    from ensemble_tune.trial import Share as Share
    from ensemble_tune.trial import Trial as Trial
    from ensemble_tune.trial import given_share as given_share
    from ensemble_tune.tune.budget import Budget as Budget
    from ensemble_tune.tune.budget import Target as Target
    from ensemble_tune.tune.ledger import Ledger as Ledger
    from ensemble_tune.tune.record import Objective as Objective
    from ensemble_tune.tune.resources import Resources as Resources
    from ensemble_tune.tune.search import Search as Search
    from ensemble_tune.tune.search_space import SearchSpace as SearchSpace
    from ensemble_tune.tune.workers import Workers as Workers

# Imported when first asked for, so that reading a ledger or printing help imports no torch.
_HOME = {
    "BaseConfig": "ensemble.config",
    "Budget": "tune.budget",
    "Checkpoint": "trial",
    "EnsembleManifest": "ensemble.manifest",
    "EnsembleTuneError": "errors",
    "EpochResult": "trial",
    "Ledger": "tune.ledger",
    "MetaConfig": "ensemble.config",
    "Objective": "tune.record",
    "Resources": "tune.resources",
    "Search": "tune.search",
    "SearchSpace": "tune.search_space",
    "Settings": "settings",
    "Share": "trial",
    "Target": "tune.budget",
    "TrainedEnsemble": "ensemble.trained_ensemble",
    "Trial": "trial",
    "Workers": "tune.workers",
    "convert_ensemble": "convert",
    "export_best": "export",
    "given_share": "trial",
    "load_ensemble": "saved_ensemble",
    "run_all": "run",
    "search_base": "base_search",
    "search_meta": "meta_search",
    "segment_images": "segment",
    "train": "final_training",
    "write_report": "report.page",
}
__all__ = sorted(_HOME)


def __getattr__(name: str) -> object:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOME[name]}"), name)
