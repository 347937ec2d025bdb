"""The worst and the best frames of the final training, each with its truth and its prediction."""

from __future__ import annotations

import base64
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from ensemble_tune.ensemble.bootstrap import ious, mean_of_numbers
from ensemble_tune.ensemble.dataset import Dataset, open_dataset
from ensemble_tune.ensemble.disk_cache import default_cache
from ensemble_tune.ensemble.evidence import ENSEMBLE
from ensemble_tune.ensemble.image_file import Pixels
from ensemble_tune.ensemble.labels import IGNORED
from ensemble_tune.ensemble.mask import read_labels
from ensemble_tune.ensemble.overlay import palette, tinted
from ensemble_tune.ensemble.pieces import Piece, pieces_of
from ensemble_tune.ensemble.pixels import read_pixels
from ensemble_tune.errors import EnsembleTuneError
from ensemble_tune.final_folder import FinalFolder
from ensemble_tune.object_path import ObjectPath
from ensemble_tune.storage import location

_OF_EACH = 4
_LONGER_SIDE = 480
"""Pixels of a picture."""
_QUALITY = 80


@dataclass(frozen=True, slots=True, kw_only=True)
class Picture:
    """One frame, as data URIs."""

    name: str
    told: str
    """How well it is segmented."""
    frame: str
    truth: str
    prediction: str
    width: int
    height: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Pictures:
    """What can be shown, and why not more."""

    worst: tuple[Picture, ...] = ()
    best: tuple[Picture, ...] = ()
    legend: tuple[tuple[str, str], ...] = ()
    """Class names with their colours."""
    told: str = ""


def pictures(final: FinalFolder | None, data: str | None = None, cache: Path | None = None) -> Pictures:
    """The frames of the lowest and of the highest mean IoU of the classes that they show.

    data: where the data set is; None is what the manifest says, unless that is in an object store, which a report does
    not fetch unasked. cache: for what is fetched or made of it; None is the usual one.
    """
    if final is None or ENSEMBLE not in final.evidence:
        if final is None or final.split is None:
            return Pictures(told="Pictures come with the final training, which measures its ensemble frame by frame.")
        return Pictures(told="What the final training made of each frame is not there; train again to see it.")
    evidence = final.evidence[ENSEMBLE]
    source = data or final.manifest.data
    if source is None or (data is None and isinstance(location(source), ObjectPath)):
        there = "" if source is None else f" ({source})"
        return Pictures(told=f"The frames are not on this machine{there}; say where they are with --data.")
    try:
        dataset = open_dataset(source, cache or default_cache())
        dataset = dataset if final.manifest.split == "official" else dataset.in_blocks()
        foreign = f"{source} is not the data that the ensemble was measured on; give that with --data."
        split = final.split or "test"
        pieces = {piece.name: piece for piece in pieces_of(dataset, split)} if split in dataset.splits else {}
        # What an older version trained knows no digest.
        other = final.manifest.data_digest not in (None, dataset.digest)
        if other or not pieces.keys() >= set(evidence.names):
            return Pictures(told=foreign)
        scores = mean_of_numbers(ious(evidence.confusions))
        order = [int(row) for row in np.argsort(scores) if not np.isnan(scores[row])]
        count = min(_OF_EACH, max(1, len(order) // 2))

        rows = [*order[:count], *order[: -count - 1 : -1]]
        shown = [_picture(final, dataset, pieces[evidence.names[row]], float(scores[row])) for row in rows]
        drawn = tuple(picture for picture in shown if picture is not None)
        if len(drawn) < len(shown):
            return Pictures(told=foreign)
    except (EnsembleTuneError, OSError) as error:
        return Pictures(told=f"The frames cannot be shown: {error}.")
    colours = palette(evidence.classes)[: len(evidence.classes)]
    return Pictures(
        worst=drawn[:count],
        best=drawn[count:],
        legend=tuple((name, f"#{bytes(own).hex()}") for name, own in zip(evidence.classes, colours, strict=True)),
        told=f"Of {len(order)} frames of {final.split}, by the mean IoU of the classes that a frame shows. "
        "Drag the slider from prediction to truth.",
    )


def _picture(final: FinalFolder, dataset: Dataset, piece: Piece, score: float) -> Picture | None:
    """None where the prediction is of another size. Raises EnsembleTuneError or OSError where a file is broken, or not
    there.
    """
    kind, prediction = dataset.spec.images, final.mask(piece.name)
    if prediction.shape != piece.shape:
        return None
    image = kind.shown(piece.of(read_pixels(kind, piece.frame.image)))
    truth = piece.of(read_labels(dataset.spec, piece.frame.mask))
    colours = palette(dataset.spec.classes)
    labelled = truth != IGNORED
    wrong = float((truth != prediction)[labelled].mean()) if labelled.any() else 0.0
    everywhere = np.ones(prediction.shape, bool)
    frame_uri, size = _uri(image)
    return Picture(
        name=piece.name,
        told=f"mIoU {score:.3f}, {wrong:.1%} of pixels wrong",
        frame=frame_uri,
        truth=_uri(tinted(image, colours[truth], labelled))[0],
        prediction=_uri(tinted(image, colours[prediction], everywhere))[0],
        width=size[0],
        height=size[1],
    )


def _uri(image: Pixels) -> tuple[str, tuple[int, int]]:
    """A picture (H, W, 3) RGB as a data URI, scaled down, with its width and height."""
    height, width = image.shape[:2]
    share = min(1.0, _LONGER_SIDE / max(height, width))
    size = max(1, round(width * share)), max(1, round(height * share))
    small = cv2.resize(image, size, interpolation=cv2.INTER_AREA) if share < 1 else image
    turned = cv2.cvtColor(small, cv2.COLOR_RGB2BGR)
    _, encoded = cv2.imencode(".webp", turned, [cv2.IMWRITE_WEBP_QUALITY, _QUALITY])
    return f"data:image/webp;base64,{base64.b64encode(encoded.tobytes()).decode()}", size
