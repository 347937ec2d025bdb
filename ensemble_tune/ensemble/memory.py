"""Bytes that a model needs, counted before it runs: without memory, arithmetic or a GPU."""

from __future__ import annotations

import itertools
import weakref
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


def inference_bytes(model: nn.Module, *shapes: Sequence[int]) -> int:
    """The most bytes that a forward pass without gradients holds at once, the model's own among them.

    shapes: of each input, uint8, on the model's device. Tensors are followed from their making to their end through a
    pass of shapes alone. What a library takes for itself inside an operation comes on top: on a processor up to a copy
    of the largest layer's weights, which vanishes beside the features of larger frames.
    """
    tensors = {name: tensor.data for name, tensor in itertools.chain(model.named_parameters(), model.named_buffers())}
    device = next((tensor.device for tensor in tensors.values()), torch.device("cpu"))
    shadows = FakeTensorMode()
    state: dict[str, Tensor] = {name: shadows.from_tensor(tensor) for name, tensor in tensors.items()}
    held = Held()
    with shadows, torch.inference_mode(), held:
        for tensor in state.values():
            held.add(tensor)
        inputs = tuple(torch.empty(*shape, dtype=torch.uint8, device=device) for shape in shapes)
        torch.func.functional_call(model, state, inputs)
    return held.most


class Held(TorchDispatchMode):  # type: ignore[no-untyped-call]  # as torch has it
    """Counts the bytes of all tensors that operations make, while they live."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.most: int = 0
        self._now = 0
        self._sizes: dict[int, int] = {}

    def __torch_dispatch__(self, operation: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = operation(*args, **(kwargs or {}))
        for made in tree_leaves(result):
            if isinstance(made, Tensor):
                self.add(made)
        return result

    def add(self, tensor: Tensor) -> None:
        """Counts a tensor's bytes until the last tensor that shares them is gone."""
        storage = tensor.untyped_storage()
        key = storage._cdata
        if key not in self._sizes:
            self._sizes[key] = storage.nbytes()
            self._now += self._sizes[key]
            self.most = max(self.most, self._now)
            weakref.finalize(storage, self._drop, key)

    def _drop(self, key: int) -> None:
        self._now -= self._sizes.pop(key)
