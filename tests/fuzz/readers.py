"""Every kind of file that we read, with what reads it: the smallest whole one, which is then damaged."""

from __future__ import annotations

import dataclasses
import json
import shutil
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from random import Random

import cv2
import numpy as np
import pytest
import tifffile
import torch
from rich.console import Console
from safetensors.torch import save_file
from torch import nn

from ensemble_tune.cluster.check import check
from ensemble_tune.cluster.notice import file_notice
from ensemble_tune.comparison import Candidate, Comparison, compare
from ensemble_tune.comparison_table import comparison_table
from ensemble_tune.ensemble.base_model import build_base_model
from ensemble_tune.ensemble.config import BaseConfig, MetaConfig
from ensemble_tune.ensemble.data_check import check_data
from ensemble_tune.ensemble.dataset import open_dataset
from ensemble_tune.ensemble.dataset_spec import DatasetSpec
from ensemble_tune.ensemble.encoder_weights import load_encoder_weights
from ensemble_tune.ensemble.evidence import EVIDENCE, Evidence, evidence_name
from ensemble_tune.ensemble.frames import load_frames
from ensemble_tune.ensemble.fusion import build_fusion
from ensemble_tune.ensemble.image_file import mask_shape
from ensemble_tune.ensemble.image_spec import RGB, ImageSpec
from ensemble_tune.ensemble.manifest import EnsembleManifest
from ensemble_tune.ensemble.mask import read_labels
from ensemble_tune.ensemble.pixels import read_pixels
from ensemble_tune.ensemble.predictions import Predictions, Stamp, write_predictions
from ensemble_tune.ensemble.trained_ensemble import TrainedEnsemble
from ensemble_tune.ensemble.training_state import TrainingState, holds_training_of, load_weights
from ensemble_tune.errors import ConfigError, PredictionsError, RunError
from ensemble_tune.event_files import RunEvents
from ensemble_tune.export import export_best
from ensemble_tune.final_folder import FINAL, FinalFolder
from ensemble_tune.frame import frame
from ensemble_tune.plan import plan
from ensemble_tune.report.page import render
from ensemble_tune.report.run_view import RunView
from ensemble_tune.results import leaderboard, trial_page
from ensemble_tune.store_folder import parse_contents
from ensemble_tune.trial import Checkpoint, EpochResult, Value
from ensemble_tune.tune.given import load_points
from ensemble_tune.tune.lease import Claim
from ensemble_tune.tune.ledger import LEDGER, Ledger
from ensemble_tune.tune.record import EpochRecord, Status, TrialRecord
from ensemble_tune.tune.search_space import SearchSpace
from ensemble_tune.tune.session import SessionRecord
from ensemble_tune.tune.trial_folder import TrialFolder, unwritten
from ensemble_tune.watch import stands

CLUSTER = Path(__file__).parents[2] / "cluster"
NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
_MEMBERS: dict[str, Value] = {"members": "base-0001,base-0000", "member_epochs": "3,3", "folds": 2}
_FUSIONS = ("mean", "weighted", "plain")
CONFIG = BaseConfig(size=(32, 32), precision="float32", averaging=0.25)


@dataclass(frozen=True)
class Reader:
    """One kind."""

    make: Callable[[Path], Mapping[Path, str]]
    """Writes whole files into a folder; returns those that are to be damaged, with the form of each."""
    read: Callable[[Path], object]
    """Reads them, given the folder."""
    share: int = 4
    """How many of all inputs, as a weight."""
    errors: tuple[type[Exception], ...] = ()
    """What it may raise beside our own errors: of parts whose callers say which file it was."""


def _text(text: str, name: str, form: str) -> Callable[[Path], Mapping[Path, str]]:
    def make(folder: Path) -> Mapping[Path, str]:
        (folder / name).write_text(text)
        return {folder / name: form}

    return make


# Data sets.

