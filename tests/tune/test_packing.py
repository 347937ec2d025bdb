import pytest
from records import trial_record

from ensemble_tune.errors import ConfigError, OutOfMemoryError
from ensemble_tune.tune.packing import Bookings
from ensemble_tune.tune.record import Status
from ensemble_tune.tune.resources import GIB, Machine, Resources
from ensemble_tune.tune.room import Placement, Wish

SMALL = Machine("small", {"CPU": 8.0, "GPU": 2.0, "memory": 32.0 * GIB}, 16 * GIB)
LARGE = Machine("large", {"CPU": 8.0, "GPU": 1.0, "memory": 64.0 * GIB}, 80 * GIB)
BARE = Machine("bare", {"CPU": 4.0, "memory": 8.0 * GIB})
UNKNOWN = Machine("unknown", {"CPU": 8.0, "GPU": 1.0})


def bookings(*machines: Machine) -> Bookings:
    return Bookings(lambda params: Resources(gpu_memory=float(params["gib"])), machines)


def wish(gib: float | None, trial: str = "base-0000", gpus: float | None = None) -> Wish:
    return Wish(trial, Resources(gpus=gpus, gpu_memory=gib))


def placed(booked: Bookings, *wishes: Wish) -> list[tuple[str | None, float | None] | None]:
    found = [booked.place(each) for each in wishes]
    return [None if each is None else (each.machine, each.share.gpus) for each in found]


@pytest.mark.parametrize(
    ("gib", "share"), [(16, 1), (9, 1), (8, 0.5), (5, 0.3333), (4, 0.25), (3, 0.2), (2.3, 0.1666), (0.01, 0.01)]
)
def test_the_share_is_the_smallest_of_whole_parts_that_holds_a_trial(gib: float, share: float) -> None:
    (found,) = placed(bookings(SMALL), wish(gib))
    assert found == ("small", share)


