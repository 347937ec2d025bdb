import numpy as np
import pytest

from ensemble_tune.ensemble.labels import IGNORED, scaled_labels

RNG = np.random.default_rng(0)


def ground(height: int, width: int, label: int = 1) -> np.ndarray:
    return np.full((height, width), label, np.uint8)


def test_whole_cells_keep_their_class() -> None:
    cells = RNG.integers(0, 11, (6, 8), np.uint8)
    cells[2, 3] = IGNORED
    assert np.array_equal(scaled_labels(np.kron(cells, ground(3, 4)), (6, 8)), cells)


def test_a_label_map_of_the_working_size_stays_as_it_is() -> None:
    truth = RNG.integers(0, 3, (10, 12), np.uint8)
    truth[0] = IGNORED
    assert np.array_equal(scaled_labels(truth, (10, 12)), truth)


@pytest.mark.parametrize("place", range(3))
def test_a_pole_a_third_of_a_cell_wide_is_kept_wherever_it_falls(place: int) -> None:
    truth = ground(18, 27)
    truth[:, 12 + place] = 0
    labels = scaled_labels(truth, (6, 9))
    assert (labels[:, 4] == 0).all() and (labels == 0).sum() == 6


def test_a_speck_does_not_become_a_cell() -> None:
    truth = ground(18, 18)
    truth[7, 7] = 0
    assert (scaled_labels(truth, (6, 6)) == 1).all()


def test_a_cell_of_many_small_shares_takes_the_largest() -> None:
    truth = ground(6, 6)
    truth[:2, :2] = [[2, 3], [4, 5]]
    truth[2, 2] = 2
    truth[0, 2], truth[1, 2], truth[2, 0], truth[2, 1] = 6, 7, 8, 2
    assert scaled_labels(truth, (2, 2))[0, 0] == 2  # 3 of 9, the others have 1
    truth[2, 1] = 9
    assert scaled_labels(truth, (2, 2))[0, 0] == 2  # 2 of 9


@pytest.mark.parametrize("part", [1, 2])
def test_a_straight_border_goes_to_the_larger_share(part: int) -> None:
    truth = ground(12, 18)
    truth[:, : 6 + part] = 0
    assert (scaled_labels(truth, (4, 6)) == 0).sum() == 4 * (2 + part // 2)


@pytest.mark.parametrize("rare", [0, 2])
def test_a_tie_goes_to_the_rarer_class_whatever_its_number(rare: int) -> None:
    truth = ground(8, 16)
    truth[:, :3] = rare
    assert (scaled_labels(truth, (4, 8)) == rare).sum() == 8


def test_a_cell_is_ignored_where_less_than_half_of_it_is_labelled() -> None:
    truth = ground(6, 9)
    truth[:3, :3] = IGNORED
    truth[0, :2] = 1  # 2 of 9
    truth[:2, 3:6] = IGNORED  # 3 of 9 are left
    truth[:1, 6:9] = IGNORED  # 6 of 9 are left
    assert scaled_labels(truth, (2, 3)).tolist() == [[IGNORED, IGNORED, 1], [1, 1, 1]]
    truth = ground(2, 4)
    truth[:, 0] = IGNORED
    assert scaled_labels(truth, (1, 2)).tolist() == [[1, 1]]


@pytest.mark.parametrize("size", [(7, 9), (13, 31), (30, 39)])
def test_a_size_that_is_no_exact_fraction_keeps_places_and_shares(size: tuple[int, int]) -> None:
    truth = ground(30, 40)
    truth[:15] = 0
    labels = scaled_labels(truth, size)
    assert labels.shape == size
    assert (labels[: size[0] // 2] == 0).all() and (labels[-(size[0] // 2) :] == 1).all()


def test_a_larger_size_takes_the_nearest_pixel() -> None:
    truth = RNG.integers(0, 11, (4, 5), np.uint8)
    assert np.array_equal(scaled_labels(truth, (8, 10)), np.kron(truth, ground(2, 2)))


def test_nothing_labelled_is_nothing_labelled() -> None:
    assert (scaled_labels(ground(9, 9, IGNORED), (3, 3)) == IGNORED).all()
