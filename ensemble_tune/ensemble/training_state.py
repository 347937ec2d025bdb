"""What one training needs to go on from an epoch: weights, optimiser state and a few scalars; no pickle.

model.safetensors      the model's weights and buffers, alone: all that inference needs
trained.safetensors    where those are an average, the ones that go on to be trained
optimiser.safetensors  "<parameter>/<quantity>": AdamW's two means and its step
state.json             epoch, digest of the config, steps an epoch, scale of the loss
"""

from __future__ import annotations

import copy
import dataclasses
import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from ensemble_tune.ensemble.config import BaseConfig, MetaConfig
from ensemble_tune.ensemble.precision import number_type
from ensemble_tune.errors import RunError
from ensemble_tune.storage import Location, read_json
from ensemble_tune.trial import Checkpoint

WEIGHTS_FILE = "model.safetensors"
_TRAINED_FILE = "trained.safetensors"
_OPTIMISER_FILE = "optimiser.safetensors"
_STATE_FILE = "state.json"
_MOMENTS = ("step", "exp_avg", "exp_avg_sq")
"""What AdamW keeps of a parameter."""


class TrainingState:
    """A model on its device, with the optimiser and the loss scale that train it.

    model: what is scored and kept; `trained` is what the optimiser moves. They are one, but where the config averages:
    there `model` follows `trained` by `follow`. steps: an epoch's steps. trained: where both are there already, and on
    their device. AdamW is Loshchilov and Hutter 2019;
    normalisation weights and biases are not decayed, since shrinking them regularises nothing.
    """

    def __init__(
        self,
        model: nn.Module,
        config: BaseConfig | MetaConfig,
        steps: int,
        device: torch.device,
        trained: nn.Module | None = None,
    ) -> None:
        if trained is None:
            model = model.to(device).to(memory_format=torch.channels_last)
            trained = copy.deepcopy(model) if config.averaging else model
        self.model, self.trained = model, trained
        self._averages, self._averaged = (
            [value for value in own.state_dict().values() if value.is_floating_point()]  # not the counts of batches
            for own in (self.model, self.trained)
        )
        self.config, self.steps, self.device = config, steps, device
        named = [(name, parameter) for name, parameter in self.trained.named_parameters() if parameter.requires_grad]
        matrices = [pair for pair in named if pair[1].ndim > 1]
        vectors = [pair for pair in named if pair[1].ndim <= 1]
        self.optimiser = torch.optim.AdamW(
            [
                {"params": [parameter for _, parameter in matrices], "weight_decay": config.weight_decay},
                {"params": [parameter for _, parameter in vectors], "weight_decay": 0.0},
            ],
            lr=config.learning_rate,
            fused=True,
        )
        self._parameters = dict([*matrices, *vectors])
        # Half precision alone has too few exponents for gradients; the other types pass through unscaled.
        self.scaler = torch.amp.GradScaler(device.type, enabled=number_type(config.precision, device) == torch.float16)

    def follow(self, step: int) -> None:
        """Takes the weights after step `step` of the whole training, counted from 1, into the average.

        The average is Shamir and Zhang's (2013, polynomial decay): it reaches over a constant share of the steps so
        far, so that it forgets the beginning however long a training is. Normalisation's running means and variances
        are averaged as the weights are.
        """
        if self.trained is self.model:
            return
        torch._foreach_lerp_(self._averages, self._averaged, min(1.0, 1 / (self.config.averaging * step)))

    def save(self, folder: Path, epoch: int) -> None:
        """Writes the state after `epoch` into an existing folder."""
        save_file(_stored(self.model.state_dict()), folder / WEIGHTS_FILE)
        if self.trained is not self.model:
            save_file(_stored(self.trained.state_dict()), folder / _TRAINED_FILE)
        moments = {
            f"{name}/{quantity}": value
            for name, parameter in self._parameters.items()
            for quantity, value in self.optimiser.state.get(parameter, {}).items()
        }
        save_file(_stored(moments), folder / _OPTIMISER_FILE)
        state = {"epoch": epoch, "scaler": self.scaler.state_dict(), **self._identity()}
        (folder / _STATE_FILE).write_text(json.dumps(state, indent=1), encoding="utf-8")

    def restore(self, checkpoint: Checkpoint) -> None:
        """Goes back to the state that `save` wrote. Raises RunError if it is damaged, or of another training."""
        folder = checkpoint.folder
        state = _read_state(folder)
        for name, mine in {"epoch": checkpoint.epoch, **self._identity()}.items():
            if state.get(name) != mine:
                raise RunError(
                    f"a checkpoint must be of the training that resumes it, but {str(folder)!r} has {name} "
                    f"{state.get(name)!r} instead of {mine!r}; start the trial anew, or restore its settings and frames"
                )
        load_weights(self.model, folder)
        if self.trained is not self.model:
            _load(self.trained, folder / _TRAINED_FILE)
        moments = _read_tensors(folder / _OPTIMISER_FILE)
        state_of: dict[int, dict[str, Tensor]] = {}
        for index, (name, parameter) in enumerate(self._parameters.items()):
            own = {key: moments[f"{name}/{key}"] for key in _MOMENTS if f"{name}/{key}" in moments}
            shapes = {key: () if key == "step" else parameter.shape for key in _MOMENTS}
            if own and {key: value.shape for key, value in own.items() if value.is_floating_point()} != shapes:
                raise _damaged(folder / _OPTIMISER_FILE)
            # The order of dimensions in memory is restored too: a fused step walks all its tensors alike.
            state_of[index] = {
                key: value if key == "step" else torch.empty_like(parameter).copy_(value) for key, value in own.items()
            }
        groups = self.optimiser.state_dict()["param_groups"]
        self.optimiser.load_state_dict({"state": state_of, "param_groups": groups})
        scaler, own_scaler = state.get("scaler"), self.scaler.state_dict()
        if scaler and own_scaler:
            if not isinstance(scaler, dict) or _types(scaler) != _types(own_scaler):
                raise _damaged(folder / _STATE_FILE)
            self.scaler.load_state_dict(scaler)

    def _identity(self) -> dict[str, str | int]:
        """What must be equal for one training to continue another; how far a trial goes is not part of it."""
        return {"config": _whole_schedule(self.config), "steps": self.steps}


