"""A trained ensemble as one ONNX file: members, what lies between them, and their fusion in a single graph.

    images   uint8    (batch, K, h, w)   as they are stored, RGB where K is 3, at the working size; normalised inside
    logits   float32  (batch, C, h, w)   before softmax; grow these, not the labels, to another size
    labels   uint8    (batch, h, w)      the class of the highest logit

Any batch will do; h, w are the working size. The arithmetic is float32, so that answers differ from a processor's
bfloat16 by its rounding. The file's metadata says what its classes are, and all of the above.
"""

from __future__ import annotations

import copy
import dataclasses
import json
import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from importlib import import_module
from pathlib import Path
from typing import cast

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ensemble_tune.ensemble.base_model import BaseModel
from ensemble_tune.ensemble.config import format_size
from ensemble_tune.ensemble.layers import undo_speed_up
from ensemble_tune.ensemble.meta_model import MetaModel
from ensemble_tune.ensemble.trained_ensemble import TrainedEnsemble
from ensemble_tune.errors import ConfigError

_NEEDED = ("onnx", "onnxscript", "onnxruntime")
_LARGEST = 1536 * 2**20
"""Bytes of weights; a file holds no more than 2 GiB of protobuf, and torch begins a second one here."""
_LEAST_AGREEMENT, _LARGEST_DIFFERENCE = 0.99, 1e-3
"""Rounding to the stored 1/255 turns a difference in the last bit into a whole step, in few pixels."""


@dataclass(frozen=True, slots=True)
class Agreement:
    """How far ONNX Runtime's answers agree with torch's, on pictures made up for it."""

    labels: float
    """Share of pixels with the same class."""
    difference: float
    """Mean difference of a class probability."""


class EnsembleGraph(nn.Module):
    """What the file computes: images to logits and labels."""

    def __init__(self, ensemble: TrainedEnsemble) -> None:
        """A copy in float32, of torch's own layers."""
        super().__init__()
        self.ensemble = copy.deepcopy(ensemble)
        for module in self.ensemble.modules():
            if isinstance(module, BaseModel):
                module.precision = "float32"
                undo_speed_up(module)
            elif isinstance(module, MetaModel):
                module.config = replace(module.config, precision="float32")
        self.eval()

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """(B, K, h, w) uint8 to logits (B, C, h, w) and labels (B, h, w) uint8."""
        logits = cast(Tensor, self.ensemble(images))
        return logits, logits.argmax(1).to(torch.uint8)


def check_onnx() -> None:
    """Raises ConfigError where a package is missing that ONNX files are written with."""
    for name in _NEEDED:
        try:
            import_module(name)
        except ImportError:
            raise ConfigError(
                f"an ONNX file needs the package {name}, which is not installed; "
                "install it with: pip install 'ensemble-tune[onnx]'"
            ) from None


def write_onnx(ensemble: TrainedEnsemble, path: Path) -> Agreement:
    """Writes `path`, and runs what it wrote beside torch; the ensemble is on the CPU, and stays as it is.

    Raises ConfigError where packages are missing, where the weights are too many for one file, or where the ensemble
    sees images of more than 8 bits.
    """
    check_onnx()
    bits = ensemble.manifest.images.bits
    if bits != 8:
        raise ConfigError(
            f"an ONNX file takes images of 8 bits a channel, but the ensemble was trained on {bits}; segment with "
            "ensemble-tune itself, or convert its members with --format smp"
        )
    size = sum(tensor.numel() * tensor.element_size() for tensor in ensemble.state_dict().values())
    if size > _LARGEST:
        raise ConfigError(
            f"one ONNX file holds at most {_LARGEST / 2**30:.1f} GiB of weights, but the ensemble has "
            f'{size / 2**30:.1f} GiB; fuse fewer or smaller members, or train it with deploy = "refit"'
        )
    graph = EnsembleGraph(ensemble)
    first = next(module for module in ensemble.modules() if isinstance(module, BaseModel))
    mean, std = first.normalise.mean_and_std()
    images = _pictures(len(mean), ensemble.manifest.fusion.size)
    with torch.no_grad(), _quiet():
        program = torch.onnx.export(
            graph,
            (images,),
            input_names=["images"],
            output_names=["logits", "labels"],
            dynamic_shapes={"images": {0: torch.export.Dim("batch")}},
            dynamo=True,
            verbose=False,
        )
    assert program is not None, "torch's exporter of today returns a program"
    program.model.metadata_props.update(_metadata(ensemble, mean, std))
    program.save(path, external_data=False)
    # Of another batch than the one that it was traced with.
    agreement = _agreement(graph, path, images[:1])
    if not (agreement.labels >= _LEAST_AGREEMENT and agreement.difference <= _LARGEST_DIFFERENCE):
        raise RuntimeError(f"ONNX Runtime must predict what torch does, but: {agreement}")
    return agreement


def _agreement(graph: EnsembleGraph, path: Path, images: Tensor) -> Agreement:
    import onnxruntime

    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    logits, labels = session.run(["logits", "labels"], {"images": images.numpy()})
    with torch.inference_mode():
        expected, expected_labels = graph(images)
    same = float(np.mean(labels == expected_labels.numpy()))
    return Agreement(same, float((torch.from_numpy(logits).softmax(1) - expected.softmax(1)).abs().mean()))


def _pictures(channels: int, size: tuple[int, int]) -> Tensor:
    """Two pictures (2, K, h, w) uint8 of large and small things, always the same."""
    random = torch.Generator().manual_seed(0)
    coarse, fine = (torch.rand(2, channels, *cells, generator=random) for cells in ((6, 8), size))
    mixed = 0.7 * F.interpolate(coarse, size, mode="bilinear") + 0.3 * fine
    return (255 * mixed).to(torch.uint8)


def _metadata(ensemble: TrainedEnsemble, mean: list[float], std: list[float]) -> dict[str, str]:
    """What a reader of the file must know, as texts; lists are JSON. mean, std: of the pixels, in their units."""
    manifest = ensemble.manifest
    kind = f"{'RGB ' if len(mean) == 3 else ''}(batch, {len(mean)}, height, width)"
    return {
        "classes": json.dumps(manifest.classes),
        "size": format_size(manifest.fusion.size),
        "input": f"images: uint8 {kind} at this size, as stored; the graph normalises it",
        "resize": "averaged over areas where both sides shrink, else linear; logits grown linearly before the argmax",
        "tiles": json.dumps(None if manifest.tiles is None else dataclasses.asdict(manifest.tiles)),
        "output": "logits: float32 (batch, classes, height, width); labels: uint8 (batch, height, width)",
        "mean": json.dumps(mean),
        "std": json.dumps(std),
        "members": json.dumps([f"{base.architecture} {base.encoder}" for base in manifest.bases]),
        "fusion": manifest.fusion.kind,
        "ensemble": manifest.digest(),
        **{name: text for name, text in manifest.origin.items() if name in ("ensemble-tune", "torch")},
    }


@contextmanager
def _quiet() -> Iterator[None]:
    """Without the exporter's notes to those who write exporters."""
    log = logging.getLogger("torch.onnx")
    level = log.level
    log.setLevel(logging.ERROR)  # hints on operators and opsets: what was written is checked against torch afterwards
    try:
        with warnings.catch_warnings():
            # Deprecations within the exporter: only its authors can mend them.
            warnings.filterwarnings("ignore", module=r"(torch|onnxscript|onnx_ir)\.")
            yield
    finally:
        log.setLevel(level)  # as it was
