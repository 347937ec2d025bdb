import random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ensemble_tune.ensemble.folds import assign_folds, natural_order
from ensemble_tune.errors import ConfigError


def frames(*lengths: int) -> tuple[list[str], list[str]]:
    pairs = [(f"s{s}_{i}", f"s{s}") for s, length in enumerate(lengths) for i in range(length)]
    return [name for name, _ in pairs], [sequence for _, sequence in pairs]


def test_folds_are_contiguous_blocks_of_each_sequence() -> None:
    assert assign_folds(*frames(6, 12), 3).tolist() == [1, 1, 2, 2, 3, 3] + [1] * 4 + [2] * 4 + [3] * 4


@given(st.lists(st.integers(1, 25), min_size=1, max_size=8), st.integers(2, 5))
def test_folds_differ_by_one_frame_at_most(lengths: list[int], folds: int) -> None:
    if sum(lengths) < folds:
        return
    names, sequences = frames(*lengths)
    assigned = assign_folds(names, sequences, folds)
    sizes = np.bincount(assigned, minlength=folds + 1)[1:]
    assert sizes.sum() == len(names) and sizes.max() - sizes.min() <= 1
    for sequence in set(sequences):
        own = assigned[[s == sequence for s in sequences]]
        assert (np.diff(own) >= 0).all()


def test_independent_frames_are_dealt_out_evenly() -> None:
    names = [f"frame_{i}" for i in range(11)]
    assert assign_folds(names, names, 3).tolist() == [1, 2, 3, 1, 2, 3, 1, 2, 3, 1, 2]


def test_order_of_frames_does_not_matter() -> None:
    names, sequences = frames(7, 1, 12)
    expected = dict(zip(names, assign_folds(names, sequences, 3), strict=True))
    shuffled = list(zip(names, sequences, strict=True))
    random.Random(0).shuffle(shuffled)
    mixed = [name for name, _ in shuffled]
    assert dict(zip(mixed, assign_folds(mixed, [s for _, s in shuffled], 3), strict=True)) == expected


@pytest.mark.parametrize("folds", [-1, 0, 1, 5])
def test_folds_that_would_be_empty_are_refused(folds: int) -> None:
    with pytest.raises(ConfigError, match=f"at least 2 and at most the 4 training frames, but got {folds}"):
        assign_folds(*frames(4), folds)


def test_numbers_sort_as_numbers() -> None:
    assert sorted(["f10", "f9", "f09", "e", "7", "10_b", "10_a"], key=natural_order) == [
        "7", "10_a", "10_b", "e", "f09", "f9", "f10",
    ]  # fmt: skip


def test_whole_groups_are_never_cut_and_folds_are_as_even_as_they_can_be() -> None:
    names, sequences = frames(6, 12, 5, 4, 3)
    assigned = assign_folds(names, sequences, 3, whole=True)
    for sequence in set(sequences):
        assert len({int(fold) for fold, of in zip(assigned, sequences, strict=True) if of == sequence}) == 1
    assert np.bincount(assigned)[1:].tolist() == [12, 9, 9]
    with pytest.raises(
        ConfigError, match="at most the 5 groups of the training frames, which are never cut, but got 6"
    ):
        assign_folds(names, sequences, 6, whole=True)
