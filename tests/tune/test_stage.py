"""Which trial is next where each has a share of its own: no machine, no clock."""

from __future__ import annotations

import random
from collections.abc import Mapping
from typing import Any

from records import trial_record

from ensemble_tune.tune.conductor import Assignment
from ensemble_tune.tune.packing import Bookings
from ensemble_tune.tune.record import Status
from ensemble_tune.tune.resources import GIB, Machine, Resources
from ensemble_tune.tune.room import Placement
from ensemble_tune.tune.stage import Stage

CARD = Machine("card", {"CPU": 16.0, "GPU": 1.0}, 16 * GIB)
ALONE = Placement(share=Resources(gpus=0))


class Told:
    """A conductor that has a list of trials, and notes what it is told."""

    reason = None

    def __init__(self, *gib: float) -> None:
        self.waiting = [trial_record(number, status=Status.RUNNING, params={"gib": g}) for number, g in enumerate(gib)]
        self.ends: dict[str, tuple[Status | None, str | None]] = {}
        self.noted: dict[str, Mapping[str, float]] = {}

    @property
    def done(self) -> bool:
        return not self.waiting

    def next(self) -> Assignment | None:
        return Assignment(self.waiting.pop(0)) if self.waiting else None

    def ended(self, trial: str, status: Status | None = None, error: str | None = None) -> None:
        self.ends[trial] = status, error

    def note_gpu(self, trial: str, figures: Mapping[str, float]) -> None:
        self.noted[trial] = figures


def stage(*gib: float, machine: Machine = CARD) -> tuple[Stage, Told]:
    told: Any = Told(*gib)
    bookings = Bookings(lambda params: Resources(cpus=0.1, gpu_memory=float(params["gib"])), [machine])
    return Stage(told, None, bookings), told


def start(made: Stage) -> list[float]:
    """Hands out all that fits; returns what each asked for."""
    started = []
    while (handed := made.next(ALONE)) is not None:
        made.live[handed.assignment.trial] = handed
        started.append(float(handed.assignment.params["gib"]))
    return started


def end(made: Stage, trial: str) -> float | None:
    """A trial ends; what the one that takes its worker over asked for."""
    follower = made.next_like(trial)
    handed = made.live.pop(trial)
    made.free(handed)
    made.ended(handed)
    if follower is not None:
        made.live[follower.assignment.trial] = follower
        return float(follower.assignment.params["gib"])
    return None


def test_trials_that_fit_overtake_those_that_do_not() -> None:
    made, _ = stage(8, 16, 4, 8, 4)
    assert start(made) == [8, 4, 4]
    assert [waiting.overtaken for waiting in made.window] == [2, 1]


def test_a_worker_s_next_trial_is_one_of_its_own_share() -> None:
    made, _ = stage(8, 8, 4, 8, 4)
    assert start(made) == [8, 8]
    assert end(made, "base-0000") == 8, "though one of a quarter came before"
    assert end(made, "base-0001") is None and start(made) == [4, 4]


def test_a_trial_is_not_overtaken_for_ever() -> None:
    made, _ = stage(8, 8, 16, *[8] * 60)
    started = start(made)
    while "base-0002" not in made.live and made.live:
        follower = end(made, sorted(made.live)[0])
        started += [follower] if follower is not None else start(made)
    assert started[-1] == 16 and len(started) < 40


def test_a_trial_that_fits_nowhere_fails_and_the_next_one_runs() -> None:
    made, told = stage(99, 8)
    assert start(made) == [8]
    assert told.ends["base-0000"][0] is Status.FAILED
    assert "it takes 99 GiB and the largest has 16" in (told.ends["base-0000"][1] or "")


def test_a_trial_that_only_a_machine_which_went_can_hold_waits_for_it() -> None:
    made, told = stage(16, 16, 3)
    assert start(made) == [16]
    assert made.bookings is not None
    made.bookings.meet([Machine("other", {"CPU": 8.0, "GPU": 1.0}, 8 * GIB)])
    assert start(made) == [3]
    handed = made.live.pop("base-0002")
    made.free(handed)
    made.worker_died(made.live.pop("base-0000"), "its machine went", counts=False)
    assert start(made) == [] and made.stuck and not told.ends, "it is no fault of theirs"
    made.settle()
    assert not made.done.is_set()
    made.bookings.meet([Machine("back", {"CPU": 8.0, "GPU": 1.0}, 16 * GIB)])
    assert start(made) == [16] and not made.stuck


