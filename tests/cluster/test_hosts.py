"""Ray on three SSH hosts, by the page's own commands: who gets in, what a run finds, what dies and is lost."""

from __future__ import annotations

import math
import re
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from cluster_files import ROOT
from counting_trial import check
from hosts import Host, plain_environment
from ray_cluster import Cluster, back_on, on_the_page, wait_for

from ensemble_tune.tune.ledger import LEDGER, Ledger
from ensemble_tune.tune.record import EpochRecord, Status, TrialRecord
from ensemble_tune.tune.trial_folder import TrialFolder

pytestmark = pytest.mark.timeout(900)

TRIALS, EPOCHS = 45, 12
"""Of the search that hosts die in: enough for all that is done to it, on a busy machine too."""
COMMAND = (Path(__file__).parent / "counting_run.py", "/mnt/killed", TRIALS, EPOCHS)


def test_ray_up_of_the_shipped_file_brings_three_nodes(cluster: Cluster) -> None:
    assert cluster.alive() == [host.address for host in cluster.hosts]
    changed = (cluster.checkout / "cluster" / "onpremises.yaml").read_text().splitlines()
    shipped = (ROOT / "cluster" / "onpremises.yaml").read_text().splitlines()
    end = next(number for number, line in enumerate(shipped) if line.startswith("# ... to here."))
    assert changed[end:] == shipped[end:]


def test_the_token_is_its_owner_s_alone_on_every_host_and_nowhere_else(cluster: Cluster) -> None:
    check_that_nobody_sees_the_token(cluster)


def test_a_wrong_or_missing_token_is_refused_by_the_head_and_the_job_server(cluster: Cluster) -> None:
    assert cluster.ask("/api/jobs/")[0] == 200
    assert cluster.ask("/api/jobs/", token=None)[0] == 401
    assert cluster.ask("/api/jobs/", token="0" * 64)[0] == 403
    head = f"{cluster.hosts[0].address}:6379"
    program = (
        "import sys; from ray._raylet import GcsClient\n"
        f"print('nodes', len(GcsClient(address='{head}').get_all_node_info(timeout=5)))"
    )

    def nodes(**variables: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            cluster.hosts.user_command(sys.executable, "-c", program),
            env=cluster.hosts.environment() | variables,
            capture_output=True,
            text=True,
            timeout=60,
        )

    assert "nodes 3" in nodes(RAY_AUTH_MODE="token").stdout
    for wrong in ({"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": "0" * 64}, {"RAY_AUTH_MODE": "disabled"}):
        refused = nodes(**wrong)
        assert refused.returncode != 0 and "nodes" not in refused.stdout
        assert re.search("(?i)unauthenticated|token", refused.stderr), refused.stderr


def test_the_dashboard_answers_on_loopback_alone(cluster: Cluster) -> None:
    assert cluster.ask("/")[0] == 200, "through the tunnel"
    for host in cluster.hosts:
        assert cluster.ask("/", address=host.address) == (0, "")
    listening = cluster.hosts[0].run("ss -Hltn 'sport = :8265'").stdout.split()
    assert "127.0.0.1:8265" in listening and not any(word.startswith(("0.0.0.0:8265", "*:8265")) for word in listening)


def test_a_two_stage_run_from_the_page_uses_all_hosts(cluster: Cluster) -> None:
    assert "succeeded" in cluster.type(on_the_page("ray job submit --submission-id demo"), seconds=600)
    out = cluster.hosts.shared / "runs" / "demo"
    assert (out / "best.toml").exists() and (out / "final" / "metrics.json").exists()
    assert "SUCCEEDED" in cluster.type(on_the_page("ray job status")).upper()
    assert "base-0003" in cluster.type(on_the_page("ray rsync-down"))
    ledger = Ledger(out / LEDGER)
    rows = ledger.epochs("base")
    assert {row.worker.partition("/")[0] for row in rows} == {host.name for host in cluster.hosts}
    assert {session.slots for session in ledger.sessions("base")} == {3}, "as many as there are CPUs"
    assert {row.gpu["share"] for row in rows} == {0.5}


