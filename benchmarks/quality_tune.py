"""The same as quality.py of Ray's own search: OptunaSearch with AsyncHyperBandScheduler, their defaults, run by Tune.

python benchmarks/quality_tune.py LCBENCH [--tasks 3] [--seeds 3]

Four trials at a time look their epochs up, in as many epochs as quality.py gives. Beside it, on the same tasks and
seeds, what our simulator gives for random search without early stopping, for our default, and for TPE with our
default's scheduler.
"""

from __future__ import annotations

import argparse
import logging
import os
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import ray
from lcbench import EPOCHS, METRIC, SPACE, TASKS, Reference, Task
from quality import BASELINE, BUDGET, DEFAULT, SLOTS, Run, Runs, search, show, with_best
from ray import tune
from ray.tune.callback import Callback
from ray.tune.experiment import Trial
from ray.tune.schedulers import AsyncHyperBandScheduler
from ray.tune.search.optuna import OptunaSearch
from ray.tune.stopper import Stopper

from ensemble_tune.tune.simulator import Find

PEER = "ray optuna asha 1/4"
OURS = (BASELINE, DEFAULT, replace(DEFAULT, sampler="tpe"))


class LookUp(tune.Trainable):
    """A trial that reads its curve."""

    def setup(self, config: dict[str, Any]) -> None:
        """A worker keeps the table for its next trials."""
        known = self.__dict__.setdefault("tasks", {})
        name = config["task"]
        if name not in known:
            known[name] = Task(Path(config["folder"]), name)
        self.scores = known[name].scores(config)

    def step(self) -> dict[str, float]:
        """One epoch."""
        return {METRIC: self.scores[self.iteration]}

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        """The worker takes another trial."""
        self.setup(new_config)
        return True

    def save_checkpoint(self, checkpoint_dir: str) -> None:
        """Nothing to save."""

    def load_checkpoint(self, checkpoint: dict[str, Any] | None) -> None:
        """Nothing to load."""


class Watch(Callback, Stopper):
    """Notes every new best, and ends the search with its budget."""

    def __init__(self) -> None:
        self.finds: list[Find] = []
        self.epochs = 0
        self.trials: set[str] = set()

    def on_trial_result(
        self, iteration: int, trials: list[Trial], trial: Trial, result: dict[str, Any], **_: Any
    ) -> None:
        """Counts an epoch; results that come once the budget is used up do not."""
        if self.epochs < BUDGET:
            self.epochs += 1
            self.trials.add(trial.trial_id)
            if not self.finds or result[METRIC] > self.finds[-1].score:
                self.finds.append(Find(self.epochs / SLOTS, self.epochs, result[METRIC]))

    def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:
        """The scheduler alone stops single trials."""
        return False

    def stop_all(self) -> bool:
        """Whether the budget is used up."""
        return self.epochs >= BUDGET


def tuned(folder: Path, task: str, seed: int) -> Run:
    """One search by Tune."""
    watch = Watch()
    with tempfile.TemporaryDirectory() as scratch:
        tune.run(
            LookUp,
            config={**_space(), "task": task, "folder": str(folder)},
            metric=METRIC,
            mode="max",
            search_alg=OptunaSearch(seed=seed),
            scheduler=AsyncHyperBandScheduler(max_t=EPOCHS),
            num_samples=BUDGET,
            max_concurrent_trials=SLOTS,
            resources_per_trial={"cpu": 1},
            callbacks=[watch],
            stop=watch,
            reuse_actors=True,
            storage_path=scratch,
            verbose=0,
        )
    return watch.finds, len(watch.trials)


def _space() -> dict[str, Any]:
    """Our space in Tune's words; its whole numbers end before the upper bound."""
    found: dict[str, Any] = {}
    for p in SPACE.parameters:
        low, high = p.low or 0, p.high or 0
        if p.whole:
            found[p.name] = (tune.lograndint if p.log else tune.randint)(int(low), int(high) + 1)
        else:
            found[p.name] = (tune.loguniform if p.log else tune.uniform)(float(low), float(high))
    return found


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("--tasks", type=int, default=3)
    parser.add_argument("--seeds", type=int, default=3)
    options = parser.parse_args()
    os.environ["TUNE_DISABLE_AUTO_CALLBACK_LOGGERS"] = "1"
    logging.getLogger("ray.tune").setLevel(logging.CRITICAL)  # it misses the logs that the line above switches off
    here = str(Path(__file__).parent)
    # Look-ups need no core: four at a time whatever the machine has.
    ray.init(
        num_cpus=SLOTS, include_dashboard=False, log_to_driver=False, runtime_env={"env_vars": {"PYTHONPATH": here}}
    )
    results = []
    for name in TASKS[: options.tasks]:
        task = Task(options.folder, name)
        reference = Reference.measure(task)
        runs: Runs = {}
        for seed in range(options.seeds):
            runs[PEER, seed] = tuned(options.folder.absolute(), name, seed)
            for method in OURS:
                runs[method, seed] = search(task, method, seed)
        results.append((with_best(reference, runs), runs))
        print(f"task {name}", flush=True)
    show([PEER, *OURS], results)


if __name__ == "__main__":
    main()
