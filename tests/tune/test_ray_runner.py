import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import ray
from counting_trial import CountingTrial

from ensemble_tune.tune import ray_runner
from ensemble_tune.tune.machines import Machines
from ensemble_tune.tune.ray_runner import RayRunner
from ensemble_tune.tune.ray_start import _at_once
from ensemble_tune.tune.resources import Machine, Resources

PROGRAM = """
import sys, time
from ensemble_tune.errors import ConfigError
from ensemble_tune.tune.ray_start import start_ray
started = time.monotonic()
try:
    start_ray(sys.argv[1])
except ConfigError as error:
    print(error)
assert time.monotonic() - started < 15
"""


@pytest.mark.parametrize("address", ["127.0.0.1:1", "ray://127.0.0.1:1"])
def test_an_address_where_nobody_answers_is_one_line_at_once(address: str) -> None:
    done = subprocess.run([sys.executable, "-c", PROGRAM, address], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(f"no Ray cluster answers at {address!r} (")
    assert "); check --address or leave it out, and" in done.stdout and done.stdout.count("\n") == 1


NEEDED = """
import os
from pathlib import Path
from ensemble_tune.trial import EpochResult
HERE = Path(__file__).parent
(HERE / f"imported-{os.getpid()}").touch()

def trial(params, resume):
    (HERE / f"trained-{os.getpid()}").write_text(f"{os.getcwd()} {os.environ.get('PL_DISABLE_FORK')}")
    (HERE / f"here-{params['seed']}").touch()
    while len(list(HERE.glob("here-*"))) < 2:
        pass
    yield EpochResult(epoch=1, scores={"score": 1.0})
"""

SEARCH = """
import os, sys
os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:2])
import needed
from ensemble_tune.tune.resources import Resources
from ensemble_tune.tune.search import Search
from ensemble_tune.tune.workers import Workers
workers = Workers(Resources(cpus=len(os.sched_getaffinity(0)) / 2, gpus=0), imports="needed")
points = [{"seed": seed} for seed in range(4)]
Search(trial=needed.trial, metric="score", out=sys.argv[1], max_epochs=1, points=points, workers=workers).run()
assert "RAY_preload_python_modules" not in os.environ
print(os.getpid())
"""


def test_the_workers_that_ray_starts_at_once_import_what_trials_need_and_train(tmp_path: Path) -> None:
    (tmp_path / "needed.py").write_text(NEEDED)
    path = os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")])
    line = [sys.executable, "-c", SEARCH, str(tmp_path / "run")]
    done = subprocess.run(
        line, env=os.environ | {"PYTHONPATH": path}, cwd=tmp_path, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    imported = {path.name.partition("-")[2] for path in tmp_path.glob("imported-*")} - {done.stdout.strip()}
    trained = {path.name.partition("-")[2]: path.read_text() for path in tmp_path.glob("trained-*")}
    assert set(trained) == imported and len(trained) == 2, "no worker is started for nothing"
    assert set(trained.values()) == {f"{tmp_path} 1"}


def test_no_worker_is_started_before_it_is_asked_for_where_most_would_not_train() -> None:
    shared, alone = Resources(cpus=1, gpus=0), Resources(cpus=2, gpus=0)
    assert _at_once(alone, "needed") == {"RAY_prestart_worker_first_driver": "0"}
    if len(os.sched_getaffinity(0)) <= 16:
        assert _at_once(shared, "needed") == {"RAY_preload_python_modules": "needed"}
        assert _at_once(shared, None) == {}


LEAN = """
import os
from pathlib import Path
from ray._private.node import Node
from ensemble_tune.tune.lean_ray import SETTINGS
from ensemble_tune.tune.ray_start import start_ray
started = Node.start_monitor
assert start_ray()
assert Node.start_monitor is started and not SETTINGS.keys() & os.environ.keys()
for file in Path("/proc").glob("[0-9]*/stat"):
    try:
        ours = file.read_text().rpartition(")")[2].split()[3] == str(os.getsid(0))
        print(file.with_name("cmdline").read_bytes().replace(b"\\0", b" ").decode() if ours else "")
    except OSError:
        pass
"""


def test_what_nobody_looks_at_is_not_started_with_ray() -> None:
    done = subprocess.run(
        [sys.executable, "-c", LEAN], capture_output=True, text=True, timeout=60, start_new_session=True
    )
    assert done.returncode == 0, done.stderr
    assert "raylet/raylet" in done.stdout and "gcs_server" in done.stdout
    assert "monitor.py" not in done.stdout, "of the autoscaler and of logs"


def test_gpus_that_have_joined_are_asked_for_by_the_next_stage(monkeypatch: pytest.MonkeyPatch) -> None:
    there = [Machine("head", {"CPU": 4.0})]
    monkeypatch.setattr(ray_runner, "start_ray", lambda *_: False)
    monkeypatch.setattr(Machines, "up", lambda self, leaving=frozenset(): list(there))
    monkeypatch.setattr(RayRunner, "_tune", lambda self: self._stage.done.set())
    monkeypatch.setattr(ray, "put", lambda value: value)
    started: list[float] = []
    conductor: Any = SimpleNamespace(
        start=lambda *, places, nodes, gpus: started.append(gpus),
        meter=SimpleNamespace(),
        records=list,
        goal=None,
        checkpoints=None,
    )
    runners = [RayRunner(Resources(gpus=gpus)) for gpus in (None, 0.0)]
    for runner in runners:
        runner.run(conductor, CountingTrial())
        runner._thread = None
    there.append(Machine("late", {"CPU": 8.0, "GPU": 2.0}))
    for runner in runners:
        runner.run(conductor, CountingTrial())
    assert started == [0.0, 0.0, 1.0, 0.0], "unless none is wanted"
