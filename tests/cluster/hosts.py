"""Real SSH hosts on one machine: each has its own network, processes, mounts, name, home and sshd.

A host is a network namespace on a bridge of its own, with no way out of it: nothing that runs there reaches anything
but the other hosts. The user's own machine is one more of them, without an sshd. All share /mnt, as by NFS.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import sysconfig
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

_PREFIX = "ensemble-tune-"
_NET = "10.213.16"
"""Their addresses; each run of the tests has a bridge of its own, which nothing else is on."""
_MARK = "ENSEMBLE_TUNE_TEST_HOSTS"
"""A variable that all processes started here inherit: by it they are found, wherever they went."""
_TOOLS = ("ip", "ss", "ps", "unshare", "ssh", "ssh-keygen", "rsync", "setsid")
_SSHD = "/usr/sbin/sshd"
_SAYS = """export RAY_OVERRIDE_RESOURCES='{"CPU": 1, "GPU": 1}' RAY_worker_niceness=0
export RAY_health_check_period_ms=1000 RAY_health_check_timeout_ms=2000
export RAY_gcs_rpc_server_reconnect_timeout_s=35 AUTOSCALER_HEARTBEAT_TIMEOUT_S=15 AUTOSCALER_UPDATE_INTERVAL_S=2"""
"""What each machine says that it has: devices are logical. Its workers must not wait for what else runs here. A machine
that falls silent is given up after some ten seconds rather than fifty, and is set up anew after 15 rather than thirty,
if it can be reached; a head that falls silent is given up after 35 rather than sixty: more than a test cuts a host off
for."""


def missing() -> str | None:
    """Why no hosts can be made here, or None."""
    if os.geteuid() != 0:
        return "hosts are made of namespaces: run as root"
    tools = [tool for tool in _TOOLS if shutil.which(tool) is None]
    if not Path(_SSHD).exists():
        tools.append(_SSHD)
    if tools:
        return f"hosts need {', '.join(tools)}: install openssh-server, openssh-client, rsync, iproute2 and procps"
    probe = subprocess.run(["unshare", "-n", "-m", "-p", "-u", "-f", "true"], capture_output=True, text=True)
    return f"this machine makes no namespaces ({probe.stderr.strip()})" if probe.returncode else None


class Host:
    """One machine."""

    def __init__(self, name: str, address: str, folder: Path, shared: Path, keys: Path, mark: str) -> None:
        self.name = name
        """As it calls itself, and its network namespace."""
        self.address = address
        self.folder = folder
        self.home = folder / "home"
        self._shared = shared
        self._keys = keys
        self._mark = mark
        self._init: subprocess.Popen[bytes] | None = None
        for made in (self.home, folder / "ray"):
            made.mkdir(parents=True)
        users = Path("/etc/passwd").read_text().splitlines()
        others = [line for line in users if not line.startswith("root:")]
        (folder / "passwd").write_text("\n".join([f"root:x:0:0:root:{self.home}:/bin/bash", *others]) + "\n")
        (folder / "hosts").write_text(f"127.0.0.1 localhost\n{address} {name}\n")
        self.say(_SAYS)
        (folder / "sshd_config").write_text(
            f"Port 22\nListenAddress {address}\nHostKey {keys / 'host'}\nAuthorizedKeysFile {keys / 'user.pub'}\n"
            "PasswordAuthentication no\nUsePAM no\nStrictModes no\nUseDNS no\nPidFile none\nMaxStartups 100\n"
            f"SetEnv {_MARK}={mark}\n"
        )
        _give_python(self.home / "ensemble_tune" / "venv")

    def say(self, line: str) -> None:
        """Tells every later login something."""
        with (self.home / ".bashrc").open("a") as file:
            file.write(f"{line}\n")

    def start(self) -> None:
        """Switches it on; its disk is as it was."""
        own = self.folder
        script = (
            "mount --make-rprivate / && mkdir -p /tmp/ray && "
            f"mount --bind {own}/ray /tmp/ray && mount --bind {own}/passwd /etc/passwd && "
            f"mount --bind {own}/hosts /etc/hosts && mount --bind {self._shared} /mnt && "
            f"echo {self.name} > /proc/sys/kernel/hostname && "
            f"exec {_SSHD} -D -e -f {own}/sshd_config"
        )
        kinds = ("--mount", "--pid", "--uts", "--fork", "--kill-child", "--mount-proc")
        with (self.folder / "sshd.log").open("ab") as log:
            self._init = subprocess.Popen(
                ["ip", "netns", "exec", self.name, "unshare", *kinds, "bash", "-c", script],
                stdout=log,
                stderr=log,
                stdin=subprocess.DEVNULL,
                start_new_session=True,
                env=plain_environment() | {_MARK: self._mark},
            )

    def kill(self) -> None:
        """SIGKILL to every process of it at once, as when its power fails."""
        if self._init is not None:
            # unshare's child is the first process of the namespace: with it the kernel ends all others.
            for pid in _children(self._init.pid):
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            self._init.kill()
            self._init.wait()
            self._init = None

    def stop(self, pid: int) -> None:
        """SIGSTOP to a process, by its number on the machine; whether its network is there or not."""
        os.kill(self._outside(pid), signal.SIGSTOP)

    def go_on(self, pid: int) -> None:
        """SIGCONT to it."""
        os.kill(self._outside(pid), signal.SIGCONT)

    def _outside(self, pid: int) -> int:
        """The number that a process of the machine has here."""
        assert self._init is not None
        for each in _children(self._init.pid):
            numbers = re.search(r"^NSpid:(.*)$", (Path("/proc") / str(each) / "status").read_text(), re.MULTILINE)
            if numbers and int(numbers[1].split()[-1]) == pid:
                return each
        raise AssertionError(f"{self.name} has no process {pid}")

    def cut_off(self) -> None:
        """Pulls its network cable."""
        _run("ip", "link", "set", _cable(self.name), "down")

    def reconnect(self) -> None:
        """Plugs it in again."""
        _run("ip", "link", "set", _cable(self.name), "up")

    def run(self, command: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        """A command on it, through SSH from the user's machine."""
        options = ["-i", str(self._keys / "user"), "-o", "StrictHostKeyChecking=no", "-o", "LogLevel=ERROR"]
        options += ["-o", "UserKnownHostsFile=/dev/null", "-o", "ConnectTimeout=10"]
        user = ["ip", "netns", "exec", f"{_PREFIX}{self._mark}-user"]
        done = subprocess.run(
            [*user, "ssh", *options, f"root@{self.address}", f"source ~/.bashrc; {command}"],
            capture_output=True,
            text=True,
            timeout=60,
        )
        assert not check or done.returncode == 0, f"{self.name}: {command}: {done.stdout}{done.stderr}"
        return done


