import math

import pytest

from ensemble_tune.errors import ConfigError
from ensemble_tune.tune.resources import Resources


@pytest.mark.parametrize(
    ("cpus", "gpus", "nodes", "slots"),
    [
        (1, 0, [{"CPU": 2}], 2),
        (2, 0, [{"CPU": 2}], 1),
        (2, 0, [{"CPU": 3}, {"CPU": 3}], 2),
        (0.5, 0, [{"CPU": 2}], 4),
        (0.1, 0, [{"CPU": 1}], 10),
        (1, 0.25, [{"CPU": 8, "GPU": 1}], 4),
        (1, 1 / 3, [{"CPU": 8, "GPU": 1}], 3),
        (1, 0.3, [{"CPU": 16, "GPU": 2}], 6),
        (1, 0.6, [{"CPU": 16, "GPU": 2}], 2),
        (1, 2, [{"CPU": 16, "GPU": 5}], 2),
        (4, 0.25, [{"CPU": 8, "GPU": 1}], 2),
        (1, 1, [{"CPU": 8}, {"CPU": 2, "GPU": 4}], 2),
        (1, 0, [{}, {"CPU": 1}], 1),
    ],
)
def test_slots_are_what_fits_machine_by_machine(
    cpus: float, gpus: float, nodes: list[dict[str, float]], slots: int
) -> None:
    assert Resources(cpus=cpus, gpus=gpus).slots(nodes) == slots


@pytest.mark.parametrize(
    ("cpus", "gpus", "message"),
    [
        (4, 0, "asks for 4 CPUs and 0 GPUs and the largest has 2 and 1; lower --cpus-per-trial"),
        (1, 2, "asks for 1 CPUs and 2 GPUs and the largest has 2 and 1; lower --cpus-per-trial or --gpus-per-trial"),
    ],
)
def test_a_trial_that_fits_no_machine_is_refused_with_the_remedy(cpus: float, gpus: float, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Resources(cpus=cpus, gpus=gpus).slots([{"CPU": 2}, {"CPU": 2, "GPU": 1}])


@pytest.mark.parametrize("cpus", [0, -1, math.nan, math.inf])
def test_a_share_of_no_cores_is_refused(cpus: float) -> None:
    with pytest.raises(ConfigError, match=r"--cpus-per-trial must be above 0, but got .*; try 1"):
        Resources(cpus=cpus)


@pytest.mark.parametrize("gpus", [-0.5, -1, 1.5, math.nan, math.inf])
def test_a_share_of_devices_that_ray_cannot_book_is_refused(gpus: float) -> None:
    with pytest.raises(ConfigError, match=r"--gpus-per-trial must be a fraction of 1 or a whole number.*try 0.25"):
        Resources(gpus=gpus)


def test_without_a_wish_a_trial_takes_one_device_where_there_is_any() -> None:
    assert Resources().on([{"CPU": 2}]).gpus == 0.0
    assert Resources().on([{"CPU": 2}, {"CPU": 2, "GPU": 1}]).gpus == 1.0
    assert Resources(gpus=0.25).on([{"CPU": 2, "GPU": 1}]).gpus == 0.25
    assert Resources(gpus=0).on([{"CPU": 2, "GPU": 1}]).gpus == 0


def test_the_request_names_devices_only_where_it_wants_some() -> None:
    assert Resources(cpus=2, gpus=0).bundle() == {"CPU": 2}
    assert Resources(cpus=2, gpus=0.5).bundle() == {"CPU": 2, "GPU": 0.5}


def test_threads_fit_the_share_of_cores() -> None:
    assert [Resources(cpus=cpus).threads for cpus in (0.25, 1, 1.9, 4)] == [1, 1, 1, 4]


@pytest.mark.parametrize("memory", [-1, math.nan, math.inf])
def test_a_share_of_memory_that_makes_no_sense_is_refused(memory: float) -> None:
    with pytest.raises(ConfigError, match=r"--memory-per-trial must be 0 GiB or more, but got .*; try 8"):
        Resources(memory=memory)


def test_memory_is_booked_in_bytes_and_limits_slots() -> None:
    share = Resources(cpus=1, gpus=0, memory=2)
    assert share.bundle() == {"CPU": 1, "memory": 2 * 2**30}
    assert share.slots([{"CPU": 8, "memory": 5 * 2**30}]) == 2
    with pytest.raises(ConfigError, match="asks for 1 CPUs and 0 GPUs and 2 GiB and the largest has 8 and 0 and 1 GiB"):
        share.slots([{"CPU": 8, "memory": 2**30}])


@pytest.mark.parametrize("memory", [0, -1, math.nan, math.inf])
def test_a_need_of_gpu_memory_that_makes_no_sense_is_refused(memory: float) -> None:
    with pytest.raises(ConfigError, match="a trial's memory on a GPU must be above 0 GiB"):
        Resources(gpu_memory=memory)