_DATASET = """
name = "tiles"
classes = ["road", "car", "pole"]
small = ["pole"]
sequence = '(?P<sequence>[a-z]+)_\\d+'
ignored = [255, 255, 255]
groups = "blocks"

[palette]
road = "#000000"
car = ["#ff0000", [0, 255, 0]]
pole = [[0, 0, 255]]

[images]
channels = 3
bits = 8
mean = [1.0, 2, 3]
std = [1.0, 2, 3]

[tiles]
size = "32x32"
overlap = 4

[splits]
images = "images"
masks = "masks"
"""
_LISTS = 'train = "train.txt"\nval = "val.txt"\n'
_LOTS = 'by = "group"\nval = 0.3\nseed = 1\n'
_FOLDERS = _DATASET.partition("[splits]")[0] + (
    '[splits.train]\nimages = "images"\nmasks = "masks"\n[splits.val]\nimages = "more"\nmasks = "masks2"\n'
)


def _frames(folder: Path, *folders: str) -> None:
    chance = np.random.default_rng(0)
    colours = np.array([(0, 0, 0), (0, 0, 255), (255, 0, 0), (255, 255, 255)], np.uint8)
    for number, part in enumerate(folders):
        (folder / part).mkdir()
        for name in ("a_0", "a_1", "b_0", "b_1"):
            where = folder / part / f"{name if number < 2 else 'c' + name}.png"
            pixels = chance.integers(0, 256, (6, 8, 3), np.uint8)
            cv2.imwrite(str(where), colours[chance.integers(0, 4, (6, 8))] if "masks" in part else pixels)


def _data(splits: str, *damaged: str) -> Callable[[Path], Mapping[Path, str]]:
    def make(folder: Path) -> Mapping[Path, str]:
        text = splits if splits.startswith("\n") else _DATASET + splits
        (folder / "dataset.toml").write_text(text)
        _frames(folder, "images", "masks", *(("more", "masks2") if "more" in text else ()))
        (folder / "train.txt").write_text("a_0.png\n# some\na_1\n")
        (folder / "val.txt").write_text("images/b_0.png\nb_1\n")
        forms = {".toml": "toml", ".png": "png"}
        return {folder / name: forms.get(Path(name).suffix, "") for name in damaged}

    return make


def _read_data(folder: Path) -> None:
    cache = folder / "cache"
    try:
        open_dataset(folder, cache)
    finally:
        shutil.rmtree(cache, ignore_errors=True)


def _read_cache(folder: Path) -> None:
    cache = folder / "cache"
    for split in ("train", "val"):
        frames = load_frames(open_dataset(folder, cache), split, (32, 32), cache)
        assert frames.image(0).shape == (32, 32, 3) and frames.label(0).max() <= 255 and frames.truth(0).ndim == 2


def _make_cache(folder: Path) -> Mapping[Path, str]:
    _data(_FOLDERS, "dataset.toml")(folder)
    _read_cache(folder)
    forms = {".json": "json", ".npy": "npy"}
    return {path: forms[path.suffix] for path in sorted((folder / "cache").rglob("*")) if path.suffix in forms}


_BANDS = ImageSpec(channels=5, bits=16, mean=(1.0,) * 5, std=(1.0,) * 5)
_DEEP = ImageSpec(channels=4, bits=16)
_PLAIN = DatasetSpec(name="x", classes=("a", "b", "c"), sequence=None)


def _picture(name: str, pixels: np.ndarray, form: str = "") -> Callable[[Path], Mapping[Path, str]]:  # type: ignore[type-arg]
    def make(folder: Path) -> Mapping[Path, str]:
        if name.endswith(".tif"):
            tifffile.imwrite(folder / name, pixels, photometric="minisblack", planarconfig="contig")
        else:
            cv2.imwrite(str(folder / name), pixels)
        return {folder / name: form}

    return make


def _noise(*shape: int, dtype: type = np.uint8, high: int = 256) -> np.ndarray:  # type: ignore[type-arg]
    return np.random.default_rng(1).integers(0, high, shape).astype(dtype)


