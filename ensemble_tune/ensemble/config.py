"""What can be configured, one frozen and validated class per thing; no torch, so that a manifest reads fast."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import re
import types
import typing
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, Self

from ensemble_tune.documents import LARGEST
from ensemble_tune.errors import ConfigError, suggest
from ensemble_tune.trial import Value

Schedule = Literal["one_cycle", "cosine", "constant"]
ClassWeights = Literal["none", "log", "sqrt", "median"]
Precision = Literal["auto", "float32", "bfloat16", "float16"]
MetaKind = Literal[
    "mean", "weighted", "greedy", "linear", "plain", "standard_se", "depthwise_cbam", "dilated_spatial", "group_eca"
]
"""Fusions, the simplest first."""
MetaOutput = Literal["weights", "correction"]

_ARCHITECTURE_SPELLINGS = {
    "u-net": "unet",
    "u-net++": "unetplusplus",
    "unet++": "unetplusplus",
    "deeplabv3+": "deeplabv3plus",
}
_SIZE = re.compile(r"\s*(\d{1,6})\s*x\s*(\d{1,6})\s*")
"""No side of a million pixels fits any memory."""
_WIDEST, _DEEPEST = 4096, 100
"""Of a meta-model: beyond any use, and soon beyond any memory."""
_SPOKEN = {
    bool: "true or false",
    int: "a whole number",
    float: "a number",
    str: "a text",
    type(None): "none",
}


class _Config:
    """Reads a config from plain values, and names what is wrong with them; base of every config."""

    __slots__ = ()

    @classmethod
    def field_names(cls) -> tuple[str, ...]:
        """The names that `from_params` accepts."""
        return tuple(field.name for field in dataclasses.fields(cls))  # type: ignore[arg-type]

    @classmethod
    def from_params(cls, params: Mapping[str, Any]) -> Self:
        """A config from names and plain values; a size may be text such as "360x480". Raises ConfigError."""
        hints = typing.get_type_hints(cls)
        values: dict[str, Any] = {}
        for name, value in params.items():
            if name not in hints:
                raise ConfigError(f"no setting is called {name!r}; {suggest(name, cls.field_names())}")
            values[name] = _typed(name, value, hints[name])
        missing = [
            field.name
            for field in dataclasses.fields(cls)  # type: ignore[arg-type]
            if field.default is dataclasses.MISSING and field.name not in values
        ]
        if missing:
            raise ConfigError(f"{missing[0]} has no default; set it")
        return cls(**values)

    def to_params(self) -> dict[str, Value]:
        """The config as plain values, a size as text, without what is None; `from_params` reads it back."""
        values = {name: getattr(self, name) for name in self.field_names()}
        return {n: format_size(v) if isinstance(v, tuple) else v for n, v in values.items() if v is not None}

    def digest(self) -> str:
        """16 hex digits that name this config: equal configs, equal digests."""
        return hashlib.sha256(json.dumps(self.to_params(), sort_keys=True).encode()).hexdigest()[:16]


def parse_size(text: str) -> tuple[int, int]:
    """Height and width in pixels from text such as "360x480". Raises ConfigError."""
    found = _SIZE.fullmatch(text.lower())
    if found is None or not (int(found[1]) and int(found[2])):
        raise ConfigError(f"a size is HEIGHTxWIDTH in pixels, but got {text!r}; try 360x480")
    return int(found[1]), int(found[2])


def _size(value: Any) -> tuple[int, int]:
    """A size from text such as "360x480", or from two whole numbers. Raises ConfigError."""
    numbers = value if isinstance(value, list | tuple) else None
    return parse_size(str(value) if numbers is None else "x".join(str(number) for number in numbers))


def format_size(size: tuple[int, int]) -> str:
    """Text such as "360x480" from height and width in pixels."""
    return f"{size[0]}x{size[1]}"


def _typed(name: str, value: Any, hint: Any) -> Any:
    """`value` as the field's type, where that loses nothing. Raises ConfigError."""
    options = typing.get_args(hint) if typing.get_origin(hint) in (typing.Union, types.UnionType) else (hint,)
    if type(None) in options and (value is None or value == "none"):
        return None
    for option in options:
        if typing.get_origin(option) is Literal:
            if value in typing.get_args(option):
                return value
            names = [*typing.get_args(option), *(["none"] if type(None) in options else [])]
            raise ConfigError(f"{name} cannot be {value!r}; {suggest(str(value), names)}")
        if typing.get_origin(option) is tuple:
            return _size(value)
        if option is float and isinstance(value, int | float) and not isinstance(value, bool):
            return float(value)
        if option is int and isinstance(value, float) and value.is_integer():
            return int(value)
        if isinstance(option, type) and isinstance(value, option) and isinstance(value, bool) == (option is bool):
            return value
    kind = " or ".join(_SPOKEN[option] for option in options)
    raise ConfigError(f"{name} must be {kind}, but got {value!r}")