def test_what_is_extended_goes_on(cluster: Cluster) -> None:
    cluster.type(on_the_page("ray job submit --submission-id more"), seconds=300)
    trials = Ledger(cluster.hosts.shared / "runs" / "demo" / LEDGER).trials("base")
    assert [(trial.number, trial.status) for trial in trials] == [(number, Status.FINISHED) for number in range(5)]


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[subprocess.Popen[bytes], Path]]:
    """The page's run on this machine, each trial with as many threads: on its way, while tests wait for hosts."""
    command = on_the_page("ray job submit --submission-id demo").partition(" -- ensemble-tune ")[2]
    words = [word for word in command.split() if word not in ("--gpus-per-trial", "0.5", "--out", "/mnt/runs/demo")]
    folder = tmp_path_factory.mktemp("alone")
    own = ["--cpu", "--out", str(folder / "run"), "--cache", str(folder / "cache")]
    with subprocess.Popen(
        ["nice", "-n", "19", sys.executable, "-m", "ensemble_tune", *words, *own],
        env=plain_environment() | {"PYTHONPATH": str(ROOT)},
    ) as process:
        try:
            yield process, folder / "run"
        finally:
            process.terminate()


@pytest.mark.usefixtures("alone")
def test_hosts_that_die_or_are_cut_off_cost_an_epoch_and_are_used_again_and_job_stop_ends_in_order(
    cluster: Cluster,
) -> None:
    """The head's slots train on alone for a while. A worker of the host that was cut off ends its epoch only when
    another has its trial: that epoch comes too late, and is refused."""
    _, dies, cut = cluster.hosts
    out = cluster.hosts.shared / "killed"
    cluster.submit("killed", *COMMAND, 2.0)
    wait_for(lambda: len(log(out)) >= 8, 200)
    late = in_the_middle_of_an_epoch(out, cut)
    cut.stop(late.process)
    lost = {line[0] for line in lines(out) if line[3] == dies.name}
    dies.kill()
    cut.cut_off()
    unplugged = time.time()
    back_on(cluster, dies)
    wait_for((late.folder / "attempt-0002").exists, 90)
    cut.go_on(late.process)
    wait_for(lambda: late.line in lines(out), 20)
    time.sleep(max(0.0, unplugged + 30 - time.time()))
    cut.reconnect()
    back = time.time()
    wait_for(lambda: {dies.name, cut.name} <= used(out, since=back), 240, pause=1)
    asked = time.time()
    cluster.type("ray job stop --no-wait killed")
    wait_for(lambda: cluster.status("killed") == "STOPPED", 20)
    ledger = Ledger(out / LEDGER)
    (session,) = ledger.sessions("base")
    assert session.reason == "interrupted" and session.ended is not None
    assert session.ended.timestamp() - asked < 10, "the command line's own time included"
    trials, rows = whole(out)
    check(trials, rows)
    # What the worker that was late has trained is in its log, and nowhere else.
    assert late.line in lines(out) and not (late.folder / "attempt-0001" / f"epoch-{late.epoch:05d}").exists()
    (row,) = [row for row in rows if (row.trial, row.epoch) == (late.folder.name, late.epoch)]
    assert row.attempt > 1 and row.worker != f"{cut.name}/{late.process}"
    again = [row.reported.timestamp() for row in rows if row.attempt == 2 and str(seeds(trials)[row.trial]) in lost]
    elsewhere = min(again, default=math.nan) - unplugged
    print(f"a host that died: {elsewhere:.1f} s until one of its trials ended an epoch elsewhere")
    # Two events, each at most an epoch of each trial that ran, and those that the stop has cut short.
    assert max(Counter(log(out)).values()) <= 2 and len(log(out)) <= len(rows) + 2 + 2 + 6


