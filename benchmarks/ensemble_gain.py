"""What each fusion gains over the simpler ones and over one model that was given the ensemble's whole training compute.

python benchmarks/ensemble_gain.py CAMVID --out FOLDER [--seeds 3] [--size 60x80] [--trials 3] [--epochs 12] ...

For each seed a search of base models, the fold trainings of the chosen three, and a search of fusions, all with
mirrored frames (test-time augmentation), then a final training of every kind of fusion, measured on test. Beside them
the best base model's configuration, trained for as many seconds as all trainings of the ensemble took, mirrored frames
too. Figures are means over seeds; intervals are of cross-fitted blocks, drawn within sequences (bootstrap.py).

So that 12 epochs are enough to learn, and many times as many bring little, encoders start from ImageNet weights
(imagenet_encoder.py fetches them); --scratch starts from none. Two folds keep the single model affordable: it too must
be trained once more for every fold, each time for as long as the whole ensemble.

Goes on where it was interrupted: FOLDER holds an ordinary run a seed.
"""

from __future__ import annotations

import argparse
import math
import statistics
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from imagenet_encoder import ENCODER, fetch

from ensemble_tune.base_search import search_base
from ensemble_tune.comparison import Comparison, current_comparison, measured
from ensemble_tune.ensemble.bootstrap import gain
from ensemble_tune.ensemble.config import BaseConfig
from ensemble_tune.ensemble.evidence import EVIDENCE, Evidence, evidence_name
from ensemble_tune.ensemble.manifest import EnsembleManifest
from ensemble_tune.ensemble.meta_trial import (
    BASES,
    BLOCK,
    DEPLOY,
    FOLDS,
    MEMBERS,
    OF,
    STACKING,
    MetaTrial,
    evidence_identity,
)
from ensemble_tune.export import export_best
from ensemble_tune.final_training import train
from ensemble_tune.library import member_config, predict
from ensemble_tune.meta_search import predicted_parts, search_meta
from ensemble_tune.points import Point, train_points
from ensemble_tune.settings import PREDICTIONS, Settings
from ensemble_tune.strategy import Strategy
from ensemble_tune.tune.ledger import LEDGER, Ledger
from ensemble_tune.tune.record import Status, TrialRecord, rank