def _read_mask(folder: Path) -> None:
    mask_shape(folder / "mask.png")
    read_labels(_PLAIN, folder / "mask.png")


# What a person writes.

_SPACE = """
[parameters]
architecture = { choices = ["unet", "unetplusplus"] }
decoder_attention = { choices = ["scse", "none"], when = { architecture = ["unet", "unetplusplus"] } }
learning_rate = { low = 1e-4, high = 1e-2, log = true }
batch_size = { low = 4, high = 16, step = 4 }
augmentation = { low = 0.0, high = 0.5, step = 0.1 }
weight_decay = 1e-4
"""
_POINTS = """
[[points]]
architecture = "unet"
decoder_attention = "scse"
learning_rate = 1e-3
batch_size = 8
augmentation = 0.3
seed = 7
"""
_MANIFEST = """
format = 1
deploy = "folds"
stacking = "out-of-fold"
folds = 2
split = "official"
data = "CamVid"
data_digest = "abc"
classes = ["road", "car"]
size = "32x32"
batch_size = 4

[images]
channels = 3

[tiles]
size = "64x64"

[[bases]]
trial = "base-0001"
architecture = "linknet"
encoder = "tu-test_resnet"
learning_rate = 0.01

[[bases]]
architecture = "linknet"
encoder = "tu-test_resnet"
seed = 1

[fusion]
kind = "mean"
width = 8

[scores]
fusion = 0.5
mean = 1

[members.base-0001]
milliseconds = 3.5
weight = 1

[fusions.best_single]
crossfit_miou = 0.4

[fusions.mean]
gain_over_best_single = 0.1

[from]
torch = "2.14"
"""


class _Lots:
    """Draws from a space."""

    def __init__(self) -> None:
        self._chance = Random(0)

    def suggest_float(self, name: str, low: float, high: float, *, step: float | None, log: bool) -> float:
        return self._chance.choice((low, high))

    def suggest_int(self, name: str, low: int, high: int, *, step: int, log: bool) -> int:
        return self._chance.choice((low, high))

    def suggest_categorical(self, name: str, choices: tuple[object, ...]) -> object:
        return self._chance.choice(choices)


def _read_space(folder: Path) -> None:
    space = SearchSpace.load(folder / "space.toml")
    space.digest()
    space.draw(_Lots())  # type: ignore[arg-type]
    with suppress(ConfigError):  # of a parameter, which another file may have too
        space.check(BaseConfig.field_names(), BaseConfig.from_params)


def _read_manifest(folder: Path) -> None:
    manifest = EnsembleManifest.load(folder / "best.toml")
    manifest.digest()
    manifest.save(folder / "again.toml")
    assert EnsembleManifest.load(folder / "again.toml").digest() == manifest.digest()


def _make_ensemble(folder: Path) -> Mapping[Path, str]:
    (folder / "ensemble.toml").write_text(_MANIFEST)
    manifest = EnsembleManifest.load(folder / "ensemble.toml")
    for place, base in enumerate(manifest.bases, start=1):
        for fold in (1, 2):
            target = folder / "members" / f"{place}-fold-{fold}"
            target.mkdir(parents=True)
            state = build_base_model(base, 2).state_dict()
            save_file({name: value.contiguous() for name, value in state.items()}, target / "model.safetensors")
    return {folder / "ensemble.toml": "toml", folder / "members/2-fold-1/model.safetensors": "safetensors"}


def _fusion() -> nn.Module:
    return build_fusion(MetaConfig(kind="plain", width=8, depth=1, size=(32, 32)), 2, 2)


def _make_fusion(folder: Path) -> Mapping[Path, str]:
    (folder / "fusion").mkdir()
    weights = {name: value.contiguous() for name, value in _fusion().state_dict().items()}
    save_file(weights, folder / "fusion/model.safetensors")
    return {folder / "fusion/model.safetensors": "safetensors"}


# What a run writes.


