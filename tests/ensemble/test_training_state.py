from pathlib import Path

import pytest
import torch
from torch import nn

from ensemble_tune.ensemble.config import BaseConfig
from ensemble_tune.ensemble.training_state import TrainingState, load_weights
from ensemble_tune.errors import RunError
from ensemble_tune.trial import Checkpoint

CONFIG = BaseConfig(size=(32, 32), weight_decay=0.3, precision="float32")


def _model(seed: int = 0, width: int = 4) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Conv2d(3, width, 3), nn.BatchNorm2d(width), nn.Conv2d(width, 2, 1))


def _state(model: nn.Module) -> TrainingState:
    return TrainingState(model, CONFIG, steps=5, device=torch.device("cpu"))


def _step(state: TrainingState, value: int) -> None:
    state.optimiser.zero_grad()
    torch.autograd.backward(state.model(torch.full((2, 3, 8, 8), float(value))).square().mean())
    state.optimiser.step()


def test_norms_and_biases_are_not_decayed() -> None:
    model = _model()
    groups = _state(model).optimiser.param_groups
    assert [(group["weight_decay"], len(group["params"])) for group in groups] == [(0.3, 2), (0.0, 4)]
    assert all(parameter.ndim == 1 for parameter in groups[1]["params"])


def test_weights_lie_in_memory_channels_last() -> None:
    model = nn.Conv2d(8, 8, 3)
    assert _state(model).model is model
    assert model.weight.is_contiguous(memory_format=torch.channels_last)


def test_a_restored_state_goes_on_as_the_saved_one(tmp_path: Path) -> None:
    saved = _state(_model())
    _step(saved, 1)
    saved.save(tmp_path, epoch=1)
    restored = _state(_model(seed=1))
    restored.restore(Checkpoint(tmp_path, 1))
    for state in (saved, restored):
        _step(state, 2)
    for name, value in saved.model.state_dict().items():
        assert torch.equal(restored.model.state_dict()[name], value), name


def test_what_adamw_remembers_lies_in_memory_as_its_weights_do(tmp_path: Path) -> None:
    saved, restored = _state(nn.Conv2d(8, 8, 3)), _state(nn.Conv2d(8, 8, 3))
    torch.autograd.backward(saved.model(torch.rand(1, 8, 4, 4)).sum())
    saved.optimiser.step()
    saved.save(tmp_path, epoch=1)
    restored.restore(Checkpoint(tmp_path, 1))
    weight = next(restored.model.parameters())
    assert restored.optimiser.state[weight]["exp_avg"].stride() == weight.stride()


def test_batch_normalisation_is_saved_with_the_weights(tmp_path: Path) -> None:
    trained, fresh = _state(_model()), _model()
    trained.model(torch.rand(2, 3, 8, 8))
    trained.save(tmp_path, epoch=1)
    load_weights(fresh, tmp_path)
    assert fresh[1].num_batches_tracked == 1  # type: ignore[index]
    assert torch.equal(fresh[1].running_mean, trained.model[1].running_mean)  # type: ignore[index]


@pytest.mark.parametrize("name", ["model.safetensors", "optimiser.safetensors", "state.json"])
@pytest.mark.parametrize("damage", ["missing", "truncated"])
def test_a_damaged_checkpoint_is_refused_in_one_line(tmp_path: Path, name: str, damage: str) -> None:
    state = _state(_model())
    _step(state, 1)
    state.save(tmp_path, epoch=1)
    if damage == "missing":
        (tmp_path / name).unlink()
    else:
        (tmp_path / name).write_bytes((tmp_path / name).read_bytes()[:20])
    with pytest.raises(RunError, match=f"{name}' is missing or damaged; remove the checkpoint"):
        _state(_model()).restore(Checkpoint(tmp_path, 1))


def test_weights_of_another_model_are_refused_in_one_line(tmp_path: Path) -> None:
    _state(_model()).save(tmp_path, epoch=1)
    with pytest.raises(RunError, match=r"weights must fit the model, .* use the configuration") as raised:
        load_weights(_model(width=6), tmp_path)
    assert "\n" not in str(raised.value)
