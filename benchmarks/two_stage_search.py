"""Our side of `two_stage.py`: python benchmarks/two_stage_search.py CAMVID FOLDER in-sample|out-of-fold"""

from __future__ import annotations

import json
import sys
import time
from itertools import pairwise
from pathlib import Path
from typing import cast

from ensemble_tune.ensemble.base_trial import BaseTrial
from ensemble_tune.ensemble.config import BaseConfig, MetaConfig
from ensemble_tune.ensemble.manifest import Stacking
from ensemble_tune.ensemble.meta_trial import BASES, DEPLOY, MEMBERS, STACKING, MetaTrial
from ensemble_tune.library import member_config, predict
from ensemble_tune.meta_search import predicted_parts
from ensemble_tune.settings import METRIC, PREDICTIONS, Settings
from ensemble_tune.tune.record import rank
from ensemble_tune.tune.search import Search

# What the peer's OptunaSearch(seed=0) draws.
BASE_TRIALS = (
    ("unetplusplus", 0.001229607110732572, 8),
    ("deeplabv3", 0.0005846326121643416, 4),
    ("unetplusplus", 0.0001493683554419846, 8),
    ("deeplabv3", 0.00396567508177101, 8),
    ("unetplusplus", 0.007750644796341917, 4),
    ("unetplusplus", 0.0013704648392849023, 8),
)
META_TRIALS = (
    ("depthwise_cbam", 0.0007035737028722148, 4),
    ("depthwise_cbam", 0.0011423254155608373, 8),
    ("group_eca", 0.003600092911192911, 8),
    ("standard_se", 0.001904767808428205, 8),
)
# As the peer trains, whatever our own defaults are; half our augmentation is as much as the peer's.
SIZE, EPOCHS, WIDTH = (96, 128), 2, 32
AS_PEER = {
    "schedule": "constant",
    "class_weights": "none",
    "weight_decay": 0.01,
    "gradient_clip": 0.0,
    "averaging": 0.0,
    "jaccard_weight": 0.0,
}
BASE_AS_PEER = {**AS_PEER, "encoder": "mobilenet_v2", "augmentation": 0.5}
META_AS_PEER = {**AS_PEER, "output": "correction", "depth": 3, "augmentation": 0.0}


def main(data: str, folder: Path, stacking: Stacking) -> None:
    """Prints the seconds of each part and the best scores, as JSON."""
    marks = [time.perf_counter()]
    settings = Settings(data=data, out=folder / "run", cache=folder / "cache")
    frames = settings.stage_data()
    provenance = frames.provenance()
    with settings.workers:
        bases = [
            BaseConfig.from_params(
                {
                    **BASE_AS_PEER,
                    "architecture": architecture,
                    "size": SIZE,
                    "epochs": EPOCHS,
                    "batch_size": batch_size,
                    "learning_rate": learning_rate,
                }
            )
            for architecture, learning_rate, batch_size in BASE_TRIALS
        ]
        found = Search(
            trial=BaseTrial(data=frames),
            metric=METRIC,
            stage="base",
            keep=len(bases),
            out=settings.out,
            max_epochs=EPOCHS,
            points=[{**config.to_params(), "seed": number} for number, config in enumerate(bases)],
            workers=settings.workers,
            provenance=provenance,
        ).run()
        marks.append(time.perf_counter())
        ranked = rank(found.records, "max")
        chosen = list({record.params["architecture"]: record for record in reversed(ranked)}.values())
        members = {record.trial: member_config(record) for record in chosen}
        predict(settings, frames, members, predicted_parts(frames, ("refit",), stacking))
        marks.append(time.perf_counter())
        metas = [
            MetaConfig.from_params(
                {
                    **META_AS_PEER,
                    "kind": kind,
                    "width": WIDTH,
                    "size": SIZE,
                    "epochs": EPOCHS,
                    "batch_size": batch_size,
                    "learning_rate": learning_rate,
                }
            )
            for kind, learning_rate, batch_size in META_TRIALS
        ]
        own = {MEMBERS: ",".join(members), BASES: "all", DEPLOY: "refit", STACKING: stacking}
        fused = Search(
            trial=MetaTrial(data=frames, store=settings.out.absolute() / PREDICTIONS, library=members),
            metric=METRIC,
            stage="meta",
            keep=len(metas),
            out=settings.out,
            max_epochs=EPOCHS,
            points=[{**config.to_params(), **own, "seed": number} for number, config in enumerate(metas)],
            workers=settings.workers,
            provenance=provenance,
        ).run()
        marks.append(time.perf_counter())
    parts = dict(zip(("base_s", "predictions_s", "meta_s"), (b - a for a, b in pairwise(marks)), strict=True))
    assert found.best is not None and fused.best is not None
    best = {"base_best": found.best.score, "meta_best": fused.best.score}
    print(json.dumps({name: round(value or 0.0, 3) for name, value in (parts | best).items()}))


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), cast(Stacking, sys.argv[3]))
