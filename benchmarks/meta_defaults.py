"""Which defaults a meta-model deserves: each setting changed alone, on the members that ensemble_gain.py trained.

python benchmarks/meta_defaults.py CAMVID RUN --out FOLDER [--seeds 3] [--epochs 8] [--names NAME ...]

RUN is the folder of `ensemble_gain.py`: its members and their out-of-fold predictions are taken. For each of its seeds
the default meta-model, and others that differ from it by one setting, are fitted to all blocks of the training frames
but one and scored on that, with mirrored frames; val and test are not looked at. Gains are in points of cross-fitted
mIoU, with 95% intervals over blocks within sequences and over seeds. How settings act together is not seen.

Goes on where it was interrupted; --names fits the default and these alone.
"""

from __future__ import annotations

import argparse
import re
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path

from ensemble_gain_table import points

from ensemble_tune.comparison import measured
from ensemble_tune.ensemble.bootstrap import gain
from ensemble_tune.ensemble.config import MetaConfig
from ensemble_tune.ensemble.evidence import EVIDENCE, Evidence
from ensemble_tune.ensemble.meta_trial import (
    BASES,
    BLOCK,
    DEPLOY,
    FOLDS,
    MEMBERS,
    OF,
    STACKING,
    MetaTrial,
    open_evidence,
)
from ensemble_tune.library import member_config
from ensemble_tune.points import Point, train_points
from ensemble_tune.settings import PREDICTIONS, Settings
from ensemble_tune.trial import Value
from ensemble_tune.tune.ledger import LEDGER, Ledger
from ensemble_tune.tune.record import Status, rank

DEFAULT, MEAN = "default", "mean"
VARIANTS: Mapping[str, Mapping[str, Value]] = {
    DEFAULT: {},
    MEAN: {"kind": "mean"},
    "correction": {"output": "correction"},
    "correction, slowly": {"output": "correction", "learning_rate": 3e-4},
    "correction, cross-entropy": {"output": "correction", "jaccard_weight": 0.0, "class_weights": "log"},
    **{f"kind {kind}": {"kind": kind} for kind in ("plain", "standard_se", "depthwise_cbam", "group_eca")},
    **{f"width {width}": {"width": width} for width in (16, 64)},
    "depth 1": {"depth": 1},
    "scale 0.5": {"scale": 0.5},
    **{f"base dropout {share}": {"base_dropout": share} for share in (0.1, 0.3)},
    "image seen": {"use_image": True},
    "logarithms": {"log_probabilities": True},
    **{f"class weights {name}": {"class_weights": name} for name in ("none", "log")},
    "cross-entropy alone": {"jaccard_weight": 0.0},
    "augmentation 0.3": {"augmentation": 0.3},
    **{f"learning rate {rate}": {"learning_rate": rate} for rate in (1e-3, 1e-2)},
    "weight decay 0.01": {"weight_decay": 1e-2},
    "last weights": {"averaging": 0.0},
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("camvid")
    parser.add_argument("run", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--epochs", type=int, default=8)
    parser.add_argument("--names", nargs="+", default=list(VARIANTS), choices=VARIANTS, metavar="NAME")
    given = parser.parse_args()
    names = list(dict.fromkeys([DEFAULT, *given.names]))
    found = [
        crossfitted(given.camvid, given.run / f"seed-{seed}", given.out / f"seed-{seed}", seed, given.epochs, names)
        for seed in range(given.seeds)
    ]
    show(found)


def crossfitted(camvid: str, run: Path, out: Path, seed: int, epochs: int, names: Sequence[str]) -> dict[str, Evidence]:
    """Fits the variants on a seed's members, or goes on; by name, what each made of frames it was not fitted to."""
    trials = Ledger(run / LEDGER).trials("meta")
    best = rank([record for record in trials if record.status is Status.FINISHED], "max")[0].params
    bases = {record.trial: record for record in Ledger(run / LEDGER).trials("base")}
    library = {name: member_config(bases[name]) for name in str(best[MEMBERS]).split(",")}
    own = Settings(data=camvid, out=out, folds=int(best[FOLDS]), seed=seed, say=print)
    data, folder = own.stage_data(), out.absolute() / EVIDENCE
    size = next(iter(library.values())).size

    def fits(name: str) -> list[Point]:
        config = MetaConfig.from_params({**VARIANTS[name], "size": size, "epochs": epochs, "seed": seed, "flip": True})
        of = re.sub(r"\W+", "-", name)
        beside: Point = {MEMBERS: best[MEMBERS], BASES: "all", DEPLOY: "refit", STACKING: "out-of-fold", OF: of}
        blocks = range(1, data.folds + 1)
        return [{**config.to_params(), **beside, FOLDS: data.folds, BLOCK: block} for block in blocks]

    trial = MetaTrial(data=data, store=run.absolute() / PREDICTIONS, library=library, evidence=folder)
    wanted = [point for name in names for point in fits(name)]
    with own.workers:
        train_points(own, stage="fit", trial=trial, points=wanted, provenance=data.provenance(), keep=0)

    found = {name: [open_evidence(folder, point) for point in fits(name)] for name in names}
    return {name: first.join(*others) for name, (first, *others) in found.items()}


def show(seeds: Sequence[Mapping[str, Evidence]]) -> None:
    """A row a variant, the best first."""
    scores = {name: statistics.fmean(measured(seed[name]).miou for seed in seeds) for name in seeds[0]}
    default = [seed[DEFAULT] for seed in seeds]
    print(f"\n{len(seeds)} seeds; gains over the default in points, with 95% intervals")
    print(f"{'':30}{'crossfit':>9}{'gain':>22}{'of small objects':>24}")
    for name in sorted(scores, key=lambda name: -scores[name]):
        own = [seed[name] for seed in seeds]
        gains = [points(gain(own, default, classes=of)) for of in (None, default[0].small)] if name != DEFAULT else []
        print(f"{name:30}{scores[name]:9.3f}" + "".join(f"{each:>23}" for each in gains))


if __name__ == "__main__":
    main()
