from collections.abc import Sequence

import pytest
import torch
from torch import Tensor, nn

from ensemble_tune.ensemble.cost import ForwardTimer, costs


def timer() -> ForwardTimer:
    def inputs_of(rows: Sequence[int]) -> list[Tensor]:
        return [torch.zeros(len(rows))]

    return ForwardTimer(lambda images: images, inputs_of, torch.device("cpu"))


def test_an_image_takes_its_share_of_the_median_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter([0.0, 9.0, 10.0, 10.008, 20.0, 20.012])
    monkeypatch.setattr("ensemble_tune.ensemble.cost.time.perf_counter", lambda: next(clock))
    timed = timer()
    assert all(len(timed(range(4))) == 4 for _ in range(3))
    assert timed.milliseconds == pytest.approx(3.0), "the first pass may have warmed up"


def test_reading_what_a_model_takes_is_no_part_of_its_time(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter([0.0, 5.0, 5.004, 9.0])
    monkeypatch.setattr("ensemble_tune.ensemble.cost.time.perf_counter", lambda: next(clock))

    def inputs_of(rows: Sequence[int]) -> list[Tensor]:
        next(clock)
        return [torch.zeros(len(rows))]

    timed = ForwardTimer(lambda images: images, inputs_of, torch.device("cpu"))
    timed([0, 1])
    assert timed.milliseconds == pytest.approx(2.0)


def test_an_ensemble_costs_what_all_its_models_cost() -> None:
    model = nn.Conv2d(3, 5, 1)  # 20 parameters
    timed = timer()
    timed([0])
    alone = costs(model, timed, 0.5)
    assert alone["parameters"] == 20e-6 and 0 < alone["milliseconds"] < 1000 and alone["memory"] == 0.5
    member = {"milliseconds": 7.0, "parameters": 2.0, "memory": 8.0 + 3.0, "miou": 0.5}
    assert costs(model, timed, 0.5, [member] * 3) == pytest.approx(
        # All weights, and the features of the model that has the most of them.
        {"parameters": 6.00002, "milliseconds": 21 + alone["milliseconds"], "memory": 4 * 6.00002 + 3.0}
    )


def test_a_cost_that_is_unknown_of_a_member_is_left_out() -> None:
    timed = timer()
    timed([0])
    assert set(costs(nn.Conv2d(3, 5, 1), timed, 0.5, [{"parameters": 2.0}])) == {"parameters"}