def _write_run(folder: Path) -> None:
    ledger = Ledger(folder / LEDGER)
    ledger.open()
    for stage in ("base", "meta"):
        for number in range(3):
            name = f"{stage}-{number:04d}"
            params = {"rate": 0.1 * number, "kind": "mean", "epochs": 2, "deep": True}
            scores = {"miou": 0.5, "small_miou": 0.25, "iou.car": 0.1}
            ended = NOW if number else None
            status = Status.FINISHED if number else Status.RUNNING
            row = TrialRecord(
                trial=name,
                stage=stage,
                number=number,
                status=status,
                params=params,
                seed=number,
                started=NOW,
                ended=ended,
                epochs=2,
                best_epoch=1,
                score=0.5,
                scores=scores,
                seconds=3.0,
                gpu={"share": 0.5},
                provenance={"data": "abc"},
            )
            ledger.put_trial(row)
            for epoch in (1, 2):
                ledger.put_epoch(_row(name, stage, number, epoch))
        ledger.put_session(_session(stage))
    ledger.close()


def _session(stage: str) -> SessionRecord:
    return SessionRecord(
        stage=stage,
        session=1,
        started=NOW,
        updated=NOW + timedelta(minutes=30),
        slots=2,
        host="host",
        pid=1,
        node_hours=1.0,
        goal={"metric": "miou", "mode": "max"},
        limit={"trials": 9.0, "hours": 2.0, "cost": 3.0, "price": 1.0},
        use={"nodes": 1.0, "gpus": 0.5, "devices": 1.0},
    )


def _row(name: str, stage: str, number: int, epoch: int) -> EpochRecord:
    seconds = {"train": 1.0, "wait": 0.5}
    gpu: dict[str, float | str] = {"share": 0.5, "card": "h/0"}
    return EpochRecord(
        trial=name,
        stage=stage,
        number=number,
        attempt=1,
        epoch=epoch,
        scores={"miou": 0.1 * epoch, "loss": 1.0},
        seconds=seconds,
        reported=NOW,
        worker="host/1",
        gpu=gpu,
    )


def _make_ledger(folder: Path) -> Mapping[Path, str]:
    _write_run(folder)
    return dict.fromkeys(sorted((folder / LEDGER).rglob("*.parquet")), "parquet")


def _read_ledger(folder: Path) -> None:
    """As the ledger's own readers do, and as all that is shown of it does."""
    ledger = Ledger(folder / LEDGER)
    for stage in (None, "base"):
        list(zip(ledger.trials(stage), ledger.epochs(stage), ledger.sessions(stage), strict=False))
    console = Console(file=(folder / "shown").open("w"), width=80)
    with console.file:
        console.print(leaderboard(folder))
        with suppress(ConfigError):  # it has no such trial any more
            console.print(trial_page(folder, "base-0001"))
        snapshot, _ = stands(folder)
        if snapshot is not None:
            console.print(frame(snapshot, "place", width=80, height=30))
            json.dumps(snapshot.to_json())