def test_it_is_resumed_a_host_is_left_without_loss_and_where_the_head_dies_ray_up_and_the_same_command_go_on(
    cluster: Cluster,
) -> None:
    """The search that was stopped: a host that must be left is drained, and no epoch is lost; then the head dies."""
    cluster.wait_for_nodes(3)
    head, _, leaves = cluster.hosts
    out = cluster.hosts.shared / "killed"
    before, since = len(log(out)), time.time()
    cluster.submit("resumed", *COMMAND, 1.0)
    # A trial that has many epochs left, so that it is not at its end before anybody knows that it has to move.
    wait_for(lambda: any(name == leaves.name and int(epoch) <= 4 for _, epoch, _, name in lines(out)[before:]), 200)
    leaves.run("touch ~/ensemble_tune/leave")
    wait_for(lambda: leaves.address not in cluster.alive(), 60, pause=0.5)
    wait_for(lambda: moved(out, since, leaves), 60, pause=0.5)  # before it may come back, and take them again
    leaves.run("rm ~/ensemble_tune/leave")
    assert "are leaving the cluster" in cluster.type("ray job logs resumed")
    assert set(Counter(log(out)[before:]).values()) == {1}, "trials moved at their checkpoints"
    for host in cluster.hosts:  # nobody is cut off any more: Ray, which is set up anew, may give a head up sooner
        host.say("export RAY_gcs_rpc_server_reconnect_timeout_s=10")
    head.kill()
    assert len(set(log(out))) < TRIALS * EPOCHS, "in mid-search"
    back_on(cluster, head)
    cluster.type(on_the_page("ray up"))
    cluster.open_tunnel()
    cluster.submit("again", *COMMAND, 0.05)
    cluster.wait_for_end("again")
    trials, rows = whole(out)
    check(trials, rows)
    assert [(trial.status, trial.epochs) for trial in trials] == [(Status.FINISHED, EPOCHS)] * TRIALS
    assert max(Counter(log(out)[before:]).values()) <= 2 and len(log(out)) <= TRIALS * EPOCHS + 2 + 2 + 6 + 6


def test_ray_down_ends_ray_and_nobody_has_seen_the_token(cluster: Cluster) -> None:
    cluster.wait_for_nodes(3)  # the workers, too, are still coming back to the head that died
    check_that_nobody_sees_the_token(cluster)
    cluster.close_tunnel()
    cluster.type(on_the_page("ray down"))
    head, *others = cluster.hosts
    assert "raylet" not in head.run("ps -eo comm").stdout
    for host in others:
        wait_for(lambda host=host: "raylet" not in host.run("ps -eo comm").stdout, 90, pause=1)


def test_what_the_hosts_found_is_what_one_machine_finds(
    cluster: Cluster, alone: tuple[subprocess.Popen[bytes], Path]
) -> None:
    """Bit for bit, both stages: every score of every epoch of every trial of the two-stage run, and what came of it."""
    process, here = alone
    assert process.wait(timeout=400) == 0
    there = cluster.hosts.shared / "runs" / "demo"
    found, expected = learned(there), learned(here)
    assert {trial for trial, _ in found.keys() - expected.keys()} == {"base-0004", "fold-0010"}, "the extension's"
    assert {each: found[each] for each in expected} == expected
    assert {trial.partition("-")[0] for trial, _ in expected} == {"base", "fold", "meta", "compare"}
    assert learned(there / "final") == learned(here / "final") != {}
    results = [path.relative_to(here) for path in (here / "final" / "masks").iterdir()]
    for name in [*results, "final/metrics.json"]:
        assert (there / name).read_bytes() == (here / name).read_bytes()
    assert results