SINGLE, WEIGHTS = "single, all compute", "imagenet.safetensors"
BASE_SPACE = f"""
[parameters]
architecture = {{ choices = ["unet", "unetplusplus", "deeplabv3plus"] }}
encoder = "{ENCODER}"
learning_rate = {{ low = 5e-4, high = 5e-3, log = true }}
batch_size = 4
jaccard_weight = {{ low = 0.2, high = 0.7 }}
class_weights = {{ choices = ["log", "sqrt"] }}
augmentation = {{ low = 0.1, high = 0.4 }}
"""
FUSION_SPACE = """
[parameters]
kind = { choices = ["plain", "standard_se", "depthwise_cbam", "dilated_spatial", "group_eca"] }
width = { choices = [16, 32] }
depth = { low = 1, high = 3 }
base_dropout = { choices = [0.0, 0.1] }
use_image = { choices = [false, true] }
log_probabilities = { choices = [false, true] }
learning_rate = { low = 1e-3, high = 1e-2, log = true }
batch_size = 8
class_weights = { choices = ["log", "sqrt"] }
flip = true
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("camvid")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--size", default="60x80")
    parser.add_argument("--folds", type=int, default=2)
    parser.add_argument("--trials", type=int, default=3)
    parser.add_argument("--epochs", type=int, default=12)
    parser.add_argument("--scratch", action="store_true")
    parser.add_argument("--meta-trials", type=int, default=5)
    parser.add_argument("--meta-epochs", type=int, default=8)
    given = parser.parse_args()
    given.out.mkdir(parents=True, exist_ok=True)
    (given.out / "bases.toml").write_text(BASE_SPACE)
    (given.out / "fusions.toml").write_text(FUSION_SPACE)
    if not given.scratch and not (given.out / WEIGHTS).exists():
        fetch(given.out / WEIGHTS)
    seeds = [Seed(given, seed) for seed in range(given.seeds)]
    for seed in seeds:
        seed.run()
    table(seeds)


class Seed:
    """One seed's run."""

    def __init__(self, given: argparse.Namespace, seed: int) -> None:
        self.given = given
        out = given.out / f"seed-{seed}"
        self.settings = Settings(data=given.camvid, out=out, folds=given.folds, seed=seed, say=print)
        self.data = self.settings.stage_data()
        self.evidence: dict[str, Evidence] = {}
        """Cross-fitted, by fusion."""
        self.val: dict[str, float] = {}
        self.test: dict[str, dict[str, float]] = {}
        self.milliseconds: dict[str, float] = {}

    def run(self) -> None:
        """Searches, trains, measures, or goes on."""
        given, own = self.given, self.settings
        with own.workers:
            search_base(
                own,
                space=given.out / "bases.toml",
                trials=given.trials,
                epochs=given.epochs,
                size=given.size,
                encoder_weights=None if given.scratch else str((given.out / WEIGHTS).absolute()),
                strategy=Strategy(scheduler="none"),
            )
            search_meta(own, space=given.out / "fusions.toml", trials=given.meta_trials, epochs=given.meta_epochs)
            ended = [record for record in self._trials("meta") if record.status is not Status.RUNNING]
            comparison = current_comparison(own.out, rank(ended, "max"))
            assert comparison is not None
            for fusion in comparison.fusions:
                blocks = [self._evidence(fusion.trial, block) for block in range(1, self.data.folds + 1)]
                self.evidence[fusion.name] = blocks[0].join(*blocks[1:])
                self.val[fusion.name] = fusion.val.miou
                self.milliseconds[fusion.name] = fusion.costs["milliseconds"]
                manifest = export_best(own.out, own.out / f"{fusion.trial}.toml", rule=fusion.trial)
                self.test[fusion.name] = self._measure(manifest, fusion.trial)
            self._single(comparison)
        print(f"seed {own.seed}: exported {comparison.chosen.name}", flush=True)

    def _measure(self, manifest: EnsembleManifest, name: str) -> dict[str, float]:
        """The scores on test."""
        final = train(manifest, replace(self.settings, out=self.settings.out / f"final-{name}"), run=self.settings.out)
        return final.scores

    def _single(self, comparison: Comparison) -> None:
        """The best base model, trained for as long as the ensemble was."""
        bases = {record.trial: record for record in self._trials("base")}
        best = bases[str(max(comparison.members, key=lambda member: float(member["miou"]))["trial"])]
        fusions = sum(record.seconds for record in self._trials("compare") if record.params[BLOCK] == 0)
        seconds = sum(float(member["train_seconds"]) for member in comparison.members) + fusions
        epochs = max(2, round(best.epochs * seconds / best.seconds))
        config = replace(member_config(best), epochs=epochs, stop_epoch=None)
        print(f"seed {self.settings.seed}: the ensemble took {seconds:.0f} s; {best.trial} alone, {epochs} epochs")
        parts = predicted_parts(self.data, ("refit",), "out-of-fold")
        predict(self.settings, self.data, {SINGLE: config}, parts, (True,))
        points: list[Point] = [
            {
                "kind": "mean",
                "flip": True,
                "size": self.given.size,
                MEMBERS: SINGLE,
                BASES: "1",
                DEPLOY: "refit",
                STACKING: "out-of-fold",
                FOLDS: self.data.folds,
                OF: SINGLE,
                BLOCK: block,
                "seed": 0,
            }
            for block in range(self.data.folds + 1)
        ]
        folder = self.settings.out.absolute() / EVIDENCE
        trial = MetaTrial(
            data=self.data,
            store=self.settings.out.absolute() / PREDICTIONS,
            library={SINGLE: config},
            evidence=folder,
        )
        train_points(
            self.settings, stage="single", trial=trial, points=points, provenance=self.data.provenance(), keep=0
        )
        found = [Evidence.open(folder / evidence_name(SINGLE, int(p[BLOCK])), evidence_identity(p)) for p in points]
        self.evidence[SINGLE], self.val[SINGLE] = found[1].join(*found[2:]), measured(found[0]).miou
        self.milliseconds[SINGLE] = self.milliseconds["best single"]
        self.test[SINGLE] = self._measure(self._manifest(config), "single")
        curve = [
            row.scores["miou"] for row in Ledger(self.settings.out / LEDGER).epochs("fold") if self._is_long(row.trial)
        ]
        half = len(curve) // 2
        print(
            f"its best val mIoU in the first half of its epochs {max(curve[:half], default=math.nan):.3f}, "
            f"in all {max(curve):.3f}"
        )

    def _is_long(self, trial: str) -> bool:
        record = next(record for record in self._trials("fold") if record.trial == trial)
        return record.params["member"] == SINGLE and record.params["fold"] == 0

    def _manifest(self, config: BaseConfig) -> EnsembleManifest:
        """The single model as an ensemble of one."""
        any_fusion = export_best(self.settings.out, self.settings.out / "any.toml").fusion
        return EnsembleManifest(bases=(config,), fusion=replace(any_fusion, kind="mean", stop_epoch=None, flip=True))

    def _evidence(self, trial: str, block: int) -> Evidence:
        """That of a fusion's fit on the other blocks."""
        records = [r for r in self._trials("compare") if r.params[OF] == trial and r.params[BLOCK] == block]
        identity = evidence_identity({**records[-1].params, "seed": records[-1].seed})
        return Evidence.open(self.settings.out.absolute() / EVIDENCE / evidence_name(trial, block), identity)

    def _trials(self, stage: str) -> Sequence[TrialRecord]:
        return Ledger(self.settings.out / LEDGER).trials(stage)