def _make_run(folder: Path) -> Mapping[Path, str]:
    """A run with all that a report reads: some trials that differ, their fusions compared, a final training."""
    ledger = Ledger(folder / LEDGER)
    ledger.open()
    for place in range(7):
        stage, number = ("base", place) if place < 4 else ("meta", place - 4)
        score = 0.3 + 0.05 * place
        name = f"{stage}-{number:04d}"
        own: dict[str, Value] = {"architecture": ("unet", "fpn")[number % 2], "learning_rate": 10.0 ** -(number + 1)}
        if stage == "meta":
            own = {"kind": _FUSIONS[number], "bases": "1+2" if number else "1", "width": 8, **_MEMBERS}
            own |= {"deploy": "folds", "stacking": "out-of-fold"}
        scores = {"miou": score, "small_miou": score / 2, "iou.car": 0.1, "milliseconds": 4.0 + place}
        started = NOW + timedelta(minutes=3 * place)
        ledger.put_trial(
            TrialRecord(
                trial=name,
                stage=stage,
                number=number,
                status=(Status.FINISHED, Status.FINISHED, Status.STOPPED, Status.RUNNING)[number],
                params={**own, "size": "32x32", "epochs": 3},
                seed=number,
                started=started,
                ended=None if number == 3 else started + timedelta(minutes=2),
                epochs=3,
                best_epoch=1 if stage == "meta" else 3,
                score=score,
                scores=scores,
                seconds=90.0,
                provenance={"data": "abc"},
            )
        )
        for epoch in (1, 2, 3):
            reported = started + timedelta(seconds=30 * epoch)
            row = _row(name, stage, number, epoch)
            ledger.put_epoch(dataclasses.replace(row, scores={**scores, "miou": score * epoch / 3}, reported=reported))
    for stage in ("base", "meta"):
        ledger.put_session(_session(stage))
    ledger.close()
    _make_comparison(folder)
    for block in (1, 2):
        _evidence("meta-0002", "xy"[block - 1]).save(folder / EVIDENCE / evidence_name("meta-0002", block))
    final = folder / FINAL
    final.mkdir()
    _make_final(final)
    parts = dict.fromkeys(sorted((folder / LEDGER).rglob("*.parquet")), "rows")
    others = [*(folder / "comparisons").iterdir(), final / "metrics.json"]
    return parts | dict.fromkeys(others, "json") | {final / "ensemble/ensemble.toml": "toml"}


def _read_run(folder: Path) -> None:
    """As the page, the TensorBoard logs, the plan and the export do."""
    (folder / "report.html").write_text(render(RunView.of(folder), cache=folder / "cache"), encoding="utf-8")
    try:
        RunEvents(Ledger(folder / LEDGER), folder / "logs").update()
        with suppress(RunError):  # too few epochs are there
            plan(folder, slots=(1, 3), trials=6, repeats=1, price=2.0)
        with suppress(RunError):  # none has ended
            export_best(folder, folder / "best.toml")
        with suppress(RunError):
            export_best(folder, folder / "knee.toml", rule="knee")
    finally:
        shutil.rmtree(folder / "logs", ignore_errors=True)
        shutil.rmtree(folder / "exports", ignore_errors=True)
        for name in ("best.toml", "knee.toml"):
            (folder / name).unlink(missing_ok=True)


def _make_trial_folder(folder: Path) -> Mapping[Path, str]:
    own = TrialFolder(folder / "base-0000")
    own.claim_attempt()
    own.save(1, EpochResult(epoch=2, scores={}), [_row("base-0000", "base", 0, epoch) for epoch in (1, 2)])
    record = TrialRecord(
        trial="base-0000",
        stage="base",
        number=0,
        status=Status.RUNNING,
        params={"a": 1, "b": "x", "c": True, "d": 0.5},
        seed=3,
        started=NOW,
        provenance={"data": "abc"},
    )
    own.remember(record)
    return {own.path / "attempt-0001/epoch-00002/rows.json": "json", own.path / "trial.json": "json"}


def _read_trial_folder(folder: Path) -> None:
    list(unwritten(folder, "base", ()))
    TrialFolder(folder / "base-0000").history()


def _model() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Conv2d(4, 2, 1))


def _training() -> TrainingState:
    return TrainingState(_model(), CONFIG, steps=5, device=torch.device("cpu"))


def _step(state: TrainingState) -> None:
    torch.autograd.backward(state.trained(torch.ones(2, 3, 8, 8)).square().mean())
    state.optimiser.step()


def _make_checkpoint(folder: Path) -> Mapping[Path, str]:
    state = _training()
    _step(state)
    state.save(folder, epoch=1)
    forms = {".json": "json", ".safetensors": "safetensors"}
    return {path: forms[path.suffix] for path in sorted(folder.iterdir())}


def _read_checkpoint(folder: Path) -> None:
    holds_training_of(folder, CONFIG)
    state = _training()
    state.restore(Checkpoint(folder, 1))
    _step(state)


