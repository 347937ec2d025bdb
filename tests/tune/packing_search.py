"""`python packing_search.py OUT`: searches on a logical cluster of two cards of 16 GiB and one of 80."""

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
        meet(Path(str(params["meets"])), str(params["seed"]), int(params.get("of", len(ROUND))))
    for epoch in range(1 if resume is None else resume.epoch + 1, EPOCHS + 1):
        if epoch == EPOCHS and "of" in params and takes == float(params["gib"]):
            meet(Path(str(params["meets"])), "ran out", int(params["of"]) + 1, leads=False)
        if takes * GIB > share.gpu_bytes and epoch == EPOCHS:
            if "of" in params:
                (Path(str(params["meets"])) / "ran out").touch()
            raise OutOfMemoryError(f"a stand-in for an allocator has {share.gpu_bytes} bytes for {takes:g} GiB")
        time.sleep(float(params.get("seconds", SECONDS)))
        yield EpochResult(epoch=epoch, scores={"score": float(params["gib"])}, gpu_bytes=int(MEASURED * takes * GIB))


def meet(here: Path, name: str, count: int, *, leads: bool = True) -> None:
    """Waits until so many are here; leads: is one of them."""
    if leads:
        (here / name).touch()
    while len(list(here.iterdir())) < count:
        time.sleep(0.05)


def needs(params: Params) -> Resources:
    return Resources(cpus=0.5, gpu_memory=float(params["gib"]))


def points(out: Path) -> list[Params]:
    (out / HERE).mkdir(parents=True)
    found: list[Params] = [{"gib": gib, "seed": number} for number, gib in enumerate(ROUND * ROUNDS)]
    found[: len(ROUND)] = [{**point, "meets": str(out / HERE)} for point in found[: len(ROUND)]]
    # One that needs more than it was expected to, one that needs more than there is, one that is known not to fit.
    return [*found, {"gib": 3.9, "takes": 5, "seed": 90}, {"gib": 80, "takes": 81, "seed": 91}, {"gib": 99, "seed": 92}]


def beside(out: Path) -> list[Params]:
    """Four of a quarter of a card, of which one takes more; the others go on until that one has run out of it."""
    out.mkdir(parents=True)
    four: list[Params] = [{"gib": 3.9, "seed": seed, "meets": str(out), "of": 4} for seed in range(4)]
    four[1] = {**four[1], "takes": 5}
    return four


def learned() -> list[Params]:
    """Four that are expected to take the large card, and take 3 GiB each."""
    return [{"gib": 60, "takes": 3, "seed": seed} for seed in range(4)]


class Sized:
    """The same trial, which says itself what it takes."""

    def __call__(self, params: Params, resume: Checkpoint | None) -> Iterator[EpochResult]:
        yield from trial(params, resume)

    def gpu_bytes(self, params: Params) -> int:
        return int(float(params["gib"]) * GIB)


def cluster(cards: Mapping[str, tuple[int, int]]) -> Cluster:
    """A logical one; cards: how many of how many GiB each of its machines has."""
    made = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False})
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


def of_many_sizes(out: Path, address: str) -> None:
    with Workers(Resources(cpus=0.5), address) as workers:
        search(out / "packed", workers, trial, points(out), needs)
        search(out / "sized", workers, Sized(), [{"gib": 5, "seed": 5}])
        # Halves of the small cards, the same again, and then whole ones.
        for name, gib, number in (("first", 8, 4), ("second", 8, 4), ("whole", 16, 2)):
            search(out / name, workers, trial, [{"gib": gib, "seed": seed} for seed in range(number)], needs)
    with Workers(Resources(cpus=0.5, gpus=0.1), address) as tenth:
        search(out / "explicit", tenth, Sized(), [{"gib": 9, "seed": 9}])


def out_of_memory(out: Path, address: str) -> None:
    with Workers(Resources(cpus=0.5), address) as workers:
        search(out / "beside", workers, trial, beside(out / "met"), needs)
        search(out / "learned", workers, trial, learned(), needs)
    with Workers(Resources(cpus=0.5, gpus=0.25), address) as quarter:
        search(out / "alike", quarter, trial, [{"gib": 4, "takes": 5, "seed": 5}, {"gib": 4, "seed": 6}])
    with Workers(Resources(cpus=0.5, gpus=1), address) as whole:
        search(out / "whole", whole, trial, [{"gib": 4, "takes": 81, "seed": 7}])


if __name__ == "__main__":
    there = cluster(CARDS)
    of_many_sizes(Path(sys.argv[1]) / "many", there.address)
    out_of_memory(Path(sys.argv[1]) / "ran_out", there.address)
    ray.shutdown()
    there.shutdown()
