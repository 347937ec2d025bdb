"""Memory that runs out: how a process is kept to its part of the machine's, and how its end is told from others."""

from __future__ import annotations

import resource
from pathlib import Path
from typing import Literal

from ensemble_tune.errors import OutOfMemoryError

Memory = Literal["gpu", "machine"]

_TORCH = "OutOfMemoryError"
"""Torch's own error of a GPU, by its name: this wing does not know torch."""
_OF_A_GPU = (
    "CUDA error: out of memory",
    "CUBLAS_STATUS_ALLOC_FAILED",
    "CUBLAS_STATUS_NOT_INITIALIZED",
    "CUDNN_STATUS_ALLOC_FAILED",
    "unable to find an engine to execute this computation",
)
"""In what CUDA and its libraries say, which take memory beside torch's allocator. cuDNN tries one way after another,
passes over those that have no room, and at last says that it found none."""
_BROKEN = "CUDA error"
"""In what torch says of a card after which its process can use it no more."""
_OF_THE_MACHINE = ("can't allocate memory", "Insufficient memory")
"""In what torch's allocator of the processor says, and OpenCV."""
OF_RAY_S_MONITOR = "running low on memory"
"""In what Ray says of a worker that it killed to save the others."""


def ran_out(error: BaseException) -> Memory | None:
    """Whose memory an error says was too small, the GPU's or the machine's; None where it says something else."""
    if isinstance(error, OutOfMemoryError) or type(error).__name__ == _TORCH:
        return "gpu"
    told = str(error)
    if any(words in told for words in _OF_A_GPU):
        return "gpu"
    if isinstance(error, MemoryError) or any(words in told for words in _OF_THE_MACHINE):
        return "machine"
    return None


def broke_its_card(error: BaseException) -> bool:
    """Whether the process that met the error can use its GPU no more: an illegal access, a card that fell out."""
    return _BROKEN in str(error) and ran_out(error) is None


def cause(why: str) -> str:
    """The line that says why a worker died, of all that Ray says: the last one, but advice follows on its monitor's."""
    lines = [line.strip() for line in why.splitlines()]
    return next((line for line in lines if OF_RAY_S_MONITOR in line), lines[-1])


def keep_to_memory(size: int | None) -> None:
    """Lets this process hold so many bytes of the machine and no more: more raises MemoryError. None lifts the bound.

    Files that are mapped do not count. Where the system has no such bound, there is none.
    """
    _, hard = resource.getrlimit(resource.RLIMIT_DATA)
    bound = resource.RLIM_INFINITY if size is None else size + _asked_for_and_unused()
    if hard != resource.RLIM_INFINITY:
        bound = hard if bound == resource.RLIM_INFINITY else min(bound, hard)
    resource.setrlimit(resource.RLIMIT_DATA, (bound, hard))


def _asked_for_and_unused() -> int:
    """Bytes that libraries have set aside, for threads mostly, and never touched: the bound counts them, memory has not
    got them."""
    try:
        lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
        kib = {name: int(rest.split()[0]) for name, _, rest in (line.partition(":") for line in lines) if "kB" in rest}
        return max(0, kib["VmData"] - kib["RssAnon"]) * 1024
    except (OSError, KeyError, ValueError, IndexError):
        return 0
