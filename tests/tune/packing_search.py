"""`python packing_search.py OUT`: trials of many sizes on a logical cluster of two cards of 16 GiB and one of 80."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

import ray
from ray.cluster_utils import Cluster

from ensemble_tune.errors import OutOfMemoryError
from ensemble_tune.trial import Checkpoint, EpochResult, Params, Trial, given_share
from ensemble_tune.tune.machines import CARD_LABEL
from ensemble_tune.tune.resources import GIB, Requirements, Resources
from ensemble_tune.tune.search import Search
from ensemble_tune.tune.workers import Workers

CARDS = {"small": (2, 16), "large": (1, 80)}
"""How many of how many GiB."""
ROUND = [40, 40, 8, 8, 16]
"""GiB of trials that fill all cards."""
ROUNDS, SECONDS, EPOCHS, MEASURED = 3, 1.0, 2, 0.9
HERE = "here"
"""Where the trials of the first round meet: until all have a worker none ends, or one worker would serve them all."""


def trial(params: Params, resume: Checkpoint | None) -> Iterator[EpochResult]:
    """Takes what `takes` says, or else what it was expected to; with less it runs out of memory, as on a real card."""
    share = given_share()
    assert share is not None and share.gpu_bytes is not None
    takes = float(params.get("takes", params["gib"]))
    if "meets" in params:
        (Path(str(params["meets"])) / str(params["seed"])).touch()
        while len(list(Path(str(params["meets"])).iterdir())) < len(ROUND):
            time.sleep(0.05)
    for epoch in range(1 if resume is None else resume.epoch + 1, EPOCHS + 1):
        if takes * GIB > share.gpu_bytes and epoch == EPOCHS:
            raise OutOfMemoryError(f"a stand-in for an allocator has {share.gpu_bytes} bytes for {takes:g} GiB")
        time.sleep(float(params.get("seconds", SECONDS)))
        yield EpochResult(epoch=epoch, scores={"score": float(params["gib"])}, gpu_bytes=int(MEASURED * takes * GIB))


def needs(params: Params) -> Resources:
    return Resources(cpus=0.5, gpu_memory=float(params["gib"]))


def points(out: Path) -> list[Params]:
    (out / HERE).mkdir(parents=True)
    found: list[Params] = [{"gib": gib, "seed": number} for number, gib in enumerate(ROUND * ROUNDS)]
    found[: len(ROUND)] = [{**point, "meets": str(out / HERE)} for point in found[: len(ROUND)]]
    # One that needs more than it was expected to, one that needs more than there is, one that is known not to fit.
    return [*found, {"gib": 3.9, "takes": 5, "seed": 90}, {"gib": 80, "takes": 81, "seed": 91}, {"gib": 99, "seed": 92}]


class Sized:
    """The same trial, which says itself what it takes."""

    def __call__(self, params: Params, resume: Checkpoint | None) -> Iterator[EpochResult]:
        yield from trial(params, resume)

    def gpu_bytes(self, params: Params) -> int:
        return int(float(params["gib"]) * GIB)


def cluster(cards: Mapping[str, tuple[int, int]]) -> Cluster:
    """A logical one; cards: how many of how many GiB each of its machines has."""
    made = Cluster(initialize_head=True, head_node_args={"num_cpus": 0})
    for number, gib in cards.values():
        made.add_node(num_cpus=8, num_gpus=number, labels={CARD_LABEL: str(gib)})
    return made


def search(out: Path, workers: Workers, made: Trial, points: list[Params], needs: Requirements | None = None) -> None:
    Search(
        trial=made,
        metric="score",
        stage="packed",
        keep=1,
        out=out,
        max_epochs=EPOCHS,
        points=points,
        requirements=needs,
        workers=workers,
    ).run()


if __name__ == "__main__":
    out = Path(sys.argv[1])
    there = cluster(CARDS)
    with Workers(Resources(cpus=0.5), there.address) as workers:
        search(out / "packed", workers, trial, points(out), needs)
        search(out / "sized", workers, Sized(), [{"gib": 5, "seed": 5}])
    tenth = Workers(Resources(cpus=0.5, gpus=0.1), there.address)
    search(out / "explicit", tenth, Sized(), [{"gib": 9, "seed": 9}])
    ray.shutdown()
    there.shutdown()
