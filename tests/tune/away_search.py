"""`python away_search.py OUT`: twice the only machine that could hold a trial goes: for a while, and for long."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import ray
from packing_search import CARDS, EPOCHS, cluster, needs, search
from ray._private.node import Node

from ensemble_tune.errors import RunError
from ensemble_tune.trial import Checkpoint, EpochResult, Params
from ensemble_tune.tune import tune_hooks
from ensemble_tune.tune.machines import CARD_LABEL
from ensemble_tune.tune.resources import Resources
from ensemble_tune.tune.workers import Workers


def trial(params: Params, resume: Checkpoint | None) -> Iterator[EpochResult]:
    """The large one says when its second epoch begins, which takes too long for what happens then."""
    started = Path(str(params["started"]))
    for epoch in range(1 if resume is None else resume.epoch + 1, EPOCHS + 1):
        if params["gib"] == 60 and epoch == EPOCHS and not started.exists():
            started.touch()
            time.sleep(60)
        yield EpochResult(epoch=epoch, scores={"score": float(params["gib"])})


def run(out: Path) -> None:
    points: list[Params] = [{"gib": gib, "started": str(out / "started"), "seed": 0} for gib in (60, 8)]
    try:
        with Workers(Resources(cpus=0.5), there.address) as workers:
            search(out, workers, trial, points, needs)
    except RunError as error:
        print("error:", error, flush=True)


def large_machine() -> Node:
    number, gib = CARDS["large"]
    return there.add_node(num_cpus=8, num_gpus=number, labels={CARD_LABEL: str(gib)})


def run_and_take_away(out: Path, large: Node) -> threading.Thread:
    """Takes the machine away while the trial that needs it runs; Ray starts machines in the main thread alone."""
    running = threading.Thread(target=run, args=[out])
    running.start()
    while not (out / "started").exists():
        time.sleep(0.05)
    there.remove_node(large)
    return running


there = cluster({"small": CARDS["small"]})
back, late = Path(sys.argv[1]) / "back", Path(sys.argv[1]) / "late"
running = run_and_take_away(back, large_machine())
time.sleep(15)
large = large_machine()
running.join()
print("gone on", flush=True)

tune_hooks._AWAY_SECONDS = 6  # a quarter of an hour elsewhere
run_and_take_away(late, large).join()
large_machine()
run(late)
print("ended", flush=True)
ray.shutdown()
there.shutdown()
