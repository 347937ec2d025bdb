"""What a large simulation takes: 100,000 trials on 1,000 slots, random search with asha-promote.

python benchmarks/simulator.py [TRIALS [SLOTS]]

A trial's learning curve has up to 27 epochs of a minute, give or take half; its parameters come from a real sampler
over a space of four. Prints wall time of one process, trials and epochs a second, and the process's largest memory.
"""

from __future__ import annotations

import math
import random
import resource
import sys
import time
from collections.abc import Iterator, Mapping

from ensemble_tune.tune.decisions import Decisions, Goal
from ensemble_tune.tune.record import Objective, TrialRecord
from ensemble_tune.tune.sampler import make_sampler
from ensemble_tune.tune.scheduler import make_scheduler
from ensemble_tune.tune.search_space import SearchSpace
from ensemble_tune.tune.simulator import simulate

EPOCHS = 27
SPACE = SearchSpace.parse("""
[parameters]
learning_rate = { low = 1e-4, high = 1.0, log = true }
momentum = { low = 0.1, high = 0.99 }
width = { low = 8, high = 512, log = true }
kind = { choices = ["plain", "dilated", "depthwise"] }
""")


def main(trials: int, slots: int) -> None:
    goal = Goal(stage="base", metric="score", keep=10, sampler="random")
    decisions = Decisions(
        goal,
        sampler=make_sampler("random", SPACE, seed=0, objectives=[Objective("score")]),
        scheduler=make_scheduler("asha-promote", max_epochs=EPOCHS, mode="max"),
        trials=trials,
    )
    started = time.perf_counter()
    done = simulate(decisions, curve, slots=slots)
    seconds = time.perf_counter() - started
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    print(
        f"{len(done.records):,} trials on {slots:,} slots, {done.epochs:,} epochs, {done.seconds / 3600:.1f} virtual "
        f"hours ({100 * done.busy:.1f}% busy), best {done.finds[-1].score:.4f}\n"
        f"simulated in {seconds:.1f} s: {len(done.records) / seconds:,.0f} trials and {done.epochs / seconds:,.0f} "
        f"epochs a second; {memory:.2f} GiB at most"
    )


def curve(record: TrialRecord) -> Iterator[tuple[Mapping[str, float], float]]:
    """Rises towards what the parameters are worth, with noise; the same whenever it is asked for."""
    rate, momentum = float(record.params["learning_rate"]), float(record.params["momentum"])
    worth = 0.9 - 0.05 * abs(math.log10(rate) + 2) - 0.2 * (momentum - 0.8) ** 2
    seconds = 30 + 60 * random.Random(record.seed).random()
    for epoch in range(record.epochs + 1, EPOCHS + 1):
        noise = random.Random(record.seed + epoch).gauss(0.0, 0.01)
        yield {"score": worth * (1 - 0.7 * 0.8**epoch) + noise}, seconds


if __name__ == "__main__":
    words = [int(word) for word in sys.argv[1:]]
    main(words[0] if words else 100_000, words[1] if len(words) > 1 else 1_000)
