"""The arithmetic of a forward pass: which number type, and the autocast that applies it."""

from __future__ import annotations

from collections.abc import Mapping

import torch

from ensemble_tune.ensemble.config import Precision
from ensemble_tune.errors import ConfigError


def number_type(precision: Precision, device: torch.device) -> torch.dtype:
    """The number type that `precision` means on `device`.

    auto is bfloat16 where the hardware multiplies it; else float16 on a GPU, which then needs a loss scale, and float32
    on a processor. Raises ConfigError for float16 on a processor.
    """
    if precision == "float32":
        return torch.float32
    if precision == "bfloat16":
        return torch.bfloat16
    if device.type == "cuda":
        bfloat16 = precision == "auto" and torch.cuda.is_bf16_supported(including_emulation=False)
        return torch.bfloat16 if bfloat16 else torch.float16
    if precision == "float16":
        raise ConfigError(f"float16 needs a GPU, but the device is {device}; set precision to auto or bfloat16")
    return torch.bfloat16 if _processor_multiplies_bfloat16() else torch.float32


def autocast(precision: Precision, device: torch.device) -> torch.autocast:
    """The context in which a model's forward pass runs. Raises ConfigError as `number_type` does."""
    dtype = number_type(precision, device)
    return torch.autocast(device.type, dtype=dtype, enabled=dtype != torch.float32)


def _processor_multiplies_bfloat16() -> bool:
    """Whether bfloat16 has instructions of its own; emulated it is slower than float32."""
    # Older releases of torch cannot tell; float32 is then the safe answer.
    capabilities: Mapping[str, object] = getattr(torch.cpu, "get_capabilities", dict)()
    return any(capabilities.get(name) for name in ("avx512_bf16", "amx_bf16", "bf16"))