def _make_weights(name: str) -> Callable[[Path], Mapping[Path, str]]:
    def make(folder: Path) -> Mapping[Path, str]:
        state = {f"encoder.{key}": value for key, value in _model().state_dict().items()}
        if name.endswith(".safetensors"):
            save_file(state, folder / name)
        else:
            torch.save({"state_dict": state}, folder / name)
        return {folder / name: "safetensors" if name.endswith(".safetensors") else ""}

    return make


def _stamp() -> Stamp:
    return Stamp(
        config="c", data="d", fold=1, folds=2, classes=("a", "b"), size=(2, 3), frames=("x", "y"), trained_on=("z",)
    )


def _make_predictions(folder: Path) -> Mapping[Path, str]:
    write_predictions(folder / "p", _stamp(), [np.full((2, 2, 3), 0.5)] * 2)
    return {folder / "p/stamp.json": "json", folder / "p/probabilities.npy": "npy"}


def _read_predictions(folder: Path) -> None:
    long = dataclasses.replace(_stamp(), frames=tuple(f"frame-{number}" for number in range(99)))
    with pytest.raises(PredictionsError):
        Predictions.open(folder / "p", long)
    found = Predictions.open(folder / "p")
    for name in found.names:
        if name not in found.stamp.trained_on:
            assert found[name].shape == (len(found.stamp.classes), *found.stamp.size)
    Predictions.open(folder / "p", _stamp())


def _evidence(of: str = "model", *names: str) -> Evidence:
    return Evidence(
        of=of,
        classes=("a", "b"),
        small=("b",),
        names=names or ("x", "y"),
        sequences=("s",) * (len(names) or 2),
        confusions=_noise(len(names) or 2, 2, 2, dtype=np.int64, high=9),
        calibration=np.ones((3, 3)),
    )


def _make_evidence(folder: Path) -> Mapping[Path, str]:
    _evidence().save(folder / "e")
    return {
        folder / f"e/{name}": name.partition(".")[2] for name in ("frames.json", "confusions.npy", "calibration.npy")
    }


def _read_evidence(folder: Path) -> None:
    found = Evidence.open(folder / "e")
    assert found.sorted_as(found.names).names == found.names
    assert found.calibration_error >= 0 or np.isnan(found.calibration_error) or not np.isfinite(found.calibration).all()


def _make_comparison(folder: Path) -> Mapping[Path, str]:
    found = [
        Candidate(
            name=name,
            trial=f"meta-000{place}",
            epochs=1,
            blocks=(_evidence("m", "x"), _evidence("m", "y")),
            val=_evidence(),
            costs={"milliseconds": 2.0},
        )
        for place, name in enumerate(("best single", "weighted", "plain"))
    ]
    compare(found, [{"trial": "base-0001", "miou": 0.5}], 0.1).save(folder, _MEMBERS)
    return dict.fromkeys((folder / "comparisons").iterdir(), "json")


def _read_comparison(folder: Path) -> None:
    found = Comparison.load(folder, _MEMBERS)
    assert found is not None
    assert found.chosen and found.highest
    with (folder / "shown").open("w") as file:
        Console(file=file).print(comparison_table(found))


def _make_final(folder: Path) -> Mapping[Path, str]:
    (folder / "ensemble").mkdir()
    (folder / "ensemble/ensemble.toml").write_text(_MANIFEST)
    (folder / "metrics.json").write_text('{"split": "test", "scores": {"miou": 0.5, "mean.miou": 0.4}}')
    _evidence("ensemble").save(folder / "evidence/ensemble")
    return {folder / "metrics.json": "json", folder / "evidence/ensemble/frames.json": "json"}


_CLAIM = Claim(owner="process 1 on host", life="a/b/1/2", pid=1, owns=True, beat=3)
_CONTENTS = '{"writing": "abc", "files": {"model.safetensors": 12, "a/b.npy": 3}}'


