"""A ledger's one writer in an object store: whoever keeps saying so, until it has not been heard of for too long.

    OUT/ledger/writers/<token>.json    one a process that writes, or wants to: who it is, and a beat that it counts up

A store has no locks, and pyarrow no request that fails where an object is there already. So a process first says that
it wants to write, under a name of its own, and only then looks for others: of two who come at once at least one sees
the other, and steps back. An owner is dead when its beat has stood still for a while, by the store's clock
at first and then by the watcher's own; no two machines' clocks are compared. It is a best effort: a process that was
stopped for so long and wakes up in the middle of a write ends that write before it notices. What its workers write is
fenced off by their attempts.
"""

from __future__ import annotations

import json
import logging
import math
import os
import random
import socket
import threading
import time
import uuid
from contextlib import ExitStack, suppress
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path

from ensemble_tune.documents import Document, parse_json
from ensemble_tune.errors import RunError
from ensemble_tune.object_path import ObjectPath
from ensemble_tune.waits import Wait, waiting

BEAT_SECONDS = 10.0
"""How often an owner says that it lives."""
DEAD_SECONDS = 45.0
"""After so long without a beat it does not."""
_WATCHED_BEATS = 1.5
"""So many beats a rival is watched for in any case: a store that was down for all has kept its owner from beating."""
_STEPS_BACK, _STEP_BACK_SECONDS = 5, 2.0
"""How often a process that meets another one at the door comes again, and after how long at most."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Claim:
    """What a process says of itself."""

    owner: str
    """Process and machine, for people."""
    life: str
    """Names a process for all time, where another one can look whether it lives: machine, process, its start."""
    pid: int
    owns: bool = False
    """Whether it writes; else it would like to."""
    beat: int = 0

    @classmethod
    def parse(cls, text: str) -> Claim:
        """From what a process wrote of itself. Raises ValueError."""
        told = Document(parse_json(text)).only(field.name for field in fields(cls))
        return cls(
            owner=told.text("owner"),
            life=told.text("life"),
            pid=told.whole("pid"),
            owns=told.flag("owns"),
            beat=told.whole("beat"),
        )


@dataclass(frozen=True, slots=True)
class _Rival:
    """Another process with a claim."""

    claim: Claim
    silent: float
    """Seconds since it was heard of."""


class Lease:
    """The right to write to a ledger, renewed by a thread."""

    def __init__(self, folder: ObjectPath) -> None:
        """folder: the ledger's."""
        self._folder = folder
        self._writers = folder / "writers"
        self._claim = Claim(
            owner=f"process {os.getpid()} on {socket.gethostname()}", life=_life(os.getpid()), pid=os.getpid()
        )
        self._token = ""
        self._dead: set[str] = set()
        """Claims that were taken over: their processes may yet come back and renew them."""
        self._heard = 0.0
        """When the store last said that the claim stands."""
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None
        self._beating = threading.Lock()

    def acquire(self) -> None:
        """Becomes the writer. Raises RunError, naming the owner, where another process is; OSError."""
        for left in reversed(range(_STEPS_BACK)):
            self._begin()
            try:
                rival = self._living_rival()
                if rival is None:
                    self._claim = replace(self._claim, owns=True)
                    self._renew()
                    if not self._token:
                        raise self._lost()
                    return
            except BaseException:
                self.release()
                raise
            self.release()
            if rival.claim.owns or not left:
                raise RunError(
                    f"one search writes to a run folder at a time, but {rival.claim.owner} writes to "
                    f"{self._folder.parent} (last heard of {rival.silent:.0f} s ago); wait for it, stop it, or use "
                    "another --out"
                )
            time.sleep(random.uniform(0.1, 1.0) * _STEP_BACK_SECONDS)

    def check(self) -> None:
        """Raises RunError where another process has taken the lease over, OSError where the store does not tell."""
        if _now() - self._heard > 2 * BEAT_SECONDS:
            self._renew()
        if not self._token:
            raise self._lost()

    def release(self) -> None:
        """Lets others write."""
        self._stop.set()
        if self._thread is not None:
            self._thread.join()
            self._thread = None
        if self._token:
            with suppress(OSError):  # then it is dead for others in a while
                self._mine.unlink(missing_ok=True)
        self._token = ""

    @property
    def _mine(self) -> ObjectPath:
        return self._writers / f"{self._token}.json"

    def _begin(self) -> None:
        """Says that this process wants to write, and goes on saying so."""
        self._token = uuid.uuid4().hex
        self._claim = replace(self._claim, owns=False, beat=0)
        self._mine.write_bytes(json.dumps(asdict(self._claim)).encode())
        self._heard = _now()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._beat, args=(self._stop,), name="lease", daemon=True)
        self._thread.start()

    def _beat(self, stop: threading.Event) -> None:
        while not stop.wait(BEAT_SECONDS):
            with suppress(OSError):  # the store fails: `check` asks again before anything is written
                self._renew()

    def _renew(self) -> None:
        """Counts the beat up, unless the claim is gone: then another process has taken the lease over."""
        with self._beating:
            if not self._token:
                return
            there = {path.stem for path in self._writers.iterdir()}
            if self._token not in there:
                self._token = ""
                return
            self._claim = replace(self._claim, beat=self._claim.beat + 1)
            self._mine.write_bytes(json.dumps(asdict(self._claim)).encode())
            self._heard = _now()
            for token in there & self._dead:
                (self._writers / f"{token}.json").unlink(missing_ok=True)

    def _living_rival(self) -> _Rival | None:
        """Another process that this one has to step back for; None once all others have let go or are known to be dead.

        Of two that would like to write, the one whose token comes later steps back.
        """
        seen: dict[str, tuple[Claim, float]] = {}
        with ExitStack() as shown:
            wait: Wait | None = None
            while others := self._others():
                for token, rival in others.items():
                    if token not in seen and rival.silent < DEAD_SECONDS and not _died_here(rival.claim):
                        _log.warning(
                            "%s writes to %s, or did: waiting for a sign of life",
                            rival.claim.owner,
                            self._folder.parent,
                        )
                        if wait is None:
                            what = f"waiting for a sign of life of {rival.claim.owner}"
                            wait = shown.enter_context(waiting(what, math.ceil(DEAD_SECONDS)))
                    claim, since = seen.setdefault(token, (rival.claim, _now()))
                    watched = _now() - since >= _WATCHED_BEATS * BEAT_SECONDS
                    if claim != rival.claim:
                        if rival.claim.owns or token < self._token:
                            return rival
                        seen[token] = (rival.claim, _now())
                    elif _died_here(claim) or (watched and rival.silent >= DEAD_SECONDS):
                        _log.warning("%s is taken over from %s, which is dead", self._folder.parent, claim.owner)
                        self._dead.add(token)
                        (self._writers / f"{token}.json").unlink(missing_ok=True)
                if wait is not None:
                    longest = min(DEAD_SECONDS, max(rival.silent for rival in others.values()))
                    wait.done = max(wait.done, int(longest))
                time.sleep(min(1.0, BEAT_SECONDS / 4))
        return None

    def _others(self) -> dict[str, _Rival]:
        """The other processes' claims, by token."""
        found = {name.removesuffix(".json"): each.changed for name, each in self._writers.objects().items()}
        mine = found.get(self._token, 0)
        others = {}
        for token in found.keys() - {self._token} - self._dead:
            path = self._writers / f"{token}.json"
            try:
                claim = Claim.parse(path.read_text())
            except FileNotFoundError:
                continue
            except ValueError:
                raise RunError(f"{path} is damaged; remove it if no search writes to {self._folder.parent}") from None
            silent = max(0.0, (mine - found[token]) / 1e9 + _now() - self._heard) if mine else 0.0
            others[token] = _Rival(claim, silent)
        return others

    def _lost(self) -> RunError:
        """What to raise once the lease is another's."""
        try:
            who = " and ".join(rival.claim.owner for rival in self._others().values()) or "another process"
        except (OSError, RunError):
            who = "another process"
        return RunError(
            f"one search writes to a run folder at a time, but {who} took {self._folder.parent} over, since this one "
            f"was not heard of for {DEAD_SECONDS:g} s; this one has stopped: leave the run to the other"
        )


def _now() -> float:
    """Seconds that go on while the machine sleeps."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


def _life(pid: int) -> str:
    """What no other process ever has: this start of this machine, the processes it can see, its number and start."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
        started = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()[19]
        return f"{boot}/{Path('/proc/self/ns/pid').readlink()}/{pid}/{started}"
    except (OSError, IndexError):
        return ""


def _died_here(claim: Claim) -> bool:
    """Whether a claim is of a process of this very machine that has ended; no waiting is needed then."""
    own = _life(os.getpid()).split("/")[:2]
    return bool(own[0]) and claim.life.split("/")[:2] == own and _life(claim.pid) != claim.life
