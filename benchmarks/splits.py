"""Which split chooses configurations that do better on an unseen sequence: official, or blocks of every sequence?

python benchmarks/splits.py CAMVID [--out runs/splits] [--sequences NAME,...] [--seeds 3] [--configs 8] [--epochs 8]
    [--size 60x80] [--space base-small] [--processes 2] [--device cpu] [--show]

Each sequence of train and val is in turn the unseen one: no split has any of its frames. For each seed, random
configurations are trained on what either split leaves of the other sequences; a configuration is worth its best epoch
on that split's val, as in a search, and the weights of that epoch are scored on the unseen frames ("own"). The splits
leave different numbers of training frames, so each configuration is also trained once on all frames of the other
sequences, and scored on the unseen ones after as many epochs as the split chose ("retrained"): the same yardstick for
both. A training that failed counts as mIoU 0.

Shown for each split and yardstick, as means over sequences and seeds: the unseen mIoU of the configuration that val
chose, the mean of all configurations (what a blind choice gives), the best one's, and Spearman's correlation of val
score and unseen score; then blocks less official, paired. The 95% intervals are Student's, as if every (sequence, seed)
were drawn independently; sequences are few, so look at the rows of each one too. Where the unseen sequence holds all
of val, official is what the package does without a val folder: the last fifth of each sequence. Such sequences are
marked, and the means are shown without them too.

Nothing is written into the data's folder, and neither images nor labels of test are opened. Every training's figures
are kept in OUT: the same command goes on, more seeds or configurations add to it, --show trains nothing.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import sys
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict, dataclass
from itertools import product
from pathlib import Path
from typing import Literal

import tomli_w
from splits_table import ALL, SPLITS, Choices, Trained, compared, show

from ensemble_tune.ensemble.base_model import build_base_model
from ensemble_tune.ensemble.base_trial import BaseTrial
from ensemble_tune.ensemble.config import BaseConfig
from ensemble_tune.ensemble.dataset_spec import CAMVID_SPLITS, DatasetSpec
from ensemble_tune.ensemble.image_file import IMAGE_SUFFIXES
from ensemble_tune.ensemble.scoring import score_frames
from ensemble_tune.ensemble.split import Split
from ensemble_tune.ensemble.stage_data import StageData, as_images
from ensemble_tune.ensemble.training_state import load_weights
from ensemble_tune.errors import EnsembleTuneError
from ensemble_tune.storage import atomic_folder, write_text
from ensemble_tune.trial import Value
from ensemble_tune.tune.record import Objective
from ensemble_tune.tune.sampler import make_sampler
from ensemble_tune.tune.search_space import SearchSpace
from ensemble_tune.tune.seed import derive_seed

METRIC = "miou"
_SCORED_TOGETHER = 8
_OTHERS, _UNSEEN = "others", "unseen"


@dataclass(frozen=True, kw_only=True)
class Options:
    """What all trainings share; another one needs another folder."""

    data: str
    size: str
    epochs: int
    space: str


@dataclass(frozen=True, slots=True)
class Job:
    """One training."""

    unseen: str
    seed: int
    number: int
    """Of the configuration among the seed's."""
    kind: Split | Literal["all"]

    def file(self, out: Path) -> Path:
        """Where its figures are kept."""
        return out / "trainings" / f"{self.unseen}-{self.seed}-{self.number}-{self.kind}.json"


def frames_of(root: Path) -> dict[str, list[tuple[str, Path, Path]]]:
    """Split, image and mask of each frame of train and val, by sequence; no file is opened, and test is not listed."""
    spec = DatasetSpec.load(root)
    found: dict[str, list[tuple[str, Path, Path]]] = {}
    for split in ("train", "val"):
        if split not in spec.splits:
            continue
        images, masks = (root.absolute() / folder for folder in spec.splits[split])
        for image in sorted(images.iterdir()):
            if image.suffix.lower() in IMAGE_SUFFIXES and not image.name.startswith("."):
                sequence = spec.sequence_of(image.stem)
                if spec.sequence is None or sequence is None:
                    sys.exit(f"a sequence can be held out where names tell sequences, but {image} tells none")
                found.setdefault(sequence, []).append((split, image, masks / f"{image.stem}.png"))
    return found


def hold_out(root: Path, unseen: str, folder: Path) -> None:
    """Makes two data sets of links: the other sequences as they are split, and all of them with the unseen as val."""
    if folder.exists():
        return
    spec = DatasetSpec.load(root)
    table = {
        "classes": list(spec.classes),
        "small": list(spec.small),
        "sequence": spec.sequence,
        **({} if spec.ignored is None else {"ignored": spec.ignored}),
    }
    with atomic_folder(folder) as aside:
        for name in (_OTHERS, _UNSEEN):
            (aside / name).mkdir()
            (aside / name / "dataset.toml").write_text(tomli_w.dumps(table), encoding="utf-8")
        for sequence, frames in frames_of(root).items():
            for split, image, mask in frames:
                if sequence != unseen:
                    _link(aside / _OTHERS, split, image, mask)
                _link(aside / _UNSEEN, "val" if sequence == unseen else "train", image, mask)


def _link(root: Path, split: str, image: Path, mask: Path) -> None:
    for name, file in zip(CAMVID_SPLITS[split], (image, mask), strict=True):
        (root / name).mkdir(exist_ok=True)
        (root / name / file.name).symlink_to(file)


def stage(out: Path, job: Job, device: str) -> StageData:
    """The frames of a training."""
    return StageData(
        data=str((out / "data" / job.unseen / (_UNSEEN if job.kind == ALL else _OTHERS)).absolute()),
        cache=(out / "cache").absolute(),
        split="official" if job.kind == ALL else job.kind,
        threads=1,
        device=device,
    )


