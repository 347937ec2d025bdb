"""The winner as data: which base models, which fusion, how deployed, and the figures that chose them.

A manifest written by hand needs no more than its bases:

    size = "360x480"                # any setting of a base model here holds for all bases

    [[bases]]
    architecture = "unet"
    encoder = "resnet34"

    [[bases]]
    architecture = "deeplabv3"
    encoder = "resnet18"

    [fusion]
    kind = "mean"
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal, TypeVar, get_args

import tomli_w

from ensemble_tune.documents import parse_toml
from ensemble_tune.ensemble.config import BaseConfig, MetaConfig, format_size, parse_size
from ensemble_tune.ensemble.image_spec import RGB, ImageSpec
from ensemble_tune.ensemble.split import Split
from ensemble_tune.ensemble.tiles import Tiles
from ensemble_tune.errors import ConfigError, DataError, quoted, suggest
from ensemble_tune.storage import Location, write_text

T = TypeVar("T")
Deploy = Literal["refit", "folds"]
"""What stands for a member: one model trained on all training frames, or the mean of its K fold models."""
Stacking = Literal["out-of-fold", "in-sample"]
"""What a meta-model learns from; in-sample is the original scripts' way, kept for comparison: it leaks."""

_OWN_KEYS = (
    "format",
    "data",
    "data_digest",
    "classes",
    "deploy",
    "stacking",
    "folds",
    "split",
    "images",
    "tiles",
    "bases",
    "fusion",
    "scores",
    "members",
    "fusions",
    "from",
)
_FORMAT = 1
_MOST_FOLDS = 100_000
"""More are a slip of the pen, for which nobody should wait."""
META_TRIAL = "meta_trial"
"""The key of the exported trial in a manifest's origin."""
MANIFEST_FILE = "ensemble.toml"
"""A trained ensemble's manifest, in its folder."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EnsembleManifest:
    """All it takes to train an ensemble again, beside the data."""

    bases: tuple[BaseConfig, ...]
    fusion: MetaConfig
    deploy: Deploy = "refit"
    stacking: Stacking = "out-of-fold"
    folds: int = 3
    """Blocks that the training frames are cut into."""
    split: Split = "official"
    """What was held out as val."""
    data: str | None = None
    """Where the data was; None where it is to be said."""
    data_digest: str | None = None
    """Digest of the data that the scores are of."""
    classes: tuple[str, ...] = ()
    """Class names in the order of the masks' values; empty before any training."""
    images: ImageSpec = RGB
    """What the pixels of images are; as the data says it, once it is trained."""
    tiles: Tiles | None = None
    """How large images are cut; as the data says it."""
    trials: tuple[str, ...] = ()
    """The base trial behind each base, "" where there is none; empty where the manifest was written by hand."""
    scores: Mapping[str, float] = field(default_factory=dict)
    """The figures that chose this ensemble: on val of the fusion, mean, best_single and each base, with what they cost;
    crossfit_... are of training blocks, gains over simpler fusions with their intervals among them."""
    members: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    """Of each base trial what is known: scores on val, milliseconds an image, millions of parameters, megabytes of
    memory, seconds of training, weight in the greedy selection."""
    fusions: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    """Of each fusion that was compared: its scores and costs, and its gains over the simpler ones with intervals; the
    exported one's for each class too."""
    origin: Mapping[str, str] = field(default_factory=dict)
    """Versions, git commit, digests: where the ensemble is from."""

    def __post_init__(self) -> None:
        if not self.bases:
            raise ConfigError("an ensemble needs at least one base model; add a [[bases]] table")
        sizes = {base.size for base in self.bases} | {self.fusion.size}
        if len(sizes) > 1:
            shown = ", ".join(sorted(format_size(size) for size in sizes))
            raise ConfigError(
                f"all models of an ensemble must work at one size, but got {shown}; set size once, on top"
            )
        if len(set(self.bases)) < len(self.bases):
            raise ConfigError("two bases are the same model, so that one adds nothing; give one of them another seed")
        if self.folds < 2:
            raise ConfigError(f"folds must be at least 2, but got {self.folds}; try 3")
        if self.folds > _MOST_FOLDS:
            raise ConfigError(f"folds must be at most {_MOST_FOLDS}, but got {self.folds}; try 3")

    @classmethod
    def load(cls, path: Location) -> EnsembleManifest:
        """Reads a manifest. Raises ConfigError."""
        try:
            document = parse_toml(path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            raise ConfigError(
                f"no manifest is at {path}; write one with: ensemble-tune export RUN --to {quoted(path)}"
            ) from None
        except (OSError, ValueError) as error:
            raise ConfigError(f"a manifest is a readable TOML file, but {path} is not: {error}") from None
        try:
            return cls.from_document(document)
        except ConfigError as error:
            raise ConfigError(f"{path}: {error}") from None

    @classmethod
    def from_document(cls, document: Mapping[str, Any]) -> EnsembleManifest:
        """From what a TOML file holds. Raises ConfigError."""
        shared = {key: value for key, value in document.items() if key not in _OWN_KEYS}
        known = (*_OWN_KEYS, *BaseConfig.field_names())
        for key in shared:
            if key not in known:
                raise ConfigError(f"a manifest has no key {key!r}; {suggest(key, known)}")
        if document.get("format", _FORMAT) != _FORMAT:
            raise ConfigError(
                f"format must be {_FORMAT}, but got {document['format']!r}; export again with this version"
            )
        tables = document.get("bases", [])
        fusion = document.get("fusion", {"kind": "mean"})
        if not isinstance(tables, list) or not all(isinstance(table, dict) for table in tables):
            raise ConfigError("bases must be tables; write each as [[bases]]")
        if not isinstance(fusion, dict):
            raise ConfigError("fusion must be a table; write it as [fusion]")
        bases = tuple(
            BaseConfig.from_params(shared | {k: v for k, v in table.items() if k != "trial"}) for table in tables
        )
        size: dict[str, Any] = {"size": format_size(bases[0].size)} if bases else {}
        origin = document.get("from", {})
        if not isinstance(origin, dict) or not all(isinstance(text, str) for text in origin.values()):
            raise ConfigError("from must be a table of texts")
        return cls(
            bases=bases,
            fusion=MetaConfig.from_params(size | fusion),
            deploy=_one_of("deploy", document.get("deploy", "refit"), get_args(Deploy)),
            stacking=_one_of("stacking", document.get("stacking", "out-of-fold"), get_args(Stacking)),
            folds=_whole("folds", document.get("folds", 3)),
            split=_one_of("split", document.get("split", "official"), get_args(Split)),
            data=_text("data", document.get("data")),
            data_digest=_text("data_digest", document.get("data_digest")),
            classes=tuple(_texts("classes", document.get("classes", []))),
            images=_of_data(ImageSpec.read, document.get("images", {})),
            tiles=_of_data(Tiles.read, document["tiles"]) if "tiles" in document else None,
            trials=tuple(str(table.get("trial", "")) for table in tables) if any("trial" in t for t in tables) else (),
            scores=_numbers("scores", document.get("scores", {})),
            members=_tables_of_numbers("members", document.get("members", {})),
            fusions=_tables_of_numbers("fusions", document.get("fusions", {})),
            origin=dict(origin),
        )

    def with_settings(
        self,
        *,
        epochs: int | None = None,
        batch_size: int | None = None,
        learning_rate: float | None = None,
        size: str | None = None,
        seed: int | None = None,
    ) -> EnsembleManifest:
        """This manifest with some settings of all bases replaced; None leaves each its own. Raises ConfigError.

        Other epochs are another schedule, so they are trained to their end. A size holds for the fusion too. What was
        known of the ensemble that was searched, its name and its figures, is not known of another.
        """
        given = {"epochs": epochs, "batch_size": batch_size, "learning_rate": learning_rate, "seed": seed}
        changes: dict[str, Any] = {name: value for name, value in given.items() if value is not None}
        if epochs is not None:
            changes["stop_epoch"] = None
        sized: dict[str, Any] = {} if size is None else {"size": parse_size(size)}
        other = replace(
            self,
            bases=tuple(replace(base, **changes, **sized) for base in self.bases),
            fusion=replace(self.fusion, **sized),
        )
        if other.digest() == self.digest():
            return self
        origin = {name: text for name, text in self.origin.items() if name != META_TRIAL}
        return replace(other, scores={}, members={}, fusions={}, origin=origin)

    def to_document(self) -> dict[str, Any]:
        """What a TOML file holds; `from_document` reads it back."""
        top: dict[str, Any] = {"format": _FORMAT, "deploy": self.deploy, "stacking": self.stacking}
        top |= {"folds": self.folds, "split": self.split}
        top |= {k: v for k, v in (("data", self.data), ("data_digest", self.data_digest)) if v is not None}
        if self.classes:
            top["classes"] = list(self.classes)
        names = self.trials or ("",) * len(self.bases)
        bases = [
            {**({"trial": name} if name else {}), **base.to_params()}
            for name, base in zip(names, self.bases, strict=True)
        ]
        of_data = {
            "images": {} if self.images == RGB else self.images.to_document(),
            "tiles": {} if self.tiles is None else self.tiles.to_document(),
        }
        measured = {
            "scores": dict(self.scores),
            "members": {name: dict(own) for name, own in self.members.items()},
            "fusions": {name: dict(own) for name, own in self.fusions.items()},
        }
        tables = {**of_data, "fusion": self.fusion.to_params(), **measured, "from": dict(self.origin)}
        return top | {"bases": bases} | {name: table for name, table in tables.items() if table}

    def digest(self) -> str:
        """16 hex digits that name what is trained, whatever its scores and origin."""
        plain = (
            [base.to_params() for base in self.bases],
            self.fusion.to_params(),
            self.deploy,
            self.stacking,
            self.folds,
            *(() if self.split == "official" else (self.split,)),  # without it as before there were splits
        )
        return hashlib.sha256(json.dumps(plain, sort_keys=True).encode()).hexdigest()[:16]

    def save(self, path: Location) -> None:
        """Writes the manifest as TOML, atomically."""
        write_text(path, tomli_w.dumps(self.to_document()))


def _one_of(name: str, value: object, choices: tuple[Any, ...]) -> Any:
    if value not in choices:
        raise ConfigError(f"{name} cannot be {value!r}; {suggest(str(value), choices)}")
    return value


def _whole(name: str, value: object) -> int:
    if isinstance(value, bool) or not isinstance(value, int):
        raise ConfigError(f"{name} must be a whole number, but got {value!r}")
    return value


def _of_data(read: Callable[[Any], T], table: object) -> T:
    """What a data set says of itself."""
    try:
        return read(table)
    except DataError as error:
        raise ConfigError(str(error)) from None


def _text(name: str, value: object) -> str | None:
    if value is not None and not isinstance(value, str):
        raise ConfigError(f"{name} must be a text, but got {value!r}")
    return value


def _texts(name: str, value: object) -> list[str]:
    if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
        raise ConfigError(f"{name} must be a list of texts, but got {value!r}")
    return value


def _numbers(name: str, value: object) -> dict[str, float]:
    if not isinstance(value, dict) or not all(isinstance(score, int | float) for score in value.values()):
        raise ConfigError(f"{name} must be a table of numbers")
    return {key: float(score) for key, score in value.items()}


def _tables_of_numbers(name: str, value: object) -> dict[str, dict[str, float]]:
    if not isinstance(value, dict):
        raise ConfigError(f"{name} must be a table of tables of numbers")
    return {key: _numbers(f"{name}.{key}", table) for key, table in value.items()}