def check_that_nobody_sees_the_token(cluster: Cluster) -> None:
    """It is in its file, of mode 600; in no command line, log of Ray or of ours, or anything that was printed."""
    token = (Path(cluster.hosts.environment()["HOME"]) / ".ray" / "auth_token").read_text().strip()
    assert len(token) >= 32
    for host in cluster.hosts:
        assert host.run("stat -c %a ~/.ray/auth_token; stat -c %a ~/.ray").stdout.split() == ["600", "700"]
        assert (host.home / ".ray" / "auth_token").read_text().strip() == token
        commands = host.run("cat /proc/[0-9]*/cmdline | tr '\\0' ' '").stdout
        assert "raylet" in commands and token not in commands
        logs = [path for path in (host.folder / "ray").rglob("*") if path.is_file() and not path.is_symlink()]
        assert len(logs) > 10
        logs += [*host.home.rglob("*.log"), *host.folder.glob("*.log"), *cluster.hosts.folder.glob("*.log")]
        assert not [path for path in logs if token.encode() in path.read_bytes()]
    assert cluster.told and not [each for each in cluster.told if token in each]


@dataclass(frozen=True)
class Late:
    """An epoch that a worker was stopped in."""

    folder: Path
    """Its trial's."""
    epoch: int
    process: int
    line: list[str]
    """What the log will say of it."""


def in_the_middle_of_an_epoch(out: Path, host: Host) -> Late:
    """A worker of a host that trains an epoch of a trial's first attempt, whose epoch before is on storage."""
    seen = len(lines(out))

    def found() -> Late | None:
        for seed, epoch, process, name in lines(out)[seen:]:
            if name == host.name and int(epoch) < EPOCHS:
                for folder in (out / "checkpoints").iterdir():
                    known = TrialFolder(folder).remembered()
                    if known is not None and str(known.seed) == seed:
                        after = int(epoch) + 1
                        return Late(folder, after, int(process), [seed, str(after), process, name])
        return None

    wait_for(found, 60)
    late = found()
    assert late is not None and not (late.folder / "attempt-0002").exists()
    wait_for((late.folder / "attempt-0001" / f"epoch-{late.epoch - 1:05d}").exists)
    time.sleep(0.7)  # of two seconds: by now the worker was told to go on
    assert late.line not in lines(out)
    return late


def whole(out: Path) -> tuple[list[TrialRecord], list[EpochRecord]]:
    ledger = Ledger(out / LEDGER)
    return ledger.trials(), ledger.epochs()


def learned(out: Path) -> dict[tuple[str, int], dict[str, object]]:
    """What each epoch of each trial came to: parameters, seed and scores, without what is measured in time."""
    trials, rows = whole(out)
    records = {trial.trial: (dict(trial.params), trial.seed, trial.status) for trial in trials}
    return {
        (row.trial, row.epoch): {
            "trial": records[row.trial],
            "scores": {name: score for name, score in row.scores.items() if name != "milliseconds"},
        }
        for row in rows
    }


def lines(out: Path) -> list[list[str]]:
    """Seed, epoch, process and host of every epoch trained so far."""
    path = out / "log"
    return [line.split() for line in path.read_text().split("\n")[:-1]] if path.exists() else []


def log(out: Path) -> list[tuple[str, str]]:
    """Seed and epoch of every epoch trained so far, by whomever."""
    return [(seed, epoch) for seed, epoch, _, _ in lines(out)]


def seeds(trials: list[TrialRecord]) -> dict[str, int]:
    return {trial.trial: trial.seed for trial in trials}


def moved(out: Path, since: float, leaves: Host) -> bool:
    """Whether a trial that this host has trained since then goes on on another one, as the ledger has it."""
    rows = sorted(
        (row for row in Ledger(out / LEDGER).epochs() if row.reported.timestamp() > since), key=lambda row: row.reported
    )
    there = {row.trial for row in rows if row.worker.startswith(f"{leaves.name}/")}
    last = {row.trial: row.worker.partition("/")[0] for row in rows}
    return any(last[trial] != leaves.name for trial in there)


def used(out: Path, since: float = 0.0) -> set[str]:
    """The hosts whose workers have trained an epoch since then, as the ledger has it a few seconds later."""
    if not Ledger.exists(out / LEDGER):
        return set()
    rows = Ledger(out / LEDGER).epochs()
    return {row.worker.partition("/")[0] for row in rows if row.reported.timestamp() > since}
