"""slurm.sh as a batch job, with Slurm's commands played by stubs: started everywhere, requeued before the wall time."""

import os
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from cluster_files import edited

STUBS = {
    "scontrol": 'echo "scontrol $*" >> $LOG; if [ "$1" = show ]; then printf "node-1\\nnode-2\\nnode-3\\n"; fi',
    # Ray lives until the job ends; whether it is up is answered at once, as the test has it.
    "srun": 'echo "srun $*" >> $LOG; case "$*" in *" start "*) exec sleep 100;; *status*) exit $STATUS;; esac',
    "ray": 'echo "ray $*" >> $LOG; echo token > ~/.ray/auth_token',
    "ensemble-tune": (
        'echo "search $RAY_AUTH_MODE $RAY_ADDRESS $*" >> $LOG\n'
        "trap 'echo ended >> $LOG; exit 130' TERM\n"
        "for _ in $(seq $TENTHS); do sleep 0.1; done"
    ),
}


class Job:
    """The script as Slurm's daemon starts it."""

    def __init__(self, folder: Path, tenths: int, status: int = 0, **variables: str) -> None:
        """status: whether Ray's head answers."""
        tools, self.home, self._log = folder / "venv" / "bin", folder / "home", folder / "log"
        for made in (tools, self.home):
            made.mkdir(parents=True)
        for name, script in STUBS.items():
            (tools / name).write_text(f"#!/bin/bash\n{script}\n")
            (tools / name).chmod(0o755)
        path = folder / "slurm.sh"
        path.write_text(edited("slurm.sh", shared=str(folder)))
        environment = {"HOME": str(self.home), "LOG": str(self._log), "TENTHS": str(tenths), "PATH": os.environ["PATH"]}
        environment |= {"SLURM_JOB_ID": "12345", "SLURM_JOB_NODELIST": "node-[1-3]", "SLURM_CPUS_PER_TASK": "8"}
        environment |= {"STATUS": str(status)} | variables
        self.process = subprocess.Popen(
            ["bash", path], env=environment, start_new_session=True, stderr=subprocess.PIPE, text=True
        )

    @property
    def log(self) -> str:
        return self._log.read_text() if self._log.exists() else ""

    def wait_for(self, text: str) -> None:
        until = time.monotonic() + 60
        while text not in self.log:
            assert time.monotonic() < until and self.process.poll() is None, self.log
            time.sleep(0.05)


@pytest.fixture
def jobs(tmp_path: Path) -> "Iterator[list[Job]]":
    started: list[Job] = []
    yield started
    for job in started:
        os.killpg(job.process.pid, signal.SIGKILL)
        job.process.wait()


def test_a_search_that_ends_ends_the_job(tmp_path: Path, jobs: list[Job]) -> None:
    jobs.append(job := Job(tmp_path, tenths=5))
    assert job.process.wait(timeout=60) == 0
    assert "requeue" not in job.log
    (search,) = [line for line in job.log.splitlines() if line.startswith("search")]
    assert search.startswith("search token node-1:22345 run --data") and "--address auto" in search
    # The two are started side by side: the head's comes first or second.
    starts = sorted(
        (line for line in job.log.splitlines() if "ray start" in line), key=lambda line: "--head" not in line
    )
    assert len(starts) == 2 and "--nodelist=node-1" in starts[0] and "--dashboard-host=127.0.0.1" in starts[0]
    assert "--nodes=2 --ntasks=2" in starts[1] and "--address=node-1:22345" in starts[1]


def test_the_token_is_made_once_on_the_shared_home_for_its_owner_alone(tmp_path: Path, jobs: list[Job]) -> None:
    jobs.append(job := Job(tmp_path / "first", tenths=1))
    assert job.process.wait(timeout=60) == 0
    token = job.home / ".ray" / "auth_token"
    assert token.stat().st_mode & 0o777 == 0o600 and (job.home / ".ray").stat().st_mode & 0o777 == 0o700
    assert job.log.count("ray get-auth-token --generate") == 1 and "token\n" not in job.log.replace("auth-token", "")


@pytest.mark.parametrize(("number", "requeued"), [(signal.SIGUSR1, True), (signal.SIGTERM, False)])
def test_before_the_wall_time_the_search_ends_in_order_and_the_job_is_queued_again(
    number: signal.Signals, requeued: bool, tmp_path: Path, jobs: list[Job]
) -> None:
    jobs.append(job := Job(tmp_path, tenths=600))
    job.wait_for("search")
    os.kill(job.process.pid, number)
    assert job.process.wait(timeout=60) == 130
    assert job.log.count("ended") == 1
    assert ("scontrol requeue 12345" in job.log) is requeued


def test_a_head_that_does_not_answer_ends_the_job(tmp_path: Path, jobs: list[Job]) -> None:
    jobs.append(job := Job(tmp_path, tenths=1, status=1, PATIENCE="0"))
    assert job.process.wait(timeout=60) == 1 and "search" not in job.log
    assert job.process.stderr is not None
    assert "Ray's head must answer on node-1" in job.process.stderr.readline()


@pytest.mark.parametrize(("number", "requeued"), [(signal.SIGUSR1, True), (signal.SIGTERM, False)])
def test_while_the_head_does_not_answer_the_job_ends_where_it_is_asked_to(
    number: signal.Signals, requeued: bool, tmp_path: Path, jobs: list[Job]
) -> None:
    jobs.append(job := Job(tmp_path, tenths=1, status=1))
    job.wait_for("ray status")
    os.kill(job.process.pid, number)
    assert job.process.wait(timeout=60) == 130 and "search" not in job.log
    assert ("scontrol requeue 12345" in job.log) is requeued