def test_a_trial_waits_no_longer_for_a_machine_that_went() -> None:
    made, _ = stage(8)
    start(made)
    assert not made.moves("base-0000", {"card"})
    assert made.moves("base-0000", {"other"}) and not made.live
    assert [assignment.trial for assignment in made.again] == ["base-0000"]
    assert not made.moves("base-0000", {"other"})


def test_memory_that_runs_out_is_forgiven_once() -> None:
    made, told = stage(4, 4)
    start(made)
    handed = made.live.pop("base-0000")
    made.free(handed)
    made.ran_out(handed, "too much", on_gpu=True)
    assert not told.ends and told.noted["base-0000"]["ran_out"] == 0.25
    start(made)
    handed = made.live.pop("base-0000")
    assert handed.placement.share.gpus == 0.3333
    made.free(handed)
    made.ran_out(handed, "too much again", on_gpu=True)
    assert told.ends == {
        "base-0000": (
            Status.OUT_OF_MEMORY,
            "out of memory with 0.3333 GPU (5.33 GiB), the second time: too much again",
        )
    }
    assert told.noted["base-0000"]["given"] == 16 * GIB // 3


def test_at_a_whole_card_it_is_not_forgiven() -> None:
    made, told = stage(12)
    start(made)
    made.ran_out(made.live.pop("base-0000"), "too much", on_gpu=True)
    assert told.ends == {"base-0000": (Status.OUT_OF_MEMORY, "out of memory with 1 GPU (16 GiB): too much")}


def test_where_nothing_is_booked_others_may_have_had_the_memory() -> None:
    told: Any = Told(1)
    made = Stage(told, None)
    handed = made.next(ALONE)
    assert handed is not None
    made.ran_out(handed, "killed", on_gpu=False)
    assert [assignment.trial for assignment in made.again] == ["base-0000"] and not told.ends
    made.ran_out(handed, "killed", on_gpu=False)
    assert told.ends["base-0000"][0] is Status.OUT_OF_MEMORY


def test_cards_of_two_sizes_are_kept_full() -> None:
    """Eighty trials of mixed sizes and lengths in a virtual time."""
    small, large = Machine("s", {"CPU": 64.0, "GPU": 2.0}, 16 * GIB), Machine("l", {"CPU": 64.0, "GPU": 1.0}, 80 * GIB)
    chance = random.Random(1)
    gib = [chance.choice([2, 4, 4, 5, 8, 10, 20, 40]) for _ in range(80)]
    seconds = [chance.uniform(2, 6) for _ in gib]
    made, told = stage(*gib, machine=small)
    assert made.bookings is not None
    made.bookings.meet([small, large])
    now, ends, taken, counted = 0.0, dict[str, float](), 0.0, 0.0
    while True:
        start(made)
        for trial in made.live:
            ends.setdefault(trial, now + seconds[int(trial[-4:])])
        if not told.waiting:
            break
        trial = min(made.live, key=lambda each: ends[each])
        passed, now = ends[trial] - now, ends[trial]
        held = sum(handed.placement.gpu_bytes or 0 for handed in made.live.values())
        assert held <= 112 * GIB
        taken, counted = taken + passed * held, counted + passed
        end(made, trial)
    assert taken / counted / (112 * GIB) >= 0.9


def test_after_one_that_a_whole_card_could_not_hold_those_like_it_are_infeasible_without_a_try() -> None:
    made, told = stage(12, 12, 3)
    assert start(made) == [12]
    handed = made.live.pop("base-0000")
    made.free(handed)
    made.ran_out(handed, "too much", on_gpu=True)
    assert start(made) == [3]
    status, error = told.ends["base-0001"]
    assert status is Status.OUT_OF_MEMORY and "one like it ran out of memory with all 16 GiB" in (error or "")


def test_no_more_trials_are_proposed_than_may_have_room() -> None:
    made, told = stage(5, 8, *[8] * 40)
    assert start(made) == [5, 8]
    assert len(told.waiting) == 40 and not made.window, "a sixth of the card is left, and none was that small"


def test_a_free_card_is_offered_to_trials_smaller_than_any_so_far() -> None:
    made, _ = stage(40, 40, 8, 8, machine=Machine("large", {"CPU": 8.0, "GPU": 1.0}, 80 * GIB))
    assert made.bookings is not None
    made.bookings.meet([Machine("large", {"CPU": 8.0, "GPU": 1.0}, 80 * GIB), CARD])
    assert start(made) == [40, 40, 8, 8]
