import dataclasses
import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from ensemble_tune.ensemble.config import BaseConfig
from ensemble_tune.ensemble.training_state import TrainingState, copy_state, holds_training_of, load_weights
from ensemble_tune.errors import RunError
from ensemble_tune.trial import Checkpoint

CONFIG = BaseConfig(size=(32, 32), weight_decay=0.3, precision="float32", averaging=0.0)
AVERAGED = dataclasses.replace(CONFIG, averaging=0.25)


def _model(seed: int = 0, width: int = 4) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Conv2d(3, width, 3), nn.BatchNorm2d(width), nn.Conv2d(width, 2, 1))


def _state(model: nn.Module, config: BaseConfig = CONFIG) -> TrainingState:
    return TrainingState(model, config, steps=5, device=torch.device("cpu"))


def _step(state: TrainingState, value: int) -> None:
    state.optimiser.zero_grad()
    torch.autograd.backward(state.trained(torch.full((2, 3, 8, 8), float(value))).square().mean())
    state.optimiser.step()


def test_norms_and_biases_are_not_decayed_in_one_fused_step() -> None:
    model = _model()
    groups = _state(model).optimiser.param_groups
    assert [(group["weight_decay"], len(group["params"])) for group in groups] == [(0.3, 2), (0.0, 4)]
    assert all(group["fused"] for group in groups), "one kernel a step, not several a tensor"
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


def test_without_averaging_the_trained_weights_are_the_models_own() -> None:
    state = _state(_model())
    before = {name: value.clone() for name, value in state.model.state_dict().items()}
    _step(state, 1)
    state.follow(1)
    assert state.trained is state.model
    assert not torch.equal(state.model.state_dict()["0.weight"], before["0.weight"])


def test_an_average_reaches_over_its_share_of_the_steps() -> None:
    """Each step takes the average 1 / (share * step) of the way to the trained weights, and at most all of it."""
    state = _state(_model(), AVERAGED)
    expected = {name: value.clone() for name, value in state.model.state_dict().items()}
    for step in range(1, 9):
        _step(state, step)
        state.follow(step)
        for name, value in state.trained.state_dict().items():
            if value.is_floating_point():
                expected[name] += (value - expected[name]) * min(1.0, 1 / (0.25 * step))
        if step == 4:
            assert torch.equal(state.model.state_dict()["0.weight"], state.trained.state_dict()["0.weight"])
    for name in ("0.weight", "1.running_var"):
        assert torch.allclose(state.model.state_dict()[name], expected[name], rtol=1e-5), name
        assert not torch.equal(state.model.state_dict()[name], state.trained.state_dict()[name]), name


def test_an_average_goes_on_after_a_restore_as_it_would_have(tmp_path: Path) -> None:
    saved, restored = _state(_model(), AVERAGED), _state(_model(seed=1), AVERAGED)
    for step in (1, 2, 3, 4, 5, 6):
        _step(saved, step)
        saved.follow(step)
    saved.save(tmp_path, epoch=1)
    restored.restore(Checkpoint(tmp_path, 1))
    for state in (saved, restored):
        _step(state, 7)
        state.follow(7)
    for one, other in ((saved.model, restored.model), (saved.trained, restored.trained)):
        for name, value in one.state_dict().items():
            assert torch.equal(other.state_dict()[name], value), name


def test_a_copied_state_holds_the_trained_weights_beside_the_average(tmp_path: Path) -> None:
    source, copied, plain = (tmp_path / name for name in ("source", "copied", "plain"))
    for folder in (source, copied, plain):
        folder.mkdir()
    _state(_model(), AVERAGED).save(source, epoch=1)
    copy_state(source, copied)
    _state(_model(seed=1), AVERAGED).restore(Checkpoint(copied, 1))
    _state(_model()).save(plain, epoch=1)
    assert not (plain / "trained.safetensors").exists()


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


@pytest.mark.parametrize("name", ["model.safetensors", "trained.safetensors", "optimiser.safetensors", "state.json"])
@pytest.mark.parametrize("damage", ["missing", "truncated"])
def test_a_damaged_checkpoint_is_refused_in_one_line(tmp_path: Path, name: str, damage: str) -> None:
    state = _state(_model(), AVERAGED)
    _step(state, 1)
    state.save(tmp_path, epoch=1)
    if damage == "missing":
        (tmp_path / name).unlink()
    else:
        (tmp_path / name).write_bytes((tmp_path / name).read_bytes()[:20])
    with pytest.raises(RunError, match=f"{name}' is missing or damaged; remove the checkpoint"):
        _state(_model(), AVERAGED).restore(Checkpoint(tmp_path, 1))


def _other_moments(folder: Path, change: Callable[[dict[str, Tensor]], None]) -> None:
    moments = load_file(folder / "optimiser.safetensors")
    change(moments)
    save_file(moments, folder / "optimiser.safetensors")


@pytest.mark.parametrize(
    "change",
    [
        lambda moments: moments.update({"0.weight/exp_avg": torch.zeros(4, 3, 3, 2)}),
        lambda moments: moments.update({"0.weight/exp_avg_sq": torch.zeros(3)}),
        lambda moments: moments.update({"0.weight/step": torch.zeros(2)}),
        lambda moments: moments.update({"0.weight/exp_avg": torch.zeros(4, 3, 3, 3, dtype=torch.int32)}),
        lambda moments: moments.pop("0.weight/exp_avg"),
    ],
    ids=["side", "dimensions", "step", "type", "missing"],
)
def test_moments_of_another_shape_are_refused(tmp_path: Path, change: Callable[[dict[str, Tensor]], None]) -> None:
    """A fused step would read beyond their end."""
    state = _state(_model())
    _step(state, 1)
    state.save(tmp_path, epoch=1)
    _other_moments(tmp_path, change)
    with pytest.raises(RunError, match=r"optimiser\.safetensors' is missing or damaged; remove the checkpoint"):
        _state(_model()).restore(Checkpoint(tmp_path, 1))


@pytest.mark.parametrize("scaler", ["x", [1], {"scale": "big"}, {"scale": 1.0}])
def test_a_scale_of_other_types_is_refused(tmp_path: Path, scaler: object) -> None:
    def half() -> TrainingState:
        state = _state(_model())
        state.scaler = torch.amp.GradScaler("cpu")
        return state

    saved = half()
    saved.save(tmp_path, epoch=1)
    path = tmp_path / "state.json"
    text = json.loads(path.read_text())
    assert set(text["scaler"]) > {"scale"}
    half().restore(Checkpoint(tmp_path, 1))
    path.write_text(json.dumps(text | {"scaler": scaler}))
    with pytest.raises(RunError, match=r"state\.json' is missing or damaged; remove the checkpoint"):
        half().restore(Checkpoint(tmp_path, 1))


@pytest.mark.parametrize("text", ["[]", "3", "null", "[" * 100_000])
def test_a_state_that_is_no_table_is_refused(tmp_path: Path, text: str) -> None:
    _state(_model()).save(tmp_path, epoch=1)
    (tmp_path / "state.json").write_text(text)
    assert not holds_training_of(tmp_path, CONFIG)
    with pytest.raises(RunError, match=r"state\.json' is missing or damaged; remove the checkpoint"):
        _state(_model()).restore(Checkpoint(tmp_path, 1))


def test_weights_of_another_model_are_refused_in_one_line(tmp_path: Path) -> None:
    _state(_model()).save(tmp_path, epoch=1)
    with pytest.raises(RunError, match=r"weights must fit the model, .* use the configuration") as raised:
        load_weights(_model(width=6), tmp_path)
    assert "\n" not in str(raised.value)
