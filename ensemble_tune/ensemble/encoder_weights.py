"""Initial weights of an encoder: random, from the model hub, or from a local state file."""

from __future__ import annotations

import threading
import urllib.error
import urllib.request
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import segmentation_models_pytorch as smp
import timm
import torch
from huggingface_hub import constants, try_to_load_from_cache
from safetensors.torch import load_file
from timm.models import adapt_input_conv
from torch import Tensor, nn

from ensemble_tune.errors import ConfigError, suggest

_PROBE_SECONDS = 3.0
_PREFIXES = ("network.encoder.", "model.encoder.", "encoder.")
_PICTURE = 3
"""Channels that published weights are for."""
_HEADS = frozenset({"fc", "_fc", "classifier", "head", "linear", "last_linear"})
"""First parts of the names of an ImageNet classifier's last layer, which a segmentation encoder has no use for."""


def is_hub_name(encoder: str, weights: str) -> bool:
    """Whether `weights` names a set of published weights rather than a file."""
    return weights == "imagenet" or weights in _published(encoder)


def check_encoder_weights(encoder: str, weights: str) -> None:
    """Raises ConfigError if `weights` cannot be had for `encoder`: not published, off line, or no such file.

    Never waits for the hub's retries: the cache is asked first, then the hub itself for 3 s at most.
    """
    if not is_hub_name(encoder, weights):
        if not Path(weights).is_file():
            near = suggest(weights, _published(encoder) or ["imagenet"])
            hint = f" ({near})" if near.startswith("did") else ""
            raise ConfigError(
                f"encoder_weights must be imagenet, none or a local state file, but there is no file {weights!r}{hint}"
            )
        return
    files = _hub_files(encoder, weights)
    cached = all(isinstance(try_to_load_from_cache(repo, name, revision=version), str) for repo, name, version in files)
    if not cached and not _hub_answers():
        raise ConfigError(
            f"encoder_weights {weights!r} of {encoder!r} must be downloaded, but {constants.ENDPOINT} cannot be "
            "reached; use --encoder-weights none, or a local state file"
        )


def load_encoder_weights(encoder: nn.Module, name: str, file: Path) -> None:
    """Copies the weights in `file` (.safetensors, or a torch state file without code) into an smp encoder.

    Names may carry the prefix of a whole network; a classifier's last layer is left out, and a first layer for pictures
    is fitted to an encoder for other channels. Raises ConfigError if the file cannot be read, or if anything else is
    missing, left over or of another shape.
    """
    wanted: Mapping[str, Tensor] = encoder.state_dict()
    state = {key: _fitted(value, wanted.get(key)) for key, value in _without_prefix(_read(file)).items()}
    # Counters of batches are younger than some published weights, and only matter to a momentum nobody here sets.
    missing = [key for key in wanted if key not in state and not key.endswith("num_batches_tracked")]
    foreign = [key for key in state if key not in wanted and key.split(".")[0] not in _HEADS]
    shapes = [key for key, value in state.items() if key in wanted and value.shape != wanted[key].shape]
    for fault, keys in (("lacks", missing), ("has a foreign", foreign), ("has another shape of", shapes)):
        if keys:
            more = f" and {len(keys) - 1} more" if len(keys) > 1 else ""
            raise ConfigError(
                f"encoder_weights must fit the encoder {name!r}, but {str(file)!r} {fault} {keys[0]}{more}; "
                f"give a state file of {name!r}, or none"
            )
    encoder.load_state_dict({**wanted, **{key: value for key, value in state.items() if key in wanted}})


def _fitted(weights: Tensor, wanted: Tensor | None) -> Tensor:
    """The weights of a convolution of three channels for those of `wanted`, as smp and timm do; others as they are."""
    of_pictures = weights.ndim == 4 and weights.shape[1] == _PICTURE
    if wanted is None or not of_pictures or wanted.ndim != 4 or wanted.shape[1] == _PICTURE:
        return weights
    return adapt_input_conv(wanted.shape[1], weights)


def _published(encoder: str) -> list[str]:
    """Names of the weights that smp publishes for an encoder of its own; none for timm's."""
    known: Mapping[str, Any] = smp.encoders.encoders.get(encoder, {})
    return list(known.get("pretrained_settings") or {})


def _hub_files(encoder: str, weights: str) -> list[tuple[str, str, str | None]]:
    """Repository, file and revision of what a download would fetch. Raises ConfigError if nothing is published."""
    if encoder.startswith("tu-"):
        published = timm.get_pretrained_cfg(encoder.removeprefix("tu-"))
        if published is not None and published.hf_hub_id:
            return [(published.hf_hub_id, "model.safetensors", None)]
    elif weights in _published(encoder):
        source = smp.encoders.encoders[encoder]["pretrained_settings"][weights]
        return [(source["repo_id"], name, source["revision"]) for name in ("config.json", "model.safetensors")]
    valid = ", ".join([*_published(encoder), "none", "a local state file"])
    raise ConfigError(f"encoder_weights {weights!r} do not exist for the encoder {encoder!r}; valid: {valid}")


def _hub_answers() -> bool:
    """Whether the model hub can be reached now; a proxy is honoured, a slow name server bounded."""
    if constants.HF_HUB_OFFLINE:
        return False
    answers = threading.Event()

    def ask() -> None:
        try:
            with urllib.request.urlopen(
                urllib.request.Request(constants.ENDPOINT, method="HEAD"), timeout=_PROBE_SECONDS
            ):
                answers.set()
        except urllib.error.HTTPError:
            answers.set()
        except OSError:
            return

    # A thread, because looking up a host's name obeys no timeout.
    asking = threading.Thread(target=ask, daemon=True)
    asking.start()
    asking.join(_PROBE_SECONDS)
    return answers.is_set()


def _read(file: Path) -> dict[str, Tensor]:
    """The tensors of a state file by name; a training script's checkpoint may hold them under "state_dict"."""
    remedy = "give a .safetensors file, or a state file saved by torch.save(model.state_dict(), ...)"
    try:
        if file.suffix == ".safetensors":
            return load_file(file)
        with warnings.catch_warnings():
            # Deprecated kinds of tensors in a foreign file: what cannot be used is refused below, by name.
            warnings.filterwarnings("ignore", module=r"torch\.")
            content = torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:  # safetensors' and the system's own; what torch unpickles raises whatever it leads to
        raise ConfigError(f"encoder_weights {str(file)!r} cannot be read as tensors by name; {remedy}") from error
    state = content.get("state_dict", content) if isinstance(content, dict) else content
    if not isinstance(state, dict) or not all(map(_is_dense, state.values())) or set(map(type, state)) != {str}:
        raise ConfigError(f"encoder_weights {str(file)!r} must hold tensors by name; {remedy}")
    return state


def _is_dense(value: object) -> bool:
    """Whether a value is a tensor of plain numbers, which can be copied into a network."""
    return isinstance(value, Tensor) and value.layout is torch.strided and not value.is_quantized


def _without_prefix(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """The encoder's part of a network's state, under the encoder's own names."""
    for prefix in _PREFIXES:
        part = {key.removeprefix(prefix): value for key, value in state.items() if key.startswith(prefix)}
        if part:
            return part
    return state
