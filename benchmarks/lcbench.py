"""LCBench's surrogate as a test bench: learning curves of real networks by a table look-up, and what is measured on it.

The folder holds YAHPO-Gym's `model.onnx` and `encoding.json` (scenario lcbench, Apache-2.0; Zimmer, Lindauer, Hutter
2021, Auto-PyTorch; Pfisterer et al. 2022, YAHPO Gym: https://github.com/slds-lmu/yahpo_data). Needs onnxruntime:
pip install 'ensemble-tune[bench]'.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ensemble_tune.trial import Value
from ensemble_tune.tune.record import Objective, TrialRecord
from ensemble_tune.tune.sampler import make_sampler
from ensemble_tune.tune.search_space import SearchSpace
from ensemble_tune.tune.simulator import Find

EPOCHS = 52
METRIC = "val_balanced_accuracy"
# fmt: off
TASKS = (
    "7593", "126025", "126026", "126029", "167149", "167152", "167161", "167168", "167181", "167184",
    "167190", "168331", "168335", "168908", "189354", "189862", "189865", "189866", "189905", "189906",
)
# fmt: on
SPACE = SearchSpace.parse("""
[parameters]
batch_size = { low = 16, high = 512, log = true }
learning_rate = { low = 1e-4, high = 1e-1, log = true }
momentum = { low = 0.1, high = 0.99 }
weight_decay = { low = 1e-5, high = 0.1 }
num_layers = { low = 1, high = 5 }
max_units = { low = 64, high = 1024, log = true }
max_dropout = { low = 0.0, high = 1.0 }
""")
_REFERENCE_SAMPLE = 2000


class Task:
    """One data set's learning curves."""

    def __init__(self, folder: Path, task: str) -> None:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        model = str(folder / "model.onnx")
        self._session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
        encoding = json.loads((folder / "encoding.json").read_text(encoding="utf-8"))
        self._task = int(encoding["OpenML_task_id"][task])
        self._known: dict[tuple[Value, ...], list[float]] = {}

    def scores(self, params: Mapping[str, Value]) -> list[float]:
        """Balanced accuracy on val after each of the 52 epochs, in percent of 100."""
        key = tuple(params[name] for name in SPACE.names)
        if key not in self._known:
            rows = np.empty((EPOCHS, 1 + len(key)), np.float32)
            rows[:, 0] = np.arange(1, EPOCHS + 1)
            rows[:, 1:] = [float(value) for value in key]
            inputs = {"x_cat": np.full((EPOCHS, 1), self._task, np.int32), "x_cont": rows}
            self._known[key] = self._session.run(None, inputs)[0][:, 3].astype(float).tolist()
        return self._known[key]

    def curve(self, record: TrialRecord) -> Iterator[tuple[Mapping[str, float], float]]:
        """For the simulator; an epoch takes a second, so that equal times are equal epochs."""
        for score in self.scores(record.params)[record.epochs :]:
            yield {METRIC: score}, 1.0


@dataclass(frozen=True, slots=True)
class Reference:
    """What a large random sample of full trainings gave; a training is worth its best epoch."""

    median: float
    top_tenth: float
    """What the best 10% of them reach."""
    best: float

    @classmethod
    def measure(cls, task: Task) -> Reference:
        """From 2,000 configurations, drawn by a seed that no search uses."""
        sampler = make_sampler("random", SPACE, seed=10**6, objectives=[Objective(METRIC)])
        finals = [max(task.scores(sampler.propose(number))) for number in range(_REFERENCE_SAMPLE)]
        task._known.clear()
        return cls(float(np.median(finals)), float(np.quantile(finals, 0.9)), max(finals))

    def regret(self, score: float) -> float:
        """0 is the best known score, 1 the median of random configurations."""
        return (self.best - score) / (self.best - self.median)


def score_after(finds: Sequence[Find], epochs: int) -> float:
    """The best score once so many epochs were trained."""
    return max((find.score for find in finds if find.epochs <= epochs), default=-math.inf)


def epochs_to(finds: Sequence[Find], score: float, most: int) -> int:
    """Epochs trained until a score was reached; `most` where it was not."""
    return min((find.epochs for find in finds if find.score >= score), default=most)


def interval(values: Sequence[float], *, median: bool = False) -> tuple[float, float, float]:
    """The mean, or the median, and its 95% interval from 10,000 bootstrap samples of `values`."""
    statistic = np.median if median else np.mean
    drawn = np.random.default_rng(0).choice(np.asarray(values), (10_000, len(values)))
    low, high = np.quantile(statistic(drawn, axis=1), [0.025, 0.975])
    return float(statistic(values)), float(low), float(high)
