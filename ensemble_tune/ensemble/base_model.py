"""Base models: any architecture and encoder of segmentation_models_pytorch, behind one interface."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import cast

import segmentation_models_pytorch as smp
import timm
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ensemble_tune.ensemble.config import BaseConfig, Precision, format_size
from ensemble_tune.ensemble.encoder_weights import check_encoder_weights, is_hub_name, load_encoder_weights
from ensemble_tune.ensemble.image_spec import RGB, ImageSpec
from ensemble_tune.ensemble.layers import speed_up
from ensemble_tune.ensemble.precision import autocast
from ensemble_tune.errors import ConfigError, suggest

# Kept here because smp asks the model hub for them, which takes 25 s off line.
IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)

STRIDE = 32
"""Every encoder of smp works on sides that are multiples of this."""


class Normalise(nn.Module):
    """Frames as networks expect them, by the mean and deviation of ImageNet's pixels, or of the data set's own."""

    def __init__(self, images: ImageSpec = RGB) -> None:
        super().__init__()
        mean, std = 255 * torch.tensor(IMAGENET_MEAN), 255 * torch.tensor(IMAGENET_STD)
        if images.mean is not None and images.std is not None:
            mean, std = torch.tensor(images.mean), torch.tensor(images.std)
        # Not saved with the weights: they are constants, not something learnt.
        self.register_buffer("mean", mean.view(-1, 1, 1), persistent=False)
        self.register_buffer("scale", 1 / std.view(-1, 1, 1), persistent=False)

    def forward(self, images: Tensor) -> Tensor:
        """Pixels (B, C, h, w) in the data set's own units, of any type, to float32 of the same shape."""
        pixels = images.to(torch.float32, memory_format=torch.channels_last)
        return (pixels - cast(Tensor, self.mean)) * cast(Tensor, self.scale)

    def mean_and_std(self) -> tuple[list[float], list[float]]:
        """What is subtracted from each channel, and what that is divided by; in the units of the pixels."""
        return cast(Tensor, self.mean).flatten().tolist(), (1 / cast(Tensor, self.scale)).flatten().tolist()


class BaseModel(nn.Module):
    """A segmentation network that takes frames as they are stored.

    Frames are normalised and padded here, and the number type of the arithmetic is chosen here, so that training,
    scoring and segmenting cannot differ.
    """

    def __init__(self, network: nn.Module, precision: Precision, images: ImageSpec = RGB) -> None:
        super().__init__()
        self.normalise = Normalise(images)
        self.network = network
        self.precision = precision

    def forward(self, images: Tensor) -> Tensor:
        """Pixels (B, K, h, w), such as uint8 RGB, of any size, to logits (B, C, h, w), float32."""
        height, width = images.shape[-2:]
        pixels = F.pad(self.normalise(images), (0, -width % STRIDE, 0, -height % STRIDE), mode="replicate")
        with autocast(self.precision, images.device):
            logits = cast(Tensor, self.network(pixels))
        return logits[..., :height, :width].float()


def class_probabilities(model: nn.Module, images: Tensor, *, flip: bool) -> Tensor:
    """What a base model makes of images (B, K, h, w): class probabilities (B, C, h, w), float32, summing to 1 over C.

    flip: whether it sees each image mirrored too; then the mean of both, mirrored back.
    """
    own: Tensor = model(images).softmax(1)
    if not flip:
        return own
    mirrored: Tensor = model(images.flip(-1)).softmax(1)
    return (own + mirrored.flip(-1)) / 2


def build_base_model(
    config: BaseConfig, classes: int, *, images: ImageSpec = RGB, pretrained: bool = True
) -> BaseModel:
    """The network of `config`, its initial weights drawn from `config.seed`; on the CPU.

    images: what it sees. For other than three channels pretrained weights of the first layer, which are of red, green
    and blue, are repeated in turn and scaled by 3 / channels, or summed for one channel: so smp and timm do.
    pretrained: whether `config.encoder_weights` are put in; False where a checkpoint is loaded next, so that a trained
    model needs neither the hub nor the file again. Raises ConfigError if the weights cannot be had or do not fit.
    """
    weights = config.encoder_weights if pretrained else None
    hub = None
    if weights is not None:
        check_encoder_weights(config.encoder, weights)
        hub = weights if is_hub_name(config.encoder, weights) else None
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(config.seed)
        try:
            network = _network(config, classes, images.channels, hub)
        except Exception as error:  # as in `check_base_model`
            if hub is not None:
                raise
            _check_names(config)
            raise ConfigError(_reason(config, images.channels, error)) from error
    speed_up(network)
    if weights is not None and hub is None:
        load_encoder_weights(network.encoder, config.encoder, Path(weights))
    # Here rather than where it is trained: a model that is only used must round as it did when it was scored.
    return BaseModel(network, config.precision, images).to(memory_format=torch.channels_last)


