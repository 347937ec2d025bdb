"""Slurm's scripts: requeued before the wall time, with a token on the shared home."""

from __future__ import annotations

import re
from collections.abc import Iterator

from ensemble_tune.cluster.cluster_file import ClusterFile
from ensemble_tune.cluster.fleet import Fleet, Group
from ensemble_tune.errors import ConfigError

_OPTION = re.compile(r"^#SBATCH\s+--(?P<name>[\w-]+)(?:[= ](?P<value>\S+))?", re.MULTILINE)


def broken(file: ClusterFile) -> Iterator[str]:
    """One line for every rule of ours that the script breaks."""
    options = _options(file)
    if "requeue" not in options or "signal" not in options:
        yield "#SBATCH: the job must go on after its wall time, but --requeue or --signal is missing; add both"
    signal = options.get("signal", "").rpartition(":")[2].partition("@")[0].removeprefix("SIG")
    if signal and not re.search(rf"^\s*trap\s.*\b(?:SIG)?{re.escape(signal)}\b", file.text, re.MULTILINE):
        yield f"the job must go on after its wall time, but no `trap` takes {signal}; trap the signal of --signal"
    if not re.search(r"^[^#\n]*\bscontrol\s+requeue\b", file.text, re.MULTILINE):
        yield "the job must go on after its wall time, but nothing runs `scontrol requeue`; run it after the search"
    if "umask 077" not in file.text or "chmod 600" not in file.text:
        yield "the token must be its owner's alone, but `umask 077` and `chmod 600` are missing; add them"
    if "--dashboard-host=127.0.0.1" not in file.text:
        yield "the dashboard must listen on 127.0.0.1, but the script does not say so; add --dashboard-host=127.0.0.1"


def fleet(file: ClusterFile) -> Fleet:
    """What would be started: the first node is the head, and trains too."""
    options = _options(file)
    # Slurm takes a range too: from so many nodes to so many.
    found = re.fullmatch(r"(?:\d{1,6}-)?(\d{1,6})", options.get("nodes", "1"))
    if found is None:
        raise ConfigError(f"--nodes in {file.path} must be a number, but is {options['nodes']!r}; try --nodes=4")
    nodes = max(1, int(found[1]))
    gpus, cpus = options.get("gpus-per-node"), options.get("cpus-per-task")

    def group(name: str, count: int) -> Group:
        return Group(
            name=name,
            machine=f"a node, for {options.get('time', 'as long as Slurm lets it')}",
            least=count,
            most=count,
            cpus=float(cpus) if cpus and cpus.isdecimal() else None,
            gpus=float(gpus) if gpus and gpus.isdecimal() else None,
            price=0.0,
        )

    return Fleet(
        name=options.get("job-name", file.path.stem),
        provider="slurm",
        head=group("head", 1),
        workers=(group("worker", nodes - 1),) if nodes > 1 else (),
        most_workers=nodes - 1,
    )


def _options(file: ClusterFile) -> dict[str, str]:
    return {match["name"]: match["value"] or "" for match in _OPTION.finditer(file.text)}
