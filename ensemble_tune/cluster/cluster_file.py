"""A file that brings a cluster up: `ray up`'s YAML, Kubernetes' YAML, or a Slurm script."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any

import yaml

from ensemble_tune.documents import LARGEST
from ensemble_tune.errors import ConfigError


class Kind(StrEnum):
    """Who reads the file."""

    LAUNCHER = "ray up"
    KUBERNETES = "kubectl"
    SLURM = "sbatch"


_MOST_VALUES, _DEEPEST = 100_000, 100
"""Of a file: an alias may stand for so much that no walk through it would end."""
_ODD_VALUES = (ValueError, TypeError, LookupError, AttributeError, OverflowError, RecursionError)
"""What PyYAML raises for a text that is not of the type that it looks like, such as the date 2001-99-99."""


class _Loader(yaml.SafeLoader):  # type: ignore[misc]  # yaml has no types
    """Reads plain values alone, and no mapping into which a few aliases merge millions of others."""

    def flatten_mapping(self, node: Any) -> None:
        """Called by PyYAML for a mapping, and first for those that it merges."""
        super().flatten_mapping(node)
        if len(node.value) > _MOST_VALUES:
            raise yaml.YAMLError("it merges too many values")


@dataclass(frozen=True, slots=True)
class ClusterFile:
    """One file, read and told from its likes; nothing of it is checked yet."""

    path: Path
    kind: Kind
    text: str = field(repr=False)
    documents: tuple[dict[str, Any], ...] = ()
    """The YAML documents; none of a Slurm script."""

    @classmethod
    def load(cls, path: str | Path) -> ClusterFile:
        """Raises ConfigError where the file cannot be read or is none of the three kinds."""
        path = Path(path)
        try:
            text = path.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            reason = error.strerror if isinstance(error, OSError) else "it is no UTF-8 text"
            raise ConfigError(f"{path} must be a cluster file, but cannot be read ({reason}); check its path") from None
        if path.suffix == ".sh":
            if "#SBATCH" not in text:
                raise ConfigError(f"a cluster file in shell must have #SBATCH lines, but {path} has none")
            return cls(path, Kind.SLURM, text)
        try:
            documents = tuple(each for whole in yaml.load_all(text, _Loader) for each in _items(whole))
            _refuse_odd(documents)
        except (yaml.YAMLError, *_ODD_VALUES) as error:
            where = " ".join(str(error).split())
            raise ConfigError(f"{path} must be YAML, but is not ({where}); mend it") from None
        if not documents or not all(isinstance(each, dict) for each in documents):
            raise ConfigError(f"{path} must hold mappings such as those of cluster/onpremises.yaml, but does not")
        if all("apiVersion" in each for each in documents):
            return cls(path, Kind.KUBERNETES, text, documents)
        if len(documents) > 1 or not isinstance(documents[0].get("provider"), dict):
            raise ConfigError(f"a file for `ray up` must be one document with a provider, but {path} is not")
        return cls(path, Kind.LAUNCHER, text, documents)

    def lines(self) -> Iterator[tuple[str, str]]:
        """Everything that the file says, without its comments: where, and what."""
        if self.kind is Kind.SLURM:
            for number, line in enumerate(self.text.splitlines(), 1):
                if line.startswith("#SBATCH") or not line.lstrip().startswith("#"):
                    yield f"line {number}", line
        for document in self.documents:
            yield from _leaves(document, str(document.get("kind", "")))


def _items(document: Any) -> list[Any]:
    """What a Kubernetes List holds; of any other document itself."""
    if document is None:
        return []
    is_list = isinstance(document, dict) and document.get("kind") == "List" and isinstance(document.get("items"), list)
    return list(document["items"]) if is_list else [document]


def _refuse_odd(documents: tuple[Any, ...]) -> None:
    """Raises ValueError for what no cluster file holds."""
    left: list[tuple[Any, int]] = [(documents, 0)]
    seen = 0
    while left:
        value, depth = left.pop()
        seen += 1
        if seen > _MOST_VALUES or depth > _DEEPEST:
            raise ValueError("it holds too many values, or too deeply nested ones; see its aliases")
        if isinstance(value, dict):
            if not all(isinstance(key, str) for key in value):
                raise ValueError(f"a key must be text, but one is {next(k for k in value if not isinstance(k, str))!r}")
            left += [(each, depth + 1) for each in value.values()]
        elif isinstance(value, list | tuple):
            left += [(each, depth + 1) for each in value]
        elif isinstance(value, int) and abs(value) > LARGEST:
            raise ValueError("a whole number in it is larger than 64 bits hold")


def _leaves(value: Any, where: str) -> Iterator[tuple[str, str]]:
    """Every key and every scalar below `value`, each with its place such as provider.region."""
    if isinstance(value, dict):
        for key, each in value.items():
            place = f"{where}.{key}".lstrip(".")
            yield place, str(key)
            yield from _leaves(each, place)
    elif isinstance(value, list):
        for index, each in enumerate(value):
            yield from _leaves(each, f"{where}[{index}]")
    elif value is not None:
        yield where, str(value)