def check_base_model(config: BaseConfig, images: ImageSpec = RGB) -> None:
    """Raises ConfigError if `config` cannot be built and trained: it is tried without memory or arithmetic.

    Finds unknown names with the nearest valid one, encoders that an architecture cannot take, sizes that are too small
    for it, a batch of one where its normalisation needs two, and weights that cannot be had.
    """
    _check_names(config)
    try:
        network = _without_memory(config, images.channels)
        height, width = (side + -side % STRIDE for side in config.size)
        network.train()(torch.empty(config.batch_size, images.channels, height, width, device="meta"))
    except Exception as error:  # smp and timm raise whatever comes to hand; each means "not this combination"
        raise ConfigError(_reason(config, images.channels, error)) from error
    if config.encoder_weights is not None:
        check_encoder_weights(config.encoder, config.encoder_weights)
        if not is_hub_name(config.encoder, config.encoder_weights):
            build_base_model(config, classes=2, images=images)


def _network(config: BaseConfig, classes: int, channels: int, hub_weights: str | None) -> smp.base.SegmentationModel:
    options = {} if config.decoder_attention is None else {"decoder_attention_type": config.decoder_attention}
    return smp.create_model(
        config.architecture,
        config.encoder,
        encoder_weights=hub_weights,
        in_channels=channels,
        classes=classes,
        **options,
    )


def _without_memory(config: BaseConfig, channels: int) -> nn.Module:
    """The network of `config` with shapes but no numbers."""
    try:
        with torch.device("meta"):
            # Some of smp's first layers for other than three channels take real memory all the same.
            return cast(nn.Module, _network(config, 2, channels, hub_weights=None).to("meta"))
    except RuntimeError as error:
        # Mix Transformers read the depths of their drop paths out of a tensor, which only real memory allows.
        if "meta tensors" not in str(error):
            raise
        return cast(nn.Module, _network(config, 2, channels, hub_weights=None).to("meta"))


def _check_names(config: BaseConfig) -> None:
    architectures = list(smp.MODEL_ARCHITECTURES_MAPPING)
    if config.architecture not in architectures:
        raise ConfigError(
            f"no architecture is called {config.architecture!r}; {suggest(config.architecture, architectures)}"
        )
    if config.encoder.startswith("tu-"):
        if not timm.is_model(config.encoder.removeprefix("tu-")):
            known = [f"tu-{name}" for name in timm.list_models()]
            raise ConfigError(f"no encoder is called {config.encoder!r}; {suggest(config.encoder, known)}")
    elif config.encoder not in smp.encoders.get_encoder_names():
        known = smp.encoders.get_encoder_names()
        raise ConfigError(f"no encoder is called {config.encoder!r}; {suggest(config.encoder, known)}")


def _reason(config: BaseConfig, channels: int, error: Exception) -> str:
    """One line: what cannot be built or trained, why, and what to change."""
    why = " ".join(str(error).split()).rstrip(".")
    model = f"{config.architecture} with the encoder {config.encoder!r}"
    if "more than 1 value per channel" in why:
        return (
            f"{model} at size {format_size(config.size)} needs batches of at least 2 frames, because it normalises "
            f"one value per frame, but batch_size is {config.batch_size}; set it to 2 or more"
        )
    if _builds_larger(config, channels):
        return f"{model} cannot work at size {format_size(config.size)}: {why}; try a larger size"
    return f"{model} cannot be built: {why}; choose another of the two, for example unet with resnet18"


def _builds_larger(config: BaseConfig, channels: int) -> bool:
    """Whether the same network works on larger frames."""
    try:
        larger = dataclasses.replace(config, size=(512, 512), batch_size=2, encoder_weights=None)
        _without_memory(larger, channels).train()(torch.empty(2, channels, 512, 512, device="meta"))
    except Exception:  # as above
        return False
    return True
