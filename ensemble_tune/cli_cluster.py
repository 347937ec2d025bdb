"""The verbs around clusters: checking a file before it costs anything, and leaving a machine in good order."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ensemble_tune.cli_output import err_console, out_console
from ensemble_tune.errors import ConfigError

if TYPE_CHECKING:
    from ensemble_tune.cluster.fleet import Fleet

cluster_app = typer.Typer(help="Clusters: check a file before it costs anything.", no_args_is_help=True)


@cluster_app.command("check")
def check(
    file: Annotated[Path, typer.Argument(help="A file such as those in cluster/.", show_default=False)],
) -> None:
    """Say what a cluster file would start, what an hour costs at most, and which rules of safety it breaks."""
    from ensemble_tune.cluster.check import check as judge

    verdict = judge(file)
    _print_fleet(verdict.fleet)
    for line in verdict.broken:
        err_console.print(f"- {line}", soft_wrap=True)
    if verdict.broken:
        count = len(verdict.broken)
        raise ConfigError(f"{file} breaks {count} {'rule' if count == 1 else 'rules'}; mend it, then check it again")
    out_console.print(f"{file} keeps to every rule", soft_wrap=True)


@cluster_app.command("watch")
def watch(
    notice: Annotated[str, typer.Option(help="Who tells that the machine goes: aws, gcp, or a file that appears.")],
) -> None:
    """Wait on a cluster's machine for the notice that it is taken away, and drain it: its trials move."""
    from ensemble_tune.cluster.notice import source
    from ensemble_tune.cluster.watch import watch as wait

    told = source(notice)
    err_console.print(f"watching {notice} for the notice that this machine is taken away", soft_wrap=True)
    err_console.print(wait(told), soft_wrap=True)


def _print_fleet(fleet: Fleet) -> None:
    """A row a group, and what all of them come to."""
    from rich.table import Table

    table = Table(title=f"{fleet.name} on {fleet.provider}", title_justify="left")
    for name in (
        "group",
        "machine",
        "machines",
        "CPUs",
        "GPUs",
        "spot",
        f"an hour ({fleet.currency or 'no currency'})",
    ):
        table.add_column(name)
    for group in fleet.groups:
        table.add_row(
            group.name,
            group.machine,
            str(group.most) if group.least == group.most else f"{group.least} to {group.most}",
            *("as found" if each is None else f"{each:g}" for each in (group.cpus, group.gpus)),
            "yes" if group.spot else "no",
            "-" if group.price is None else f"{group.price:g}",
        )
    out_console.print(table)
    idle = f", and go when idle for {fleet.idle_minutes:g} minutes" if fleet.idle_minutes is not None else ""
    out_console.print(f"at most {fleet.most_workers} workers at a time{idle}", soft_wrap=True)
    most = fleet.most_an_hour()
    if most is None and fleet.provider == "kubernetes":
        out_console.print("what an hour costs is not known: a file for Kubernetes names no prices", soft_wrap=True)
    elif most is None:
        missing = ", ".join(fleet.unpriced)
        out_console.print(f"what an hour costs is not known: metadata.prices lacks {missing}", soft_wrap=True)
    elif most:
        cost = f"{most:.2f} {fleet.currency}".rstrip()
        out_console.print(f"an hour costs at most {cost} for machines; disks and traffic come on top", soft_wrap=True)