class Hosts:
    """Some hosts on a bridge, and the user's own machine."""

    def __init__(self, count: int, folder: Path) -> None:
        self.mark = str(os.getpid())
        self.folder = folder
        self.shared = folder / "shared"
        """What all of them see as /mnt."""
        self.keys = folder / "keys"
        for made in (self.shared, self.keys):
            made.mkdir(parents=True)
        self._bridge = f"et{self.mark}"
        self._user = f"{_PREFIX}{self.mark}-user"
        self._all: list[Host] = []
        self._count = count

    def __iter__(self) -> Iterator[Host]:
        return iter(self._all)

    def __getitem__(self, index: int) -> Host:
        return self._all[index]

    def up(self) -> None:
        """Makes and starts them."""
        Path("/run/sshd").mkdir(exist_ok=True)
        for key in ("host", "user"):
            _run("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(self.keys / key))
        _run("ip", "link", "add", self._bridge, "type", "bridge")
        _run("ip", "link", "set", self._bridge, "up")
        self._plug_in(self._user, f"{_NET}.1")
        for number in range(self._count):
            name, address = f"{_PREFIX}{self.mark}-{number}", f"{_NET}.{10 + number}"
            self._plug_in(name, address)
            host = Host(name, address, self.folder / f"host-{number}", self.shared, self.keys, self.mark)
            self._all.append(host)
            host.start()
        for host in self._all:
            self.wait_for(host)

    def _plug_in(self, name: str, address: str) -> None:
        """A network namespace with one address, on the bridge."""
        _run("ip", "netns", "add", name)
        _run("ip", "link", "add", _cable(name), "type", "veth", "peer", "name", "eth0", "netns", name)
        _run("ip", "link", "set", _cable(name), "master", self._bridge, "up")
        _run("ip", "-n", name, "address", "add", f"{address}/24", "dev", "eth0")
        for device in ("lo", "eth0"):
            _run("ip", "-n", name, "link", "set", device, "up")

    def wait_for(self, host: Host, seconds: float = 20) -> None:
        """Until it takes a login."""
        until = time.monotonic() + seconds
        while host.run("true", check=False).returncode:
            assert time.monotonic() < until, (host.folder / "sshd.log").read_text()
            time.sleep(0.1)

    def down(self) -> None:
        """Takes all of it away, whatever state it is in."""
        for host in self._all:
            with suppress(OSError):
                host.kill()
        _remove(self.mark)

    def user_command(self, *command: str | Path) -> list[str]:
        """A command as the user's machine runs it: on its network, with the shared folder."""
        mounted = f'mount --make-rprivate / && mount --bind {self.shared} /mnt && exec "$@"'
        words = [str(word) for word in command]
        return ["ip", "netns", "exec", self._user, "unshare", "--mount", "bash", "-c", mounted, "bash", *words]

    def environment(self) -> dict[str, str]:
        """The user's: a home, a folder for temporary files, and one of Ray's."""
        home = self.folder / "user"
        (home / "tmp").mkdir(parents=True, exist_ok=True)
        path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
        own = {"HOME": str(home), "TMPDIR": str(home / "tmp"), "RAY_TMPDIR": str(home / "tmp"), "PATH": path}
        return plain_environment() | own | {_MARK: self.mark}


@contextmanager
def hosts(count: int, folder: Path) -> Iterator[Hosts]:
    """Hosts that are gone afterwards, as are those that a killed run of the tests has left."""
    for mark in _left_behind():
        _remove(mark)
    made = Hosts(count, folder)
    try:
        made.up()
        yield made
    finally:
        made.down()


def traces(mark: str) -> list[str]:
    """What is there of the hosts with this mark: processes, namespaces, network devices."""
    found = [f"process {pid}" for pid in _marked(mark)]
    found += [f"namespace {name}" for name in _namespaces() if name.startswith(f"{_PREFIX}{mark}-")]
    devices = [entry.name for entry in Path("/sys/class/net").iterdir()]
    return found + [f"device {name}" for name in devices if name.partition("-")[0] == f"et{mark}"]


def _remove(mark: str) -> None:
    until = time.monotonic() + 20
    while pids := _marked(mark):
        assert time.monotonic() < until, f"processes {pids} do not end"
        for pid in pids:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        time.sleep(0.05)
    for name in _namespaces():
        if name.startswith(f"{_PREFIX}{mark}-"):
            subprocess.run(["ip", "netns", "delete", name], capture_output=True)
            subprocess.run(["ip", "link", "delete", _cable(name)], capture_output=True)
    subprocess.run(["ip", "link", "delete", f"et{mark}"], capture_output=True)


def _left_behind() -> set[str]:
    """The marks of runs whose process is gone."""
    marks = {name.removeprefix(_PREFIX).partition("-")[0] for name in _namespaces() if name.startswith(_PREFIX)}
    return {mark for mark in marks if mark.isdecimal() and not (Path("/proc") / mark).exists()}


def _marked(mark: str) -> list[int]:
    """The processes that carry the mark, in whatever namespace."""
    wanted, found = f"{_MARK}={mark}".encode(), []
    for environ in Path("/proc").glob("[0-9]*/environ"):
        with suppress(OSError):
            if wanted in environ.read_bytes().split(b"\0") and _state(environ.parent) != "Z":
                found.append(int(environ.parent.name))
    return [pid for pid in found if pid != os.getpid()]


def _state(process: Path) -> str:
    return (process / "stat").read_text().rpartition(")")[2].split()[0]


def _children(pid: int) -> list[int]:
    """Its children, and theirs."""
    found = []
    with suppress(OSError):
        for child in (Path("/proc") / str(pid) / "task" / str(pid) / "children").read_text().split():
            found += [int(child), *_children(int(child))]
    return found


def _namespaces() -> list[str]:
    folder = Path("/run/netns")
    return sorted(entry.name for entry in folder.iterdir()) if folder.is_dir() else []


def _cable(name: str) -> str:
    """The end of a host's network that is plugged into the bridge."""
    return f"et{name.removeprefix(_PREFIX)}"


def plain_environment() -> dict[str, str]:
    """This process's without what would lead Ray or Python elsewhere."""
    return {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("RAY_", "PYTEST_", "AWS_")) and name not in ("PYTHONPATH", "VIRTUAL_ENV")
    }


def _give_python(venv: Path) -> None:
    """The tested packages, from the environment that runs this test; all but our own, which a cluster must install."""
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", venv], check=True)
    packages = venv / "lib" / f"python{sys.version_info.major}.{sys.version_info.minor}" / "site-packages"
    (packages / "tested.pth").write_text(sysconfig.get_path("purelib") + "\n")
    script = venv / "bin" / "ray"
    script.write_text(f"#!{venv}/bin/python\nimport sys\nfrom ray.scripts.scripts import main\nsys.exit(main())\n")
    script.chmod(0o755)


def _run(*command: str) -> None:
    subprocess.run(command, check=True, capture_output=True)
