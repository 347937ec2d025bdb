"""What each fusion gains over the simpler ones and over one model that was given the ensemble's whole training compute.

python benchmarks/ensemble_gain.py CAMVID --out FOLDER [--seeds 3] [--size 60x80] [--trials 4] [--epochs 12] ...

For each seed a search of base models (one of each architecture and a drawn one), the fold trainings of the chosen
three, and a fusion of every kind, all with mirrored frames (test-time augmentation); each fusion is then measured on
test, its members trained on all training frames. Beside them the best base model's configuration, trained for as many
epochs as cost what all trainings of the ensemble did, mirrored frames too; like a member it is worth its best epoch on
val, and its fold models are trained as far. Then the mean of these long trained models of all seeds and a meta-model of
them: what fusing still brings where more epochs bring little. Figures are means over seeds; intervals are of
cross-fitted blocks, drawn within sequences, and of seeds (bootstrap.py).

What an epoch costs is the lower quartile of its seconds over all seeds: what else the machine does slows some epochs,
not most of the quickest. A fold model's epoch costs by its share of the frames; scoring counts nowhere.

So that 12 epochs are enough to learn, and many times as many bring little, encoders start from ImageNet weights
(imagenet_encoder.py fetches them); --scratch starts from none. Two folds keep the single model affordable: it too must
be trained once more for every fold.

Goes on where it was interrupted: FOLDER holds an ordinary run a seed, and one of the single models.
"""

from __future__ import annotations

import argparse
import statistics
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from string import Template

from ensemble_gain_table import SINGLE, Figures, relative, table
from imagenet_encoder import ENCODER, fetch

from ensemble_tune.base_search import search_base
from ensemble_tune.comparison import current_comparison, measured
from ensemble_tune.ensemble.base_trial import BaseTrial
from ensemble_tune.ensemble.config import MetaConfig, MetaKind
from ensemble_tune.ensemble.evidence import EVIDENCE, Evidence
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
    open_evidence,
)
from ensemble_tune.export import export_best
from ensemble_tune.final_training import train
from ensemble_tune.library import member_config, predict
from ensemble_tune.meta_search import predicted_parts, search_meta
from ensemble_tune.points import Point, train_points
from ensemble_tune.settings import METRIC, PREDICTIONS, Settings
from ensemble_tune.strategy import Strategy
from ensemble_tune.trial import Value
from ensemble_tune.tune.ledger import LEDGER, Ledger
from ensemble_tune.tune.record import EpochRecord, Status, TrialRecord, rank
from ensemble_tune.tune.search import Search