def test_a_trial_may_take_its_whole_part_though_ray_counts_in_parts_of_ten_thousand() -> None:
    placement = bookings(SMALL).place(wish(16 / 3))
    assert placement is not None and placement.gpu_bytes == 16 * GIB // 3
    assert placement.figures == {"share": 0.3333, "given": 16 * GIB // 3, "estimated": round(16 / 3 * GIB)}


def test_as_many_parts_fit_a_card_as_its_memory_holds() -> None:
    for parts in (1, 2, 3, 6, 7, 9, 11):
        one = Machine("one", {"CPU": 99.0, "GPU": 1.0}, 16 * GIB)
        booked = bookings(one)
        found = placed(booked, *(wish((16 * GIB // parts) / GIB, f"base-{number:04d}") for number in range(parts + 1)))
        assert [each is not None for each in found] == [True] * parts + [False]


def test_parts_of_different_sizes_never_add_up_to_more_than_a_card() -> None:
    booked = bookings(Machine("one", {"CPU": 99.0, "GPU": 1.0}, 80 * GIB))
    # Together 1.00007 of the card, and 1 in parts of ten thousand, each cut short.
    parts = [38, 3, 7, 16, 3, 14, 33]
    found = [booked.place(wish((80 * GIB // each) / GIB, f"base-{number:04d}")) for number, each in enumerate(parts)]
    assert sum(each.gpu_bytes or 0 for each in found if each is not None) <= 80 * GIB


def test_each_card_is_packed_by_its_own_size_the_smallest_first() -> None:
    booked = bookings(LARGE, SMALL)
    wishes = [wish(gib, f"base-{number:04d}") for number, gib in enumerate((8, 20, 40, 8, 16, 20, 4))]
    assert placed(booked, *wishes) == [
        ("small", 0.5),
        ("large", 0.25),
        ("large", 0.5),
        ("small", 0.5),  # the card that is half taken already
        ("small", 1.0),
        ("large", 0.25),
        None,
    ]
    booked.free("base-0001")
    assert placed(booked, wish(4, "base-0007")) == [("large", 0.05)]


def test_no_card_and_no_machine_is_promised_twice() -> None:
    booked = bookings(SMALL)
    assert placed(booked, *(wish(None, f"base-{number:04d}", 1.0) for number in range(3)))[-1] is None
    cpus = Bookings(lambda params: Resources(), [SMALL])
    for number in range(4):
        assert cpus.place(Wish(str(number), Resources(cpus=2, gpus=0, memory=8))) is not None
    assert cpus.place(Wish("4", Resources(cpus=2, gpus=0))) is None
    cpus.free("0")
    cpus.free("never there")
    assert cpus.place(Wish("5", Resources(cpus=1, gpus=0, memory=9))) is None
    assert cpus.place(Wish("6", Resources(cpus=1, gpus=0, memory=8))) is not None


def test_several_cards_are_whole_ones_of_one_machine() -> None:
    booked = bookings(SMALL, LARGE)
    assert placed(booked, wish(4, "a"), wish(None, "b", 2.0)) == [("small", 0.25), None]
    booked.free("a")
    assert placed(booked, wish(None, "b", 2.0), wish(4, "c")) == [("small", 2.0), ("large", 0.05)]


def test_a_trial_without_a_gpu_leaves_machines_that_have_some_to_others() -> None:
    booked = Bookings(lambda params: Resources(), [SMALL, BARE])
    assert placed(booked, wish(None, "a", 0.0)) == [("bare", 0.0)]


def test_where_no_size_is_known_a_trial_has_a_whole_card() -> None:
    assert placed(bookings(UNKNOWN), wish(4)) == [("unknown", 1.0)]
    assert placed(bookings(SMALL), wish(None)) == [("small", 1.0)]
    assert placed(bookings(BARE), wish(4)) == [("bare", 0.0)]


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        (wish(6, gpus=0.05), r"0.05 of the largest, which has 80 GiB, is 4, and this trial takes 6; give .*0.0769, or"),
        (wish(90), r"must fit on one GPU, but it takes 90 GiB and the largest has 80; lower its batch size"),
        (wish(90, gpus=0.5), r"must fit on one GPU, but it takes 90 GiB"),
        (Wish("", Resources(cpus=9, gpus=0)), r"asks for 9 CPUs and 0 GPUs and the largest has 8"),
        (Wish("", Resources(gpus=3)), r"asks for 1 CPUs and 3 GPUs"),
    ],
)
def test_what_fits_nowhere_is_refused_with_what_would(asked: Wish, message: str) -> None:
    booked = bookings(SMALL, LARGE)
    assert booked.place(asked) is None
    with pytest.raises(ConfigError, match=message):
        booked.check(asked)


def test_an_explicit_fraction_goes_where_it_holds_the_trial() -> None:
    assert placed(bookings(SMALL, LARGE), wish(6, gpus=0.25)) == [("large", 0.25)]
    assert placed(bookings(SMALL, LARGE), wish(4, gpus=0.25)) == [("small", 0.25)]
    assert placed(bookings(SMALL), wish(16 / 3, gpus=0.333)) == [("small", 0.333)], "as a user writes a third"


def test_later_trials_of_an_estimate_ask_for_what_was_measured_and_a_margin() -> None:
    booked = bookings(SMALL)
    booked.learn({"estimated": 4.0 * GIB, "measured": 4.5 * GIB})
    booked.learn({"estimated": 4.0 * GIB, "measured": 4.7 * GIB})
    booked.learn({"estimated": 3.0 * GIB})
    assert placed(booked, wish(4, "a"), wish(3, "b")) == [("small", 0.3333), ("small", 0.2)]
    known = [trial_record(0, gpu={"estimated": 8.0 * GIB, "measured": 3.5 * GIB})]
    assert placed(Bookings(lambda params: Resources(), [SMALL], known), wish(8)) == [("small", 0.25)]


def test_a_trial_that_ran_out_asks_for_the_next_larger_share_and_so_do_those_like_it() -> None:
    booked = bookings(SMALL)
    first = booked.wish("a", {"gib": 4})
    placement = booked.place(first)
    assert placement is not None
    booked.free("a")
    assert booked.raised("a", placement, on_gpu=True)
    assert placed(booked, booked.wish("a", {"gib": 4}), booked.wish("b", {"gib": 4}), booked.wish("c", {"gib": 3})) == [
        ("small", 0.3333),
        ("small", 0.3333),
        ("small", 0.2),
    ]


def test_at_a_whole_card_there_is_more_on_a_larger_one_alone() -> None:
    whole = Placement(share=Resources(gpus=1, gpu_memory=12), machine="small", card=16 * GIB, gpu_bytes=16 * GIB)
    assert not bookings(SMALL).raised("a", whole, on_gpu=True)
    both = bookings(SMALL, LARGE)
    assert both.raised("a", whole, on_gpu=True)
    assert placed(both, both.wish("a", {"gib": 12})) == [("large", 0.25)]


def test_the_next_larger_share_is_a_quarter_more_at_least() -> None:
    twentieth = Placement(share=Resources(gpus=0.05, gpu_memory=4), machine="large", card=80 * GIB, gpu_bytes=4 * GIB)
    booked = bookings(LARGE)
    assert booked.raised("a", twentieth, on_gpu=True)
    assert placed(booked, booked.wish("a", {"gib": 4})) == [("large", 0.0625)]


def test_of_cards_of_unknown_size_the_next_larger_part_is_tried() -> None:
    booked = Bookings(lambda params: Resources(gpus=0.25), [UNKNOWN])
    for before, after in ((0.25, 0.3333), (0.3333, 0.5), (0.5, 1.0)):
        assert booked.raised("a", Placement(share=Resources(gpus=before), machine="unknown"), on_gpu=True)
        assert booked.wish("a", {}).share.gpus == after
    assert not booked.raised("a", Placement(share=Resources(gpus=1.0), machine="unknown"), on_gpu=True)


def test_memory_of_the_machine_is_doubled_while_there_is_so_much() -> None:
    booked = Bookings(lambda params: Resources(gpus=0, memory=3), [BARE])
    assert booked.raised("a", Placement(share=Resources(gpus=0, memory=3), machine="bare"), on_gpu=False)
    assert booked.wish("a", {}).share.memory == 6
    assert booked.raised("a", Placement(share=Resources(gpus=0, memory=6), machine="bare"), on_gpu=False)
    assert booked.wish("a", {}).share.memory == 8, "all there is"
    assert not booked.raised("a", Placement(share=Resources(gpus=0, memory=8), machine="bare"), on_gpu=False)


def test_the_next_card_that_empties_is_kept_for_one_that_was_overtaken() -> None:
    booked = bookings(SMALL)
    assert placed(booked, wish(8, "a"), wish(8, "b"), wish(8, "c")) == [("small", 0.5)] * 3
    booked.keep(wish(16, "whole"))
    assert placed(booked, wish(8, "d"), wish(16, "whole")) == [None, None]
    booked.free("c")
    assert placed(booked, wish(16, "whole"), wish(8, "d")) == [("small", 1.0), None]
    booked.free("a")
    assert placed(booked, wish(8, "d")) == [("small", 0.5)], "nothing is kept any more"


def test_a_worker_is_taken_over_by_a_trial_of_the_same_share_on_the_same_machine() -> None:
    booked = bookings(SMALL, LARGE)
    ended = booked.place(wish(8, "a"))
    assert ended is not None
    booked.free("a")
    assert booked.place(wish(4, "b"), ended) is None
    again = booked.place(wish(7, "c"), ended)
    assert again is not None and again.is_like(ended) and again.gpu_bytes == 8 * GIB


def test_machines_come_and_go() -> None:
    booked = bookings(SMALL)
    assert placed(booked, wish(8, "a"), wish(20, "b")) == [("small", 0.5), None]
    booked.meet([SMALL, LARGE])
    assert placed(booked, wish(20, "b"), wish(8, "c"), wish(16, "d")) == [("large", 0.25), ("small", 0.5), ("small", 1)]
    booked.meet([LARGE])
    booked.free("a")
    assert booked.held("GPU") == pytest.approx(0.25 + 0.5 + 1)
    with pytest.raises(ConfigError):
        booked.check(wish(90))
    assert placed(booked, wish(8, "e")) == [("large", 0.1)]


def test_where_machines_come_when_they_are_asked_for_ray_chooses() -> None:
    booked = Bookings(lambda params: Resources(), [], grows=True)
    assert placed(booked, wish(400), wish(None, "b", 0.5), wish(None, "c")) == [(None, 1.0), (None, 0.5), (None, 0.0)]


def test_what_a_whole_card_held_fits_there_again_without_a_margin() -> None:
    booked = bookings(SMALL)
    booked.learn({"estimated": 14.0 * GIB, "measured": 15.5 * GIB})
    assert placed(booked, booked.wish("a", {"gib": 14})) == [("small", 1.0)]


def test_after_one_ran_out_of_a_whole_card_those_like_it_are_out_of_memory_too() -> None:
    booked = bookings(SMALL)
    whole = booked.place(booked.wish("a", {"gib": 12}))
    assert whole is not None and not booked.raised("a", whole, on_gpu=True)
    booked.free("a")
    with pytest.raises(OutOfMemoryError, match=r"one like it ran out of memory with all 16 GiB of the largest; lower"):
        booked.wish("b", {"gib": 12})
    assert placed(booked, booked.wish("c", {"gib": 13})) == [("small", 1.0)], "of another estimate nothing is known"


def test_there_is_room_while_the_smallest_trial_so_far_has_room() -> None:
    booked = bookings(SMALL)
    assert booked.has_room, "before any is known"
    assert placed(booked, *(booked.wish(trial, {"gib": gib}) for trial, gib in (("a", 6), ("b", 9)))) == [
        ("small", 0.5),
        ("small", 1.0),
    ]
    assert booked.has_room
    assert placed(booked, booked.wish("c", {"gib": 5})) == [("small", 0.3333)]
    assert not booked.has_room, "though a sixth of a card is left"
    booked.wish("d", {"gib": 2})
    assert booked.has_room


def test_where_the_smallest_trial_fits_nowhere_any_more_others_may() -> None:
    booked = bookings(SMALL, LARGE)
    booked.wish("a", {"gib": 30})
    booked.meet([SMALL])
    assert booked.has_room


@pytest.mark.parametrize(
    ("figures", "share"),
    [
        ({"ran_out": 0.25, "share": 0.25, "given": 4.0 * GIB}, 0.3333),
        ({"ran_out": 0.25, "share": 0.3333, "given": float(16 * GIB // 3)}, 0.3333),  # it had gone on already
        ({"ran_out": 0.0}, 0.25),
    ],
)
def test_one_that_ran_out_in_an_earlier_call_asks_for_more_in_this_one(figures: dict[str, float], share: float) -> None:
    known = [trial_record(0, status=Status.RUNNING, gpu=figures)]
    booked = Bookings(lambda params: Resources(gpu_memory=float(params["gib"])), [SMALL], known)
    assert placed(booked, booked.wish("base-0000", {"gib": 4}), booked.wish("base-0001", {"gib": 4})) == [
        ("small", share),
        ("small", 0.25),
    ]
    assert booked.recalled == ({"base-0000"} if share > 0.3 else set())


def test_where_machines_come_a_worker_is_taken_over_by_a_trial_of_its_own_share_alone() -> None:
    booked = Bookings(lambda params: Resources(gpus=0.25), [], grows=True)
    ended = booked.place(booked.wish("a", {}))
    assert ended is not None and booked.raised("a", ended, on_gpu=True)
    assert booked.place(booked.wish("a", {}), ended) is None
    assert booked.place(booked.wish("b", {}), ended) == ended