def _check(ok: bool, name: str, rule: str, value: object) -> None:
    if not ok:
        raise ConfigError(f"{name} must be {rule}, but got {value!r}")


@dataclass(frozen=True, slots=True, kw_only=True)
class BaseConfig(_Config):
    """One base model and how it is trained: everything its weights depend on besides the frames."""

    architecture: str = "unet"
    """Any smp architecture: unet, unetplusplus, deeplabv3, deeplabv3plus, fpn, ..."""
    encoder: str = "mobilenet_v2"
    """Any smp encoder: mobilenet_v2, resnet18, resnet34, ..."""
    encoder_weights: str | None = None
    """"imagenet" (downloaded once), the path of a local state file, or None for random weights."""
    decoder_attention: Literal["scse"] | None = None
    """Attention in the decoder of U-Net and U-Net++ (Roy 2018), where the architecture has it."""
    size: tuple[int, int] = (360, 480)
    """Height and width in pixels at which the model works; scores are always taken at the frames' own size."""
    epochs: int = 30
    """Length of the learning-rate schedule, in passes over the training frames."""
    stop_epoch: int | None = None
    """Train no further than this epoch of the schedule; None is all of it."""
    batch_size: int = 4
    """Frames a step; an incomplete last batch is dropped."""
    learning_rate: float = 1.5e-3
    """AdamW's highest step size."""
    weight_decay: float = 1e-4
    """AdamW's decoupled weight decay, per step and unit of learning rate."""
    schedule: Schedule = "constant"
    """How the learning rate moves over the steps. A constant one needs averaged weights; then a score says what the
    model is worth as it is, however long its training was to be (Hägele 2024)."""
    jaccard_weight: float = 0.5
    """Share of the Jaccard loss in [0, 1); the rest is cross-entropy, since Jaccard alone can collapse."""
    class_weights: ClassWeights = "sqrt"
    """Weights of the classes in the cross-entropy, from their pixel frequencies in the training frames."""
    augmentation: float = 0.2
    """Strength in [0, 1]: 0 shows frames as they are."""
    averaging: float = 0.3
    """Share of the steps so far over which the weights that are scored and kept are averaged; 0 takes the last ones."""
    gradient_clip: float = 1.0
    """Largest norm of a step's gradient; 0 does not clip."""
    precision: Precision = "auto"
    """Arithmetic of the forward pass; auto is bfloat16 where the processor has it, else float32."""
    seed: int = 0
    """Initial weights, the order of frames and their augmentation."""

    def __post_init__(self) -> None:
        spelled = _ARCHITECTURE_SPELLINGS.get(self.architecture.lower(), self.architecture.lower().replace("-", ""))
        object.__setattr__(self, "architecture", spelled)
        _check_training(self)
        if self.decoder_attention is not None and self.architecture not in ("unet", "unetplusplus"):
            raise ConfigError(
                f"decoder_attention exists for unet and unetplusplus, but architecture is {self.architecture!r}; "
                'give it a condition: when = { architecture = ["unet", "unetplusplus"] }'
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class MetaConfig(_Config):
    """One fusion of base models, and how it is trained if it is trained at all."""

    kind: MetaKind = "dilated_spatial"
    """mean is the plain average, weighted and greedy are averages with weights, linear has a weight for every class of
    every member; the others are convolutional meta-models, plain without attention."""
    output: MetaOutput = "weights"
    """What a meta-model makes of its features: a weight of each member for every class and pixel, or a correction that
    is added to the logits of the members' mean. A correction can find what no member has found, and lose what all have;
    weights can do neither."""
    width: int = 32
    """Channels of the hidden layers; a multiple of 8."""
    depth: int = 3
    """Blocks between stem and head."""
    scale: float = 1.0
    """Working scale in (0, 1]: predictions are shrunk by it, logits grown back."""
    base_dropout: float = 0.0
    """Probability in [0, 1) that a whole base model is hidden in a training step."""
    use_image: bool = False
    """Whether the meta-model sees the frame beside the predictions."""
    log_probabilities: bool = False
    """Whether a meta-model sees the logarithms of the predictions: they tell small probabilities apart."""
    flip: bool = False
    """Whether members see each frame mirrored too, and the mean of both predictions is fused: twice the time."""
    size: tuple[int, int] = (360, 480)
    """Height and width in pixels of the bases' predictions."""
    epochs: int = 30
    """Length of the learning-rate schedule, in passes over the training frames."""
    stop_epoch: int | None = None
    """Train no further than this epoch of the schedule; None is all of it."""
    batch_size: int = 8
    """Frames a step; an incomplete last batch is dropped."""
    learning_rate: float = 3e-3
    """AdamW's highest step size."""
    weight_decay: float = 1e-4
    """AdamW's decoupled weight decay, per step and unit of learning rate."""
    schedule: Schedule = "one_cycle"
    """How the learning rate moves over the steps."""
    jaccard_weight: float = 0.5
    """Share of the Jaccard loss in [0, 1); the rest is cross-entropy."""
    class_weights: ClassWeights = "sqrt"
    """Weights of the classes in the cross-entropy, from their pixel frequencies in the training frames."""
    augmentation: float = 0.0
    """Strength in [0, 1] of the augmentation of predictions, image and labels together."""
    averaging: float = 0.5
    """Share of the steps so far over which the weights that are scored and kept are averaged; 0 takes the last ones."""
    gradient_clip: float = 1.0
    """Largest norm of a step's gradient; 0 does not clip."""
    precision: Precision = "auto"
    """Arithmetic of the forward pass; auto is bfloat16 where the processor has it, else float32."""
    seed: int = 0
    """Initial weights, the order of frames and their augmentation."""

    def __post_init__(self) -> None:
        _check_training(self)
        _check(self.width >= 8 and self.width % 8 == 0, "width", "a positive multiple of 8", self.width)
        _check(self.width <= _WIDEST, "width", f"at most {_WIDEST}", self.width)
        _check(self.depth >= 1, "depth", "at least 1", self.depth)
        _check(self.depth <= _DEEPEST, "depth", f"at most {_DEEPEST}", self.depth)
        _check(0 < self.scale <= 1, "scale", "above 0 and at most 1", self.scale)
        _check(0 <= self.base_dropout < 1, "base_dropout", "at least 0 and below 1", self.base_dropout)

    @property
    def trained(self) -> bool:
        """Whether the fusion has weights of its own."""
        return self.kind != "mean"


def _check_training(config: BaseConfig | MetaConfig) -> None:
    """The rules that both stages share. Raises ConfigError."""
    for name in config.field_names():
        value = getattr(config, name)
        _check(type(value) is not int or value <= LARGEST, name, f"at most {LARGEST}", value)
    _check(min(config.size) >= 32, "size", "at least 32x32 pixels", format_size(config.size))
    _check(config.epochs >= 1, "epochs", "at least 1", config.epochs)
    if config.stop_epoch is not None:
        _check(
            1 <= config.stop_epoch <= config.epochs,
            "stop_epoch",
            f"within 1 and epochs ({config.epochs})",
            config.stop_epoch,
        )
    _check(config.batch_size >= 1, "batch_size", "at least 1", config.batch_size)
    _check(0 <= config.jaccard_weight < 1, "jaccard_weight", "at least 0 and below 1", config.jaccard_weight)
    _check(0 < config.learning_rate <= 1, "learning_rate", "above 0 and at most 1", config.learning_rate)
    _check(0 <= config.weight_decay <= 1, "weight_decay", "within 0 and 1", config.weight_decay)
    _check(0 <= config.augmentation <= 1, "augmentation", "within 0 and 1", config.augmentation)
    _check(0 <= config.averaging <= 1, "averaging", "within 0 and 1", config.averaging)
    _check(config.gradient_clip >= 0, "gradient_clip", "at least 0", config.gradient_clip)
    _check(config.seed >= 0, "seed", "at least 0", config.seed)
