"""Built-in street scenes."""
from __future__ import annotations
from pathlib import Path

def synthetic_folder(cache: Path, seed: int) -> Path:
    """x."""
    raise NotImplementedError
