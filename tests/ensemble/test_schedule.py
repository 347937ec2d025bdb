import pytest
import torch

from ensemble_tune.ensemble.schedule import learning_rate


@pytest.mark.parametrize("steps", [7, 100])
def test_one_cycle_is_torchs(steps: int) -> None:
    optimiser = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    theirs = torch.optim.lr_scheduler.OneCycleLR(optimiser, max_lr=0.5, total_steps=steps, cycle_momentum=False)
    for step in range(steps):
        assert learning_rate("one_cycle", 0.5, step, steps) == pytest.approx(theirs.get_last_lr()[0], rel=1e-9)
        optimiser.step()
        if step + 1 < steps:
            theirs.step()


@pytest.mark.parametrize("steps", [1, 2, 3, 4])
def test_one_cycle_is_positive_and_never_above_the_highest_in_the_shortest_of_trainings(steps: int) -> None:
    rates = [learning_rate("one_cycle", 0.5, step, steps) for step in range(steps)]
    assert all(0 < rate <= 0.5 for rate in rates)


def test_cosine_falls_from_the_highest_to_nearly_nothing_and_never_to_it() -> None:
    rates = [learning_rate("cosine", 0.1, step, 50) for step in range(50)]
    assert rates[0] == 0.1
    assert rates == sorted(rates, reverse=True)
    assert 0 < rates[-1] < 0.001
    assert rates[25] == pytest.approx(0.05)


def test_constant_stays() -> None:
    assert {learning_rate("constant", 0.1, step, 50) for step in range(50)} == {0.1}