def config_of(options: Options, job: Job) -> BaseConfig:
    """The configuration of a seed and a number: the same for all splits and sequences."""
    space = SearchSpace.load(options.space).fixed(size=options.size, epochs=options.epochs)
    sampler = make_sampler("random", space, seed=job.seed, objectives=[Objective(METRIC)])
    seed = derive_seed(job.seed, f"weights-{job.number}")
    return BaseConfig.from_params({**sampler.propose(job.number), "seed": seed})


def train(out: Path, options: Options, job: Job, device: str) -> float:
    """One training, whose figures are written; returns its seconds."""
    began = time.perf_counter()
    data, config = stage(out, job, device), config_of(options, job)
    params: dict[str, Value] = config.to_params()
    val: list[float] = []
    unseen = 0.0
    try:
        with tempfile.TemporaryDirectory() as folder:
            best = Path(folder)
            for result in BaseTrial(data=data)(params, None):
                if job.kind != ALL and result.scores[METRIC] > max(val, default=-1.0):
                    best = Path(folder) / str(result.epoch)
                    best.mkdir()
                    result.save(best)
                val.append(result.scores[METRIC])
            unseen = max(val) if job.kind == ALL else _on_unseen(out, job, config, best, device)
    except EnsembleTuneError as error:
        print(f"{job} failed: {error}", flush=True)
        val = []
    write_text(job.file(out), json.dumps(asdict(Trained(val, unseen))))
    return time.perf_counter() - began


def _on_unseen(out: Path, job: Job, config: BaseConfig, weights: Path, device: str) -> float:
    """The score of saved weights on the unseen frames."""
    data = stage(out, Job(job.unseen, job.seed, job.number, ALL), device)
    frames, where = data.frames("val", config.size), data.prepare()
    model = build_base_model(config, len(frames.classes), pretrained=False)
    load_weights(model, weights)
    model.to(where).eval()
    scored = score_frames(
        lambda rows: model(as_images([frames.image(i) for i in rows]).to(where)), frames, _SCORED_TOGETHER
    )
    return scored.scores[METRIC]


def choices(out: Path, unseen: str, seed: int, configs: int) -> Choices | None:
    """None where a training is missing."""
    trained: dict[str, list[Trained]] = {}
    for kind in (*SPLITS, ALL):
        files = [Job(unseen, seed, number, kind).file(out) for number in range(configs)]
        if not all(file.exists() for file in files):
            return None
        trained[kind] = [Trained(**json.loads(file.read_text(encoding="utf-8"))) for file in files]
    return compared(trained)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("data", type=Path)
    parser.add_argument("--out", type=Path, default=Path("runs/splits"))
    parser.add_argument("--sequences", help="with commas; all of train and val without")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--configs", type=int, default=8)
    parser.add_argument("--epochs", type=int, default=8)
    parser.add_argument("--size", default="60x80")
    parser.add_argument("--space", default="base-small")
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--device", choices=("cpu", "auto"), default="cpu")
    parser.add_argument("--show", action="store_true", help="train nothing")
    given = parser.parse_args()
    out: Path = given.out
    options = Options(data=str(given.data.absolute()), size=given.size, epochs=given.epochs, space=given.space)
    kept = out / "options.json"
    if kept.exists() and json.loads(kept.read_text(encoding="utf-8")) != asdict(options):
        sys.exit(f"{out} holds trainings of other options, see {kept}; use the same ones or another --out")
    write_text(kept, json.dumps(asdict(options)))
    by_sequence = frames_of(given.data)
    unseen = given.sequences.split(",") if given.sequences else sorted(by_sequence)
    for name in unseen:
        if name not in by_sequence or len(by_sequence) < 2:
            sys.exit(f"an unseen sequence is one of two or more, here {', '.join(sorted(by_sequence))}, but got {name}")
        hold_out(given.data, name, out / "data" / name)
        for kind in (*SPLITS, ALL):
            splits = stage(out, Job(name, 0, 0, kind), given.device).dataset().splits
            counts = ", ".join(f"{len(splits[part])} {part}" for part in ("train", "val", "gap") if part in splits)
            print(f"unseen {name}, {kind}: {counts}", flush=True)
    if not given.show:
        jobs = [
            Job(name, seed, number, kind)
            for seed, name, number, kind in product(range(given.seeds), unseen, range(given.configs), (*SPLITS, ALL))
        ]
        run(out, options, [job for job in jobs if not job.file(out).exists()], given.processes, given.device)
    done = [(name, choices(out, name, seed, given.configs)) for name in unseen for seed in range(given.seeds)]
    with_val = {name for name, frames in by_sequence.items() if any(split == "val" for split, *_ in frames)}
    without = [name for name in unseen if not with_val - {name}]
    show([(name, found) for name, found in done if found is not None], without)


def run(out: Path, options: Options, jobs: Sequence[Job], processes: int, device: str) -> None:
    """Trains what is missing, side by side."""
    pool = ProcessPoolExecutor(processes, mp_context=multiprocessing.get_context("spawn"))
    try:
        running = {pool.submit(train, out, options, job, device): job for job in jobs}
        for number, ended in enumerate(as_completed(running), start=1):
            job = running[ended]
            print(f"{number} of {len(jobs)}: {job.file(out).stem} in {ended.result():.0f} s", flush=True)
    finally:
        pool.shutdown(cancel_futures=True)


if __name__ == "__main__":
    main()
