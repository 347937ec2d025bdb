"""A Ray cluster on test hosts, brought up and used by the commands of cluster/README.md, as they stand there."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from importlib.metadata import distributions
from pathlib import Path

from cluster_files import ROOT, edited
from hosts import Host, Hosts, hosts

_PAGE = (ROOT / "cluster" / "README.md").read_text()
_FENCE = re.compile(r"^```bash(?P<kind> \w+)?\n(?P<commands>.*?)^```$", re.MULTILINE | re.DOTALL)
_TESTS = Path(__file__).parent


def on_the_page(begins: str) -> str:
    """The block of commands of the page that holds a line that begins so."""
    (found,) = [
        fence["commands"]
        for fence in _FENCE.finditer(_PAGE)
        if any(line.startswith(begins) for line in fence["commands"].splitlines())
    ]
    return found


@dataclass
class Cluster:
    """Hosts with Ray on them, and the user's terminal."""

    hosts: Hosts
    checkout: Path
    """Where the user types: what a checkout holds, with the marked block of onpremises.yaml filled in."""
    told: list[str] = field(default_factory=list)
    """What every command that was typed has printed."""
    _exports: list[str] = field(default_factory=list)
    _tunnel: subprocess.Popen[bytes] | None = None

    def type(self, commands: str, seconds: float = 400, check: bool = True) -> str:
        """Runs commands of the page in the user's terminal; returns what they print."""
        self._exports += [line for line in commands.splitlines() if line.startswith("export ")]
        script = "\n".join(["set -e", *self._exports, commands])
        with subprocess.Popen(
            self.hosts.user_command("bash", "-c", script),
            cwd=self.checkout,
            env=self._environment(),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL,
            start_new_session=True,
            text=True,
        ) as process:
            try:
                told, _ = process.communicate(timeout=seconds)
            except BaseException:
                os.killpg(process.pid, signal.SIGKILL)
                raise
        self.told.append(told)
        assert not check or process.returncode == 0, f"{commands}\nended with {process.returncode}:\n{told}"
        return told

    def up(self) -> None:
        """`ray up`, then the tunnel, then waits for all hosts."""
        self.type(on_the_page("ray up"))
        self.open_tunnel()
        self.wait_for_nodes(len(list(self.hosts)))

    def open_tunnel(self) -> None:
        """Keeps the page's tunnel open, in a terminal of its own."""
        self.close_tunnel()
        command = "\n".join(["set -e", *self._exports, f"exec {on_the_page('ray dashboard')}"])
        with (self.hosts.folder / "tunnel.log").open("ab") as log:
            self._tunnel = subprocess.Popen(
                self.hosts.user_command("bash", "-c", command),
                cwd=self.checkout,
                env=self._environment(),
                stdout=log,
                stderr=log,
                stdin=subprocess.DEVNULL,
                start_new_session=True,
            )
        wait_for(lambda: self.ask("/api/version")[0] == 200, 90)

    def close_tunnel(self) -> None:
        """Ends it."""
        if self._tunnel is not None:
            with suppress(ProcessLookupError):
                os.killpg(self._tunnel.pid, signal.SIGKILL)
            self._tunnel.wait()
            self._tunnel = None

    def ask(self, path: str, token: str | None = "", address: str = "127.0.0.1") -> tuple[int, str]:
        """The job server's answer from the user's machine: status and text, 0 where nobody answers.

        token: the cluster's own where empty, none where None.
        """
        if token == "":
            token = (Path(self._environment()["HOME"]) / ".ray" / "auth_token").read_text().strip()
        # The header comes from standard input: a command line is seen by all.
        header = "" if token is None else f'header = "Authorization: Bearer {token}"\n'
        done = subprocess.run(
            self.hosts.user_command(sys.executable, _TESTS / "ask.py", f"http://{address}:8265{path}"),
            input=header,
            capture_output=True,
            text=True,
            env=self._environment(),
            timeout=30,
        )
        status, _, text = done.stdout.partition("\n")
        return int(status or 0), text

    def alive(self) -> list[str]:
        """The addresses of the nodes that Ray counts on; none where the head does not answer."""
        status, text = self.ask("/api/v0/nodes")
        nodes = json.loads(text)["data"]["result"]["result"] if status == 200 else []
        return sorted(node["node_ip"] for node in nodes if node["state"] == "ALIVE")

    def wait_for_nodes(self, count: int, seconds: float = 300) -> None:
        """Until so many are alive."""
        wait_for(lambda: len(self.alive()) == count, seconds, pause=0.5)

    def submit(self, name: str, *command: str | Path) -> None:
        """A Python program of the tests as a job, from outside."""
        path = f"{_TESTS}:{_TESTS.parent / 'tune'}"
        runtime = json.dumps({"env_vars": {"PYTHONPATH": path}})
        words = " ".join(str(word) for word in command)
        self.type(f"ray job submit --no-wait --submission-id {name} --runtime-env-json '{runtime}' -- python {words}")

    def status(self, name: str) -> str:
        """Of a job, as the job server names it."""
        status, text = self.ask(f"/api/jobs/{name}")
        return str(json.loads(text)["status"]) if status == 200 else ""

    def wait_for_end(self, name: str, seconds: float = 180) -> None:
        """Until a job has ended well."""
        wait_for(lambda: self.status(name) in ("SUCCEEDED", "FAILED", "STOPPED"), seconds, pause=0.5)
        assert self.status(name) == "SUCCEEDED", self.type(f"ray job logs {name}")

    def _environment(self) -> dict[str, str]:
        # pip makes the wheel with what is installed here, and no command of the user's asks anybody else.
        # PYTHONPATH: the environment that runs the tests may have another checkout installed.
        own = {"PIP_NO_BUILD_ISOLATION": "0", "PIP_NO_INDEX": "1", "COLUMNS": "160"}
        return self.hosts.environment() | own | {"PYTHONPATH": str(self.checkout)}


@contextmanager
def on_hosts(folder: Path, count: int = 3) -> Iterator[Cluster]:
    """A cluster that is up; whatever happens, nothing of it is left afterwards."""
    with hosts(count, folder) as made:
        cluster = Cluster(made, folder / "checkout")
        _check_out(cluster.checkout, made)
        try:
            cluster.up()
            yield cluster
        finally:
            cluster.close_tunnel()


def wait_for(condition: Callable[[], object], seconds: float = 60, pause: float = 0.1) -> None:
    """Waits until something holds."""
    until = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < until, f"waited for more than {seconds:.0f} s"
        time.sleep(pause)


def back_on(cluster: Cluster, host: Host) -> None:
    """Switches a dead host on again."""
    host.start()
    cluster.hosts.wait_for(host)


def _check_out(folder: Path, made: Hosts) -> None:
    ignored = shutil.ignore_patterns("__pycache__")
    for name in ("ensemble_tune", "search_spaces", "cluster"):
        shutil.copytree(ROOT / name, folder / name, ignore=ignored)
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, folder)
    # What runs the tests is what is tested, and all that the hosts have: they cannot fetch anything else.
    versions = sorted({f"{each.name}=={each.version}" for each in distributions() if each.name != "ensemble-tune"})
    (folder / "constraints.txt").write_text("\n".join(versions) + "\n")
    head, *workers = (host.address for host in made)
    # cluster_name: Ray's own files of it on this machine must be nobody else's.
    values = {"cluster_name": f"tested-{made.mark}", "head": head, "workers": workers, "ssh_user": "root"}
    text = edited("onpremises.yaml", **values, ssh_key=str(made.keys / "user"))
    (folder / "cluster" / "onpremises.yaml").write_text(text)
