"""Every error that ensemble_tune raises on purpose.

EnsembleTuneError        one line: the rule, the value, the remedy
+-- ConfigError          a setting, a search space or a manifest is wrong
+-- DataError            a data set breaks a rule
+-- RunError             a run folder lacks an earlier stage, is locked, is damaged, or cannot be written
|   +-- StorageError     a file could not be written or read, however often it was tried
|       +-- StorageFullError  a disk or a quota is full
|       +-- NoStoreError      an object store cannot be used; a ConfigError too
+-- PredictionsError     saved predictions do not fit what they are asked for
+-- TrainingError        training cannot go on, for example because the loss is NaN
    +-- OutOfMemoryError it needs more memory than it was given
"""

from __future__ import annotations

import difflib
import shlex
from collections.abc import Iterable


class EnsembleTuneError(Exception):
    """A mistake that its reader can mend; the command line prints it as one line and exits with 2."""


class ConfigError(EnsembleTuneError):
    """A setting, a search space or a manifest is wrong."""


class DataError(EnsembleTuneError):
    """A data set breaks a rule."""


class RunError(EnsembleTuneError):
    """A run folder lacks an earlier stage, is locked by another process, is damaged, or cannot be written."""


class StorageError(RunError):
    """A file could not be written or read, however often it was tried."""


class StorageFullError(StorageError):
    """A disk or a quota is full; what was on it is whole."""


class NoStoreError(ConfigError, StorageError):
    """A bucket is not there, is not open to this machine, or does not answer from the start."""


class PredictionsError(EnsembleTuneError):
    """Saved predictions do not fit what they are asked for."""


class TrainingError(EnsembleTuneError):
    """Training cannot go on; the trial fails and the search goes on."""


class OutOfMemoryError(TrainingError):
    """A training needs more memory than it was given; it is tried once more with more of it."""


def suggest(name: str, valid: Iterable[str]) -> str:
    """The end of an error message that rejects `name`: the nearest valid name, or all of them."""
    known = [str(candidate) for candidate in valid]
    folded = {_fold(candidate): candidate for candidate in known}
    near = difflib.get_close_matches(_fold(name), folded, n=1)
    if near:
        return f"did you mean {folded[near[0]]!r}?"
    shown = ", ".join(sorted(known)[:12])
    return f"valid: {shown}{', ...' if len(known) > 12 else ''}"


def quoted(name: object) -> str:
    """A name or a place as a shell takes it, for the commands that a message advises: they are copied."""
    return shlex.quote(str(name))


def _fold(name: str) -> str:
    """A name without what people spell differently."""
    return name.lower().replace("-", "").replace("_", "").replace("+", "plus")
