"""A process on its trial's share of a GPU: what it will take, that it takes no more, and what it took."""

from __future__ import annotations

import gc

import torch

from ensemble_tune.trial import Share, given_share

CONTEXT_BYTES = 640 * 2**20
"""What CUDA and its libraries hold of a card before the first tensor. Not measured."""
_WORKSPACE_BYTES = 256 * 2**20
"""What convolutions may take beside their tensors. Not measured."""
SPARE = 1.1
"""The allocator rounds up, and leaves gaps."""


def gpu_bytes(counted: int) -> int:
    """What a process whose tensors hold so many bytes takes of a card."""
    return int(SPARE * counted) + _WORKSPACE_BYTES + CONTEXT_BYTES


def keep_to_share(device: torch.device) -> None:
    """Lets this process allocate its trial's share of the card and no more: more raises torch.OutOfMemoryError.

    Frees what the trial before it in this process has left, and counts the peak anew.
    """
    if device.type != "cuda":
        return
    torch.cuda.init()  # type: ignore[no-untyped-call]  # before its first use torch knows no card whose peak it could reset
    gc.collect()  # what the trial before holds in cycles would be counted as this one's
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats(device)
    total = torch.cuda.get_device_properties(device).total_memory
    torch.cuda.set_per_process_memory_fraction(allocated_fraction(given_share(), total), device)


def allocated_fraction(share: Share | None, total: int) -> float:
    """The part of a card of `total` bytes that the tensors of a share may take."""
    if share is None or (share.gpu_bytes is None and not 0 < share.gpus < 1):
        return 1.0
    own = share.gpus * total if share.gpu_bytes is None else share.gpu_bytes
    # The context is taken of the card, but not by torch's allocator, which alone the limit is for.
    return min(1.0, max(0.0, (own - CONTEXT_BYTES) / total))


def most_taken(device: torch.device) -> int | None:
    """The most bytes of the card that this process has taken since `keep_to_share`; None without a card."""
    return torch.cuda.max_memory_reserved(device) + CONTEXT_BYTES if device.type == "cuda" else None