def _cluster(name: str) -> Reader:
    text = (CLUSTER / name).read_text()
    form = "yaml" if name.endswith(".yaml") else ""
    return Reader(_text(text, name, form), lambda folder: check(folder / name), share=1)


def _encoder(name: str) -> Reader:
    return Reader(_make_weights(name), lambda folder: load_encoder_weights(_model(), "tiny", folder / name), share=6)


def _shown(name: str, spec: ImageSpec, pixels: np.ndarray, form: str = "") -> Reader:  # type: ignore[type-arg]
    return Reader(_picture(name, pixels, form), lambda folder: spec.shown(read_pixels(spec, folder / name)), share=5)


READERS: Mapping[str, Reader] = {
    "dataset.toml with lists": Reader(_data(_LISTS, "dataset.toml"), _read_data, share=6),
    "dataset.toml with lots": Reader(_data(_LOTS, "dataset.toml"), check_data),
    "dataset.toml with folders": Reader(_data(_FOLDERS, "dataset.toml"), _read_data),
    "list of frames": Reader(_data(_LISTS, "train.txt", "val.txt"), _read_data, share=2),
    "image and mask of a data set": Reader(_data(_LISTS, "images/a_0.png", "masks/a_0.png"), _read_data),
    "decoded frames": Reader(_make_cache, _read_cache),
    "PNG image": _shown("image.png", RGB, _noise(5, 7, 3), "png"),
    "PNG image of 16 bits": _shown("image.png", _DEEP, _noise(5, 7, 4, dtype=np.uint16), "png"),
    "PNG mask": Reader(_picture("mask.png", _noise(5, 7, high=3), "png"), _read_mask),
    "JPEG image": _shown("image.jpg", RGB, _noise(16, 24, 3)),
    "TIFF image": _shown("image.tif", _BANDS, _noise(6, 8, 5, dtype=np.uint16, high=4096)),
    "search space": Reader(_text(_SPACE, "space.toml", "toml"), _read_space, share=6),
    "points": Reader(
        _text(_POINTS, "points.toml", "toml"),
        lambda folder: load_points(folder / "points.toml", SearchSpace.parse(_SPACE)),
        share=3,
    ),
    "manifest": Reader(_text(_MANIFEST, "best.toml", "toml"), _read_manifest, share=8),
    "trained ensemble": Reader(_make_ensemble, TrainedEnsemble.load, share=1),
    "trained fusion": Reader(_make_fusion, lambda folder: load_weights(_fusion(), folder / "fusion"), share=3),
    "ledger part": Reader(_make_ledger, _read_ledger, share=8),
    "run that is reported": Reader(_make_run, _read_run, share=2),
    "trial folder": Reader(_make_trial_folder, _read_trial_folder),
    "checkpoint": Reader(_make_checkpoint, _read_checkpoint, share=8),
    "weights of an encoder, safetensors": _encoder("weights.safetensors"),
    "weights of an encoder, torch": _encoder("weights.pth"),
    "predictions": Reader(_make_predictions, _read_predictions, share=8),
    "evidence": Reader(_make_evidence, _read_evidence),
    "comparison": Reader(_make_comparison, _read_comparison),
    "final training": Reader(_make_final, FinalFolder.read),
    "lease": Reader(
        _text(json.dumps(dataclasses.asdict(_CLAIM)), "a.json", "json"),
        lambda folder: Claim.parse((folder / "a.json").read_text()),
        share=2,
        errors=(ValueError,),
    ),
    "folder in a store": Reader(
        _text(_CONTENTS, "complete.json", "json"),
        lambda folder: parse_contents((folder / "complete.json").read_text()),
        share=2,
        errors=(ValueError,),
    ),
    "notice": Reader(_text("30", "leave", ""), lambda folder: file_notice(folder / "leave"), share=1),
    **{f"cluster file {name}": _cluster(name) for name in ("aws.yaml", "onpremises.yaml", "kuberay.yaml", "slurm.sh")},
}
