import dataclasses
import socket
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from ensemble_tune.ensemble import encoder_weights
from ensemble_tune.ensemble.base_model import IMAGENET_MEAN, IMAGENET_STD, Normalise, build_base_model, check_base_model
from ensemble_tune.ensemble.config import BaseConfig
from ensemble_tune.errors import ConfigError

CONFIG = BaseConfig(encoder="mobilenet_v2", size=(64, 64), batch_size=2, precision="float32")


def _changed(**changes: object) -> BaseConfig:
    return dataclasses.replace(CONFIG, **changes)  # type: ignore[arg-type]


def _images(height: int = 64, width: int = 64) -> torch.Tensor:
    return torch.randint(0, 256, (2, 3, height, width), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)


@pytest.mark.parametrize("architecture", ["unet", "unetplusplus", "deeplabv3plus", "fpn"])
def test_frames_of_any_size_become_logits_of_that_size(architecture: str) -> None:
    model = build_base_model(_changed(architecture=architecture), 5).eval()
    with torch.inference_mode():
        logits = model(_images(45, 70))
    assert logits.shape == (2, 5, 45, 70)
    assert logits.dtype is torch.float32


def test_pixels_are_normalised_by_the_mean_and_deviation_of_imagenet() -> None:
    image = _images()
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (IMAGENET_MEAN, IMAGENET_STD))
    torch.testing.assert_close(Normalise()(image), (image / 255 - mean) / std)
    assert not Normalise().state_dict()


def test_padding_does_not_move_the_frame() -> None:
    model = build_base_model(CONFIG, 5).eval()
    whole = _images()
    with torch.inference_mode():
        torch.testing.assert_close(
            model(whole[..., :63, :])[..., :40, :40], model(whole)[..., :40, :40], atol=0.01, rtol=0
        )


def test_bfloat16_logits_come_back_as_float32_and_differ() -> None:
    precise = build_base_model(CONFIG, 5).eval()
    coarse = build_base_model(_changed(precision="bfloat16"), 5).eval()
    with torch.inference_mode():
        one, other = precise(_images()), coarse(_images())
    assert other.dtype is torch.float32
    assert not torch.equal(one, other)
    torch.testing.assert_close(one, other, atol=0.05, rtol=0.05)


def test_the_seed_decides_the_weights_and_nothing_else_is_drawn_from() -> None:
    torch.manual_seed(7)
    before = torch.get_rng_state()
    one, same, other = (build_base_model(_changed(seed=seed), 5).state_dict() for seed in (1, 1, 2))
    assert torch.equal(torch.get_rng_state(), before)
    assert all(torch.equal(one[name], same[name]) for name in one)
    assert any(not torch.equal(one[name], other[name]) for name in one)


def test_scse_adds_attention_to_the_decoder() -> None:
    plain, attentive = (
        build_base_model(_changed(architecture="unetplusplus", decoder_attention=attention), 5)
        for attention in (None, "scse")
    )
    assert len(attentive.state_dict()) > len(plain.state_dict())


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"architecture": "unetplusplus", "decoder_attention": "scse"},
        {"architecture": "deeplabv3plus", "encoder": "resnet18"},
        {"encoder": "mit_b0"},
        {"encoder": "tu-mobilenetv3_small_050"},
    ],
)
def test_what_can_be_trained_passes(changes: dict[str, object]) -> None:
    check_base_model(_changed(**changes))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"architecture": "unett"}, "no architecture is called 'unett'; did you mean 'unet'"),
        ({"encoder": "resnet19"}, "no encoder is called 'resnet19'; did you mean 'resnet18'"),
        ({"encoder": "tu-resnet19"}, "did you mean 'tu-resnet18'"),
        ({"architecture": "deeplabv3", "encoder": "vgg11"}, "deeplabv3 with the encoder 'vgg11' cannot be built"),
        ({"architecture": "unetplusplus", "encoder": "mit_b0"}, "cannot be built: UnetPlusPlus"),
        ({"architecture": "deeplabv3plus", "batch_size": 1}, "batch_size is 1; set it to 2 or more"),
        ({"batch_size": 1, "size": (32, 32)}, "at size 32x32 needs batches of at least 2"),
        ({"architecture": "pan"}, "cannot work at size 64x64: .*; try a larger size"),
        ({"encoder_weights": "imagnet"}, "there is no file 'imagnet' .did you mean 'imagenet'"),
    ],
)
def test_what_cannot_be_trained_is_refused_in_one_line(changes: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message) as raised:
        check_base_model(_changed(**changes))
    assert "\n" not in str(raised.value)


def test_imagenet_off_line_is_an_error_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(encoder_weights.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: pytest.fail("asked the network"))
    for refuse in (check_base_model, lambda config: build_base_model(config, 5)):
        with pytest.raises(ConfigError, match="use --encoder-weights none, or a local state file"):
            refuse(_changed(encoder_weights="imagenet"))


def test_a_trained_model_is_built_again_without_its_initial_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(encoder_weights.constants, "HF_HUB_OFFLINE", True)
    build_base_model(_changed(encoder_weights="imagenet"), 5, pretrained=False)


def test_a_local_file_becomes_the_encoder(tmp_path: Path) -> None:
    trained = build_base_model(_changed(seed=3), 5)
    state = {name: tensor.contiguous() for name, tensor in trained.state_dict().items()}
    save_file(state, tmp_path / "model.safetensors")
    config = _changed(encoder_weights=str(tmp_path / "model.safetensors"))
    check_base_model(config)
    network = build_base_model(config, 7).network
    for name, tensor in trained.network.encoder.state_dict().items():
        assert torch.equal(network.encoder.state_dict()[name], tensor)


def test_a_file_of_another_encoder_is_refused_before_training(tmp_path: Path) -> None:
    torch.save(build_base_model(CONFIG, 5).network.encoder.state_dict(), tmp_path / "weights.pth")
    with pytest.raises(ConfigError, match="must fit the encoder 'resnet18'"):
        check_base_model(_changed(encoder="resnet18", encoder_weights=str(tmp_path / "weights.pth")))


def test_a_model_is_built_in_the_layout_in_which_it_is_trained_and_scored() -> None:
    """In another one it would round otherwise, and be slower."""
    weights = [p for p in build_base_model(_changed(), 3).parameters() if p.ndim == 4 and p.shape[1] > 1 < p.shape[2]]
    assert weights and all(weight.is_contiguous(memory_format=torch.channels_last) for weight in weights)