EXPORTED, WEIGHTS = "the exported one", "imagenet.safetensors"
LONG = "long"
"""The stage of the single models' trainings."""
TOGETHER: tuple[MetaKind, ...] = ("mean", "plain")
"""What fuses the single models of all seeds."""
ARCHITECTURES = ("unet", "unetplusplus", "deeplabv3plus")
BASE_SPACE = """
[parameters]
architecture = { choices = ["unet", "unetplusplus", "deeplabv3plus"] }
encoder = "$encoder"
learning_rate = { low = 5e-4, high = 5e-3, log = true }
batch_size = $batch_size
jaccard_weight = { low = 0.2, high = 0.7 }
class_weights = { choices = ["log", "sqrt"] }
augmentation = { low = 0.1, high = 0.4 }
"""
BASE_POINT = """
[[points]]
architecture = "{}"
learning_rate = 1.5e-3
jaccard_weight = 0.5
class_weights = "sqrt"
augmentation = 0.2
"""
KINDS = ("plain", "standard_se", "depthwise_cbam", "dilated_spatial", "group_eca")
FUSION_SPACE = """
[parameters]
kind = { choices = ["plain", "standard_se", "depthwise_cbam", "dilated_spatial", "group_eca"] }
flip = true
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("camvid")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--size", default="60x80")
    parser.add_argument("--folds", type=int, default=2)
    parser.add_argument("--trials", type=int, default=4, help="base models, one of each architecture among them")
    parser.add_argument("--epochs", type=int, default=12)
    parser.add_argument("--batch-size", type=int, default=4, help="of base models; larger ones make shorter epochs")
    parser.add_argument("--scratch", action="store_true")
    parser.add_argument("--meta-epochs", type=int, default=8)
    parser.add_argument("--no-single", action="store_true", help="leave out the long training, half of all time")
    given = parser.parse_args()
    given.out.mkdir(parents=True, exist_ok=True)
    space = Template(BASE_SPACE).substitute(encoder=ENCODER, batch_size=given.batch_size)
    (given.out / "bases.toml").write_text(space)
    (given.out / "base-points.toml").write_text("".join(map(BASE_POINT.format, ARCHITECTURES)))
    (given.out / "fusions.toml").write_text(FUSION_SPACE)
    (given.out / "fusion-points.toml").write_text("".join(f'[[points]]\nkind = "{kind}"\n' for kind in KINDS))
    if not given.scratch and not (given.out / WEIGHTS).exists():
        fetch(given.out / WEIGHTS)
    seeds = [Seed(given, seed) for seed in range(given.seeds)]
    for seed in seeds:
        seed.run()
    if not given.no_single:
        Singles(given, seeds).run()
    table([seed.found for seed in seeds])


@dataclass
class Seed:
    """One seed's run."""

    given: argparse.Namespace
    seed: int
    found: dict[str, Figures] = field(default_factory=dict)
    """By fusion, and of the single model."""

    @cached_property
    def settings(self) -> Settings:
        """Of its run folder."""
        out = self.given.out / f"seed-{self.seed}"
        return Settings(data=self.given.camvid, out=out, folds=self.given.folds, seed=self.seed, say=print)

    def run(self) -> None:
        """Searches, trains, measures, or goes on."""
        given, own = self.given, self.settings
        data = own.stage_data()
        with own.workers:
            search_base(
                own,
                space=given.out / "bases.toml",
                trials=max(0, given.trials - len(ARCHITECTURES)),
                epochs=given.epochs,
                size=given.size,
                encoder_weights=None if given.scratch else str((given.out / WEIGHTS).absolute()),
                strategy=Strategy(scheduler="none", points=given.out / "base-points.toml"),
            )
            search_meta(
                own,
                space=given.out / "fusions.toml",
                trials=0,
                epochs=given.meta_epochs,
                strategy=Strategy(scheduler="none", points=given.out / "fusion-points.toml"),
            )
            comparison = current_comparison(own.out, rank(self.trials("meta"), "max"))
            assert comparison is not None
            for fusion in comparison.fusions:
                blocks = [self._evidence(fusion.trial, block) for block in range(1, data.folds + 1)]
                manifest = export_best(own.out, own.out / f"{fusion.trial}.toml", rule=fusion.trial)
                self.found[fusion.name] = Figures(
                    evidence=blocks[0].join(*blocks[1:]),
                    val=fusion.val.miou,
                    test=on_test(manifest, own, fusion.trial),
                    milliseconds=fusion.costs["milliseconds"],
                )
        self.found[EXPORTED] = self.found[comparison.chosen.name]
        self.members = [str(member["trial"]) for member in comparison.members]
        print(f"seed {self.seed}: exported {comparison.chosen.name}", flush=True)

    @property
    def best(self) -> TrialRecord:
        """The base model with the highest score on val."""
        return rank(self.trials("base"), "max")[0]

    def trials(self, stage: str) -> list[TrialRecord]:
        """Those that have ended."""
        return [r for r in Ledger(self.settings.out / LEDGER).trials(stage) if r.status is not Status.RUNNING]

    def _evidence(self, trial: str, block: int) -> Evidence:
        """That of a fusion's fit on the other blocks."""
        own = [r for r in self.trials("compare") if r.params[OF] == trial and r.params[BLOCK] == block]
        return open_evidence(self.settings.out.absolute() / EVIDENCE, {**own[-1].params, "seed": own[-1].seed})


def on_test(manifest: EnsembleManifest, settings: Settings, name: str) -> dict[str, float]:
    """The scores on test."""
    return train(manifest, replace(settings, out=settings.out / f"final-{name}"), run=settings.out).scores


