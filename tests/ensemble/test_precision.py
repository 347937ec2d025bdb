import pytest
import torch

from ensemble_tune.ensemble import precision
from ensemble_tune.ensemble.precision import autocast, number_type
from ensemble_tune.errors import ConfigError

CPU, GPU = torch.device("cpu"), torch.device("cuda")


def test_float16_on_a_processor_is_refused() -> None:
    with pytest.raises(ConfigError, match="float16 needs a GPU, but the device is cpu; set precision to auto"):
        number_type("float16", CPU)


@pytest.mark.parametrize(("capabilities", "expected"), [({"avx512_bf16": True}, torch.bfloat16), ({}, torch.float32)])
def test_auto_is_bfloat16_only_where_the_processor_multiplies_it(
    monkeypatch: pytest.MonkeyPatch, capabilities: dict[str, bool], expected: torch.dtype
) -> None:
    monkeypatch.setattr(precision.torch.cpu, "get_capabilities", lambda: capabilities, raising=False)
    assert number_type("auto", CPU) is expected


@pytest.mark.parametrize(("supported", "expected"), [(True, torch.bfloat16), (False, torch.float16)])
def test_auto_on_a_gpu_is_the_half_it_multiplies(
    monkeypatch: pytest.MonkeyPatch, supported: bool, expected: torch.dtype
) -> None:
    monkeypatch.setattr(precision.torch.cuda, "is_bf16_supported", lambda including_emulation: supported)
    assert number_type("auto", GPU) is expected
    assert number_type("float16", GPU) is torch.float16


def test_autocast_changes_the_type_of_a_product_and_float32_does_not() -> None:
    matrix = torch.ones(2, 2)
    with autocast("bfloat16", CPU):
        assert (matrix @ matrix).dtype is torch.bfloat16
    with autocast("float32", CPU):
        assert (matrix @ matrix).dtype is torch.float32
