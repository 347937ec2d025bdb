import time
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from counting_search import search
from counting_trial import CountingTrial

from ensemble_tune.tune.resources import Resources
from ensemble_tune.tune.usable_cores import usable_cores
from ensemble_tune.tune.workers import Workers


class LateTrial(CountingTrial):
    """Is there at once in the first worker, and after some seconds in every other one."""

    def __reduce__(self) -> tuple[Callable[..., CountingTrial], tuple[object, ...]]:
        return arrive, (self.seconds, self.log)


def arrive(seconds: float, log: Path) -> CountingTrial:
    try:
        log.with_name("first").touch(exist_ok=False)
    except FileExistsError:
        time.sleep(4)
    return CountingTrial(seconds=seconds, log=log)


def test_a_worker_that_starts_slowly_is_not_given_up_while_short_trials_end(local_ray: str, tmp_path: Path) -> None:
    two = Workers(Resources(cpus=usable_cores() / 2, gpus=0), address=local_ray)
    made = search(tmp_path, 80, 1, 0.1, local_ray)
    replace(made, trial=LateTrial(seconds=0.1, log=tmp_path / "log"), workers=two).run()
    by_worker = Counter(line.split()[2] for line in (tmp_path / "log").read_text().splitlines())
    assert len(by_worker) == 2 and by_worker.total() == 80 and min(by_worker.values()) >= 8
