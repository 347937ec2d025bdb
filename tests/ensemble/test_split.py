import random

import pytest

from ensemble_tune.ensemble.folds import natural_order
from ensemble_tune.ensemble.split import HeldOut, Split, hold_out


def _sequences(**lengths: int) -> tuple[list[str], list[str]]:
    """Names and sequences of frames 0, 1, ... of each sequence, without leading zeros."""
    pairs = [(f"{sequence}_{i}", sequence) for sequence, length in lengths.items() for i in range(length)]
    return [name for name, _ in pairs], [sequence for _, sequence in pairs]


def _held(split: Split = "blocks", **lengths: int) -> dict[str, list[str]]:
    names, sequences = _sequences(**lengths)
    held = hold_out(names, sequences, split)
    return {part: [names[row] for row in getattr(held, part)] for part in ("train", "val", "gap")}


@pytest.mark.parametrize("split", ["official", "blocks"])
@pytest.mark.parametrize("length", [*range(2, 45), 62, 101, 305])
def test_every_frame_is_in_one_part_and_training_keeps_most(split: Split, length: int) -> None:
    for sequences in range(1, 6):
        names, of = _sequences(**{"abcde"[i]: length for i in range(sequences)})
        held = hold_out(names, of, split)
        assert sorted(held.train + held.val + held.gap) == list(range(len(names)))
        assert len(held.val) == sequences * max(1, length // 5)
        assert len(held.train) >= sequences * max(1, 0.4 * length)


def test_val_is_one_contiguous_block_of_each_sequence_with_a_gap_on_both_sides() -> None:
    held = _held(a=2, b=45)
    assert held["val"] == ["a_1", *(f"b_{i}" for i in range(18, 27))]
    assert held["gap"] == ["b_16", "b_17", "b_27", "b_28"]
    assert held["train"] == ["a_0", *(f"b_{i}" for i in range(45) if not 16 <= i <= 28)]


def test_blocks_of_sequences_that_follow_each_other_lie_in_different_places() -> None:
    val = _held(a=10, b=10, c=10, d=10, e=10, f=10)["val"]
    firsts = [int(name.partition("_")[2]) for name in val[::2]]
    assert firsts == [8, 4, 0, 6, 2, 8]


def test_the_gap_is_a_share_of_the_sequence_and_spares_the_shortest() -> None:
    gaps = {length: len(_held(a=length)["gap"]) for length in (2, 4, 5, 16, 39, 40, 100, 305)}
    assert gaps == {2: 0, 4: 0, 5: 1, 16: 1, 39: 1, 40: 2, 100: 5, 305: 15}


def test_frame_10_comes_after_frame_9() -> None:
    assert _held(a=12)["val"] == ["a_10", "a_11"]


def test_independent_frames_are_dealt_out_without_a_gap() -> None:
    names = [f"photo{i}" for i in range(11)]
    assert hold_out(names, names, "blocks") == HeldOut([0, 1, 2, 3, 5, 6, 7, 8, 10], [4, 9], [])
    assert hold_out(names[:3], names[:3], "blocks") == HeldOut([0, 1], [2], [])


def test_frames_alone_beside_sequences_are_dealt_out_too() -> None:
    names, sequences = _sequences(a=4)
    alone = [f"photo{i}" for i in range(5)]
    assert hold_out(names + alone, sequences + alone, "blocks").val == [3, 8]
    assert hold_out(names + alone, sequences + alone, "official").val == [3], "as it always was"


@pytest.mark.parametrize("split", ["official", "blocks"])
def test_the_order_of_the_frames_changes_nothing(split: Split) -> None:
    names, sequences = _sequences(a=13, b=7, c=1, d=30)
    wanted = hold_out(names, sequences, split)
    order = random.Random(0).sample(range(len(names)), len(names))
    held = hold_out([names[i] for i in order], [sequences[i] for i in order], split)
    for part in ("train", "val", "gap"):
        assert {names[order[row]] for row in getattr(held, part)} == {names[row] for row in getattr(wanted, part)}


def test_official_holds_out_the_end_of_each_sequence_and_drops_nothing() -> None:
    held = _held("official", a=30, b=30)
    assert held["val"] == [f"{sequence}_{i}" for sequence in "ab" for i in range(24, 30)]
    assert held["gap"] == [] and len(held["train"]) == 48
    assert held["val"] == sorted(held["val"], key=natural_order)
