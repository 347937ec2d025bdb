"""What `segment` has written into a folder, of which images and by which ensemble: it goes on where it ended."""

from __future__ import annotations

import hashlib
import json
import zlib
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import torch

from ensemble_tune.ensemble.disk_cache import default_cache
from ensemble_tune.ensemble.trained_ensemble import TrainedEnsemble
from ensemble_tune.storage import write_bytes


class Segmented:
    """Remembers files by size and time, the image's and those that were made of it; whatever has changed is made anew.

    It is kept in the cache and not beside the masks: whoever lists masks shall find masks alone.
    """

    def __init__(self, out: Path, model: TrainedEnsemble) -> None:
        """Reads what is known of `out`; nothing where another ensemble wrote there last."""
        name = hashlib.sha256(str(out.resolve()).encode()).hexdigest()[:16]
        self._file = default_cache() / "segmented" / f"{name}.jsonl"
        self._known: set[str] = set()
        own = json.dumps(_identity(model))
        try:
            first, *lines = self._file.read_text(encoding="utf-8").splitlines()
        except (OSError, ValueError):
            first, lines = "", []
        if first == own:
            self._known = set(lines)
            return
        with suppress(OSError):  # where no cache can be kept, all is segmented again
            self._file.parent.mkdir(parents=True, exist_ok=True)
            write_bytes(self._file, f"{own}\n".encode())

    def holds(self, image: Path, made: Sequence[Path]) -> bool:
        """Whether these files were made of the image as it is now, and nobody has touched them since."""
        try:
            return all(_line(image, each) in self._known for each in made)
        except OSError:
            return False

    def add(self, image: Path, made: Sequence[Path]) -> None:
        """They have been made."""
        with suppress(OSError), self._file.open("a", encoding="utf-8") as file:
            file.write("".join(f"{_line(image, each)}\n" for each in made))


def _line(image: Path, made: Path) -> str:
    states = [[each.name, (stat := each.stat()).st_size, stat.st_mtime_ns] for each in (image, made)]
    return json.dumps([str(image.resolve().parent), *states])


def _identity(model: TrainedEnsemble) -> dict[str, object]:
    """What tells an ensemble from every other whose masks may differ."""
    weights = 0
    for tensor in model.state_dict().values():
        weights = zlib.crc32(tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy(), weights)
    return {"ensemble": model.manifest.to_document(), "weights": weights}
