"""`cluster check`: one file against Ray's schema and our rules, before it costs anything."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from ensemble_tune.cluster import kubernetes, launcher, rules, slurm
from ensemble_tune.cluster.cluster_file import ClusterFile, Kind
from ensemble_tune.cluster.fleet import Fleet


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """What a file would start, and what is wrong with it."""

    file: ClusterFile
    fleet: Fleet
    broken: tuple[str, ...]
    """One line for every rule that it breaks: where, rule, value, remedy."""


def check(path: str | Path) -> Verdict:
    """Raises ConfigError where the file cannot be read, or who it is for would refuse it."""
    file = ClusterFile.load(path)
    lines = list(rules.broken(file))
    if file.kind is Kind.LAUNCHER:
        config = launcher.expanded(file)
        lines += launcher.broken(file, config)
        fleet = launcher.fleet(file, config)
    elif file.kind is Kind.KUBERNETES:
        lines += kubernetes.broken(file)
        fleet = kubernetes.fleet(file)
    else:
        lines += slurm.broken(file)
        fleet = slurm.fleet(file)
    return Verdict(file=file, fleet=fleet, broken=tuple(dict.fromkeys(lines)))