def table(seeds: Sequence[Seed]) -> None:
    """Prints a row a fusion that every seed has."""
    names = [name for name in seeds[0].evidence if all(name in seed.evidence for seed in seeds)]
    print(f"\n{len(seeds)} seeds; gains in points of cross-fitted mIoU, with 95% intervals")
    print(
        f"{'':20}{'crossfit':>9}{'small':>7}{'val':>7}{'test':>7}{'small':>7}{'ms':>6}"
        f"{'over the mean':>24}{'over ' + SINGLE:>30}"
    )
    for name in names:
        crossfit = [measured(seed.evidence[name]) for seed in seeds]
        cells = [
            statistics.fmean(each.miou for each in crossfit),
            statistics.fmean(each.small_miou for each in crossfit),
            statistics.fmean(seed.val[name] for seed in seeds),
            statistics.fmean(seed.test[name]["miou"] for seed in seeds),
            statistics.fmean(seed.test[name]["small_miou"] for seed in seeds),
        ]
        gains = [over(seeds, name, other) if name != other else "" for other in ("mean", SINGLE)]
        shown = "".join(f"{cell:7.3f}" for cell in cells[1:])
        ms = statistics.fmean(seed.milliseconds[name] for seed in seeds)
        print(f"{name:20}{cells[0]:9.3f}{shown}{ms:6.1f}{gains[0]:>24}{gains[1]:>30}")
    spread = [statistics.pstdev([measured(seed.evidence[name]).miou for seed in seeds]) for name in names]
    print(f"standard deviation of the cross-fitted mIoU over seeds: {min(spread):.3f} to {max(spread):.3f}")


def over(seeds: Sequence[Seed], name: str, other: str) -> str:
    """A gain in points with its interval."""
    found = gain([seed.evidence[name] for seed in seeds], [seed.evidence[other] for seed in seeds])
    return f"{100 * found.value:+.2f} ({100 * found.low:+.2f}, {100 * found.high:+.2f})"


if __name__ == "__main__":
    main()