def holds_training_of(folder: Location, config: BaseConfig | MetaConfig) -> bool:
    """Whether a folder holds a state of a training of `config`, however far either goes."""
    try:
        return _read_state(folder).get("config") == _whole_schedule(config)
    except RunError:
        return False


def copy_state(source: Path, target: Path) -> None:
    """Copies what `TrainingState.save` wrote into an existing folder."""
    for name in (WEIGHTS_FILE, _TRAINED_FILE, _OPTIMISER_FILE, _STATE_FILE):
        if name != _TRAINED_FILE or (source / name).exists():
            shutil.copyfile(source / name, target / name)


def _whole_schedule(config: BaseConfig | MetaConfig) -> str:
    """What names a training, of which `stop_epoch` only says how much is wanted."""
    return dataclasses.replace(config, stop_epoch=None).digest()


def load_weights(model: nn.Module, folder: Path) -> None:
    """Copies a training's weights in `folder` into `model`. Raises RunError if they are damaged or do not fit."""
    _load(model, folder / WEIGHTS_FILE)


def _load(model: nn.Module, file: Path) -> None:
    try:
        model.load_state_dict(_read_tensors(file))
    except RuntimeError as error:
        fault = " ".join(str(error).split())[:200]
        raise RunError(
            f"weights must fit the model, but {str(file)!r} does not: {fault}; "
            "use the configuration they were trained with"
        ) from error


def _stored(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Tensors as safetensors wants them: on the processor, densely packed in the order of their dimensions."""
    return {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}


def _read_tensors(file: Path) -> dict[str, Tensor]:
    try:
        return load_file(file)
    except (OSError, SafetensorError) as error:
        raise _damaged(file) from error


def _read_state(folder: Location) -> dict[str, Any]:
    file = folder / _STATE_FILE
    try:
        state = read_json(file)
    except (FileNotFoundError, ValueError) as error:
        raise _damaged(file) from error
    if not isinstance(state, dict):
        raise _damaged(file)
    return state


def _types(values: Mapping[str, Any]) -> dict[str, type]:
    return {name: type(value) for name, value in values.items()}


def _damaged(file: Location) -> RunError:
    return RunError(f"{str(file)!r} is missing or damaged; remove the checkpoint, and start from an earlier one")
