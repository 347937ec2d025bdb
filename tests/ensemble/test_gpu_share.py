import gc
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from weakref import WeakSet

import pytest
import torch
from torch.cuda._utils import _get_device_index

from ensemble_tune.ensemble import stage_data
from ensemble_tune.ensemble.gpu_share import CONTEXT_BYTES, allocated_fraction, gpu_bytes, keep_to_share, most_taken
from ensemble_tune.ensemble.stage_data import StageData
from ensemble_tune.errors import ConfigError
from ensemble_tune.trial import Share, give_share

GIB = 2**30


def test_a_process_needs_more_of_a_card_than_its_tensors() -> None:
    assert gpu_bytes(0) > CONTEXT_BYTES
    assert 1.05 * GIB < gpu_bytes(2 * GIB) - gpu_bytes(GIB) < 1.2 * GIB


def test_tensors_may_take_a_share_without_what_cuda_takes() -> None:
    quarter = (4 * GIB - CONTEXT_BYTES) / (16 * GIB)
    assert allocated_fraction(Share(cpus=1, gpus=0.25, gpu_bytes=4 * GIB), 16 * GIB) == quarter
    assert allocated_fraction(Share(cpus=1, gpus=0.25), 16 * GIB) == quarter, "of a card whose size nobody told"
    assert allocated_fraction(Share(cpus=1, gpus=1, gpu_bytes=32 * GIB), 16 * GIB) == 1
    assert allocated_fraction(Share(cpus=1, gpus=1, gpu_bytes=CONTEXT_BYTES // 2), 16 * GIB) == 0
    for unbounded in (None, Share(cpus=1, gpus=1), Share(cpus=1, gpus=0)):
        assert allocated_fraction(unbounded, 16 * GIB) == 1


def test_what_fits_by_the_estimate_fits_the_limit() -> None:
    for counted in (100 * 2**20, 3 * GIB, 70 * GIB):
        share = Share(cpus=1, gpus=1, gpu_bytes=gpu_bytes(counted))
        assert allocated_fraction(share, 80 * GIB) * 80 * GIB >= 1.1 * counted - 1


def test_a_processor_is_no_card() -> None:
    keep_to_share(torch.device("cpu"))
    assert most_taken(torch.device("cpu")) is None


@pytest.fixture
def card(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, float]]:
    """A stand-in for a card of 16 GiB: what it is told."""
    told: list[tuple[str, float]] = []
    for name in ("init", "empty_cache", "reset_peak_memory_stats"):
        monkeypatch.setattr(torch.cuda, name, lambda *_, name=name: told.append((name, len(left_over))))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _: SimpleNamespace(total_memory=16 * GIB))

    def limit(part: float, device: torch.device) -> None:
        told.append((f"cuda:{_get_device_index(device)}", part))  # as torch does: it refuses one without a number

    monkeypatch.setattr(torch.cuda, "set_per_process_memory_fraction", limit)
    return told


@pytest.fixture
def quarter() -> Iterator[float]:
    """The part of the card that this process's tensors may take."""
    give_share(Share(cpus=1, gpus=0.25, gpu_bytes=4 * GIB))
    yield (4 * GIB - CONTEXT_BYTES) / (16 * GIB)
    give_share(None)


class Tensor:
    """Held by a cycle, as a trial's model and its optimiser may be."""

    def __init__(self) -> None:
        self.itself = self


left_over: WeakSet[Tensor] = WeakSet()


def test_before_a_trial_allocates_its_process_is_kept_to_its_share(
    tmp_path: Path, card: list[tuple[str, float]], quarter: float
) -> None:
    assert StageData(data="synthetic", cache=tmp_path).prepare() == torch.device("cuda:0")
    assert card[-1] == ("cuda:0", quarter)


def test_a_trial_without_a_share_of_a_card_leaves_all_of_them_alone(tmp_path: Path, card: list[object]) -> None:
    give_share(Share(cpus=1, gpus=0.0))
    try:
        assert StageData(data="synthetic", cache=tmp_path).prepare() == torch.device("cpu") and not card
    finally:
        give_share(None)


def test_a_share_of_a_card_that_torch_cannot_use_is_an_error_not_a_slow_training(
    tmp_path: Path, card: list[object], quarter: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(stage_data, "_DEVICES", tmp_path)
    assert StageData(data="synthetic", cache=tmp_path).prepare() == torch.device("cpu"), "no card is there"
    (tmp_path / "nvidia0").touch()
    with pytest.raises(ConfigError, match=r"was given a GPU on .*, but torch .* finds none that it can use; inst"):
        StageData(data="synthetic", cache=tmp_path).prepare()
    assert StageData(data="synthetic", cache=tmp_path, device="cpu").prepare() == torch.device("cpu")


def test_what_an_ended_trial_left_in_cycles_is_freed_before_the_peak_is_counted(card: list[tuple[str, float]]) -> None:
    gc.disable()
    try:
        left_over.add(Tensor())
        keep_to_share(torch.device("cuda:0"))
    finally:
        gc.enable()
    assert card == [("init", 1), ("empty_cache", 0), ("reset_peak_memory_stats", 0), ("cuda:0", 1.0)]