class Singles:
    """For every seed the best base model, trained for as long as the ensemble was; all side by side, in one run."""

    def __init__(self, given: argparse.Namespace, seeds: Sequence[Seed]) -> None:
        self.size, self.seeds, self.meta_epochs = given.size, seeds, given.meta_epochs
        self.settings = Settings(data=given.camvid, out=given.out / "single", folds=given.folds, say=print)
        self.data = self.settings.stage_data()
        self.cost = architecture_seconds(seeds)

    def run(self) -> None:
        """Trains, or goes on, and adds what is found to each seed."""
        own, data = self.settings, self.data
        points = [self._point(seed) for seed in self.seeds]
        with own.workers:
            records = Search(
                trial=BaseTrial(data=data),
                metric=METRIC,
                out=own.out,
                stage=LONG,
                max_epochs=1,
                points=points,
                scheduler="none",
                keep=len(points),
                workers=own.workers,
                provenance=data.provenance(),
                prepare=own.decoded(data, member_config(self.seeds[0].best).size),
            ).run()
            ended = [record for record in records.records if record.status is Status.FINISHED]
            singles = [next(record for record in ended if record.is_of(point)) for point in points]
            library = {record.trial: member_config(record) for record in singles}
            predict(own, data, library, predicted_parts(data, ("refit",), "out-of-fold"), (True,))
            for seed, single in zip(self.seeds, singles, strict=True):
                seed.found[SINGLE] = self._figures([single])
                self._tell(seed, single)
            best = max((seed.found[SINGLE] for seed in self.seeds), key=lambda figures: figures.val)
            for kind in TOGETHER if len(singles) > 1 else ():
                name = f"{kind} of the singles"
                fused = self._figures(singles, kind)
                for seed in self.seeds:
                    seed.found[name] = fused
                print(f"{name} over the one with the best val: {relative([{'a': fused, 'b': best}], 'a', 'b')}")

    def _point(self, seed: Seed) -> dict[str, Value]:
        """The training that costs as much as all of the ensemble."""
        best, trials = seed.best, {record.trial: record for record in seed.trials("base")}
        members = [trials[name] for name in seed.members]
        # A fold model sees all frames but a fold's, for as many epochs as its member is worth.
        bases = [
            (record.epochs + (self.data.folds - 1) * (record.best_epoch or 0)) * self._cost(record)
            for record in members
        ]
        ledger = Ledger(seed.settings.out / LEDGER)
        fusions = [len(rows) * epoch_seconds(rows) for rows in by_trial(ledger.epochs("meta")) if trained(rows[0])]
        epochs = max(2, round((sum(bases) + sum(fusions)) / self._cost(best)))
        print(
            f"seed {seed.seed}: members {sum(bases):.0f} s, fusions {sum(fusions):.0f} s; {best.trial} alone "
            f"({best.params['architecture']}, {self._cost(best):.1f} s an epoch), {epochs} epochs",
            flush=True,
        )
        return {**best.params, "seed": best.seed, "epochs": epochs}

    def _cost(self, record: TrialRecord) -> float:
        return self.cost[str(record.params["architecture"])]

    def _figures(self, members: Sequence[TrialRecord], kind: MetaKind = "mean") -> Figures:
        """Measured as a fusion; a single model is that of one member."""
        own, library = self.settings, {record.trial: member_config(record) for record in members}
        bases = tuple(library.values())
        fusion = MetaConfig(kind=kind, size=bases[0].size, flip=True, epochs=self.meta_epochs)
        name = "-".join([kind, *library])
        points: list[Point] = [
            {
                **fusion.to_params(),
                MEMBERS: ",".join(library),
                BASES: "all",
                DEPLOY: "refit",
                STACKING: "out-of-fold",
                FOLDS: self.data.folds,
                OF: name,
                BLOCK: block,
            }
            for block in range(self.data.folds + 1)
        ]
        folder = own.out.absolute() / EVIDENCE
        trial = MetaTrial(
            data=self.data,
            store=own.out.absolute() / PREDICTIONS,
            library=library,
            costs={record.trial: record.scores for record in members},
            evidence=folder,
        )
        seen = self.data.provenance()
        records = train_points(own, stage="single", trial=trial, points=points, provenance=seen, keep=0)
        val, *blocks = [open_evidence(folder, point) for point in points]
        manifest = EnsembleManifest(
            bases=bases,
            fusion=fusion,
            folds=self.data.folds,
            data_digest=self.data.dataset().digest,
            trials=tuple(library),
        )
        return Figures(
            evidence=blocks[0].join(*blocks[1:]),
            val=measured(val).miou,
            test=on_test(manifest, own, name),
            milliseconds=records[0].scores["milliseconds"],
        )

    def _tell(self, seed: Seed, single: TrialRecord) -> None:
        rows = [row for row in Ledger(self.settings.out / LEDGER).epochs(LONG) if row.trial == single.trial]
        curve = [row.scores[METRIC] for row in sorted(rows, key=lambda row: row.epoch)]
        quarters = [max(curve[: round(len(curve) * part / 4)] or [0.0]) for part in range(1, 5)]
        shown = ", ".join(f"{score:.3f}" for score in quarters)
        print(f"seed {seed.seed}: best val mIoU of the single model by the quarters of its epochs {shown}; ", end="")
        print(f"epoch {single.best_epoch} of {single.epochs} counts", flush=True)


def architecture_seconds(seeds: Sequence[Seed]) -> dict[str, float]:
    """What an epoch of each architecture takes on all training frames."""
    rows: dict[str, list[EpochRecord]] = defaultdict(list)
    for seed in seeds:
        of = {record.trial: str(record.params["architecture"]) for record in seed.trials("base")}
        for row in Ledger(seed.settings.out / LEDGER).epochs("base"):
            rows[of[row.trial]].append(row)
    return {name: epoch_seconds(own) for name, own in rows.items()}


def by_trial(rows: Sequence[EpochRecord]) -> list[list[EpochRecord]]:
    """The epochs of each trial."""
    found: dict[str, list[EpochRecord]] = defaultdict(list)
    for row in rows:
        found[row.trial].append(row)
    return list(found.values())


def trained(row: EpochRecord) -> bool:
    """Whether the trial was trained by gradients."""
    return "train" in row.seconds


def epoch_seconds(rows: Sequence[EpochRecord]) -> float:
    """The lower quartile of what loading and training took."""
    seconds = [row.seconds["load"] + row.seconds["train"] for row in rows]
    return statistics.quantiles(seconds, n=4, method="inclusive")[0] if len(seconds) > 1 else seconds[0]


if __name__ == "__main__":
    main()
