import http.server
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import segmentation_models_pytorch as smp
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from ensemble_tune.ensemble import encoder_weights
from ensemble_tune.ensemble.encoder_weights import check_encoder_weights, is_hub_name, load_encoder_weights
from ensemble_tune.errors import ConfigError


def _encoder(name: str = "mobilenet_v2", seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    encoder: nn.Module = smp.encoders.get_encoder(name, weights=None)
    return encoder


def _lightning(state: dict[str, Tensor]) -> dict[str, object]:
    return {"epoch": 3, "state_dict": {f"model.encoder.{name}": value for name, value in state.items()}}


@pytest.mark.parametrize(
    "saved_as",
    [
        lambda state: state,
        lambda state: {f"encoder.{name}": value for name, value in state.items()} | {"decoder.x": torch.ones(1)},
        lambda state: state | {"classifier.1.weight": torch.ones(10, 1280)},
        lambda state: {name: value for name, value in state.items() if not name.endswith("num_batches_tracked")},
        _lightning,
    ],
    ids=["encoder", "network", "classifier", "old", "lightning"],
)
def test_a_state_file_is_read_however_it_was_saved(
    tmp_path: Path, saved_as: Callable[[dict[str, Tensor]], dict[str, object]]
) -> None:
    source, target = _encoder(seed=1), _encoder(seed=2)
    torch.save(saved_as(source.state_dict()), tmp_path / "weights.pth")
    load_encoder_weights(target, "mobilenet_v2", tmp_path / "weights.pth")
    for name, value in source.state_dict().items():
        assert torch.equal(target.state_dict()[name], value)


@pytest.mark.parametrize(
    ("state", "fault"),
    [
        (lambda: _encoder().state_dict() | {"layer4.weight": torch.ones(1)}, "has a foreign layer4.weight;"),
        (lambda: dict(list(_encoder().state_dict().items())[1:]), "lacks features.0.0.weight;"),
        (lambda: _encoder().state_dict() | {"features.0.0.weight": torch.ones(1)}, "has another shape of features.0.0"),
        (dict, "lacks features.0.0.weight and"),
    ],
)
def test_weights_that_do_not_fit_are_refused_with_what_is_wrong(
    tmp_path: Path, state: Callable[[], dict[str, Tensor]], fault: str
) -> None:
    save_file(state(), tmp_path / "weights.safetensors")
    with pytest.raises(ConfigError, match="must fit the encoder 'mobilenet_v2', but ") as raised:
        load_encoder_weights(_encoder(), "mobilenet_v2", tmp_path / "weights.safetensors")
    assert fault in str(raised.value)
    assert str(raised.value).endswith("give a state file of 'mobilenet_v2', or none")


def test_the_weights_of_a_deeper_network_are_not_taken_for_those_of_a_shallower(tmp_path: Path) -> None:
    """Every tensor of resnet18 has a namesake of the same shape in resnet34."""
    save_file(_encoder("resnet34").state_dict(), tmp_path / "weights.safetensors")
    with pytest.raises(ConfigError, match="must fit the encoder 'resnet18'"):
        load_encoder_weights(_encoder("resnet18"), "resnet18", tmp_path / "weights.safetensors")


class _Code:
    """Something that only a pickle with code could restore."""


@pytest.mark.parametrize("name", ["weights.pth", "weights.safetensors"])
def test_a_file_that_is_not_tensors_is_refused(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text("not weights")
    with pytest.raises(ConfigError, match=r"cannot be read as tensors by name; give a \.safetensors file"):
        load_encoder_weights(_encoder(), "mobilenet_v2", tmp_path / name)


@pytest.mark.parametrize("content", [_Code(), [torch.ones(1)], {"epoch": 3}])
def test_a_file_with_code_or_without_names_is_refused(tmp_path: Path, content: object) -> None:
    torch.save(content, tmp_path / "weights.pt")
    with pytest.raises(ConfigError, match="tensors by name"):
        load_encoder_weights(_encoder(), "mobilenet_v2", tmp_path / "weights.pt")


@pytest.mark.parametrize(
    "change",
    [
        lambda state: state | {"features.0.0.weight": torch.ones(32, 3, 3, 3).to_sparse()},
        lambda state: (
            state | {"features.0.0.weight": torch.quantize_per_tensor(torch.ones(32, 3, 3, 3), 0.1, 0, torch.qint8)}
        ),
        lambda state: state | {3: torch.ones(1)},
        lambda state: state | {b"x": torch.ones(1)},
        lambda state: state | {"x": [torch.ones(1)]},
        lambda state: {},
    ],
    ids=["sparse", "quantised", "number", "bytes", "list", "nothing"],
)
@pytest.mark.filterwarnings("ignore:torch.quantize_per_tensor")  # which a foreign file may have used all the same
def test_what_cannot_be_copied_into_a_network_is_refused(
    tmp_path: Path, change: Callable[[dict[str, Tensor]], dict[object, object]]
) -> None:
    torch.save(change(_encoder().state_dict()), tmp_path / "weights.pt")
    with pytest.raises(ConfigError, match=r"weights\.pt' must hold tensors by name; give a \.safetensors file"):
        load_encoder_weights(_encoder(), "mobilenet_v2", tmp_path / "weights.pt")


def test_published_names_are_told_from_files(tmp_path: Path) -> None:
    assert is_hub_name("resnet18", "imagenet")
    assert is_hub_name("resnet18", "ssl")
    assert not is_hub_name("resnet34", "ssl")
    with pytest.raises(ConfigError, match="there is no file"):
        check_encoder_weights("resnet34", str(tmp_path / "missing.pth"))


def test_weights_that_are_not_published_are_refused_with_those_that_are() -> None:
    with pytest.raises(ConfigError, match=r"do not exist .*; valid: instagram, ssl, swsl, none, a local state file"):
        check_encoder_weights("resnext101_32x16d", "imagenet")


def test_cached_weights_need_no_hub(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(encoder_weights.constants, "HF_HUB_OFFLINE", True)
    asked: list[tuple[str, str]] = []

    def cached(repo: str, name: str, revision: str | None) -> str:
        asked.append((repo, name))
        return "/cache/file"

    monkeypatch.setattr(encoder_weights, "try_to_load_from_cache", cached)
    check_encoder_weights("resnet18", "imagenet")
    assert ("smp-hub/resnet18.imagenet", "model.safetensors") in asked


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[int], None]]:
    """Serves a hub that answers with a status; 0: not before the test is over."""
    over = threading.Event()
    for name in ("http_proxy", "HTTP_PROXY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(encoder_weights.constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(encoder_weights, "try_to_load_from_cache", lambda *names, **revision: None)

    def serve(status: int) -> None:
        class Handler(http.server.BaseHTTPRequestHandler):
            def do_HEAD(self) -> None:
                if not status:
                    over.wait()
                self.send_response(status or 200)
                self.end_headers()

            def log_message(self, format: str, *args: object) -> None:  # noqa: A002
                return

        server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        monkeypatch.setattr(encoder_weights.constants, "ENDPOINT", f"http://127.0.0.1:{server.server_port}")

    yield serve
    over.set()


@pytest.mark.parametrize("status", [200, 403])
def test_a_hub_that_answers_is_within_reach(hub: Callable[[int], None], status: int) -> None:
    hub(status)
    check_encoder_weights("resnet18", "imagenet")


def test_a_hub_that_is_silent_is_out_of_reach_in_time(
    hub: Callable[[int], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    hub(0)
    monkeypatch.setattr(encoder_weights, "_PROBE_SECONDS", 0.3)
    with pytest.raises(ConfigError, match="cannot be reached; use --encoder-weights none"):
        check_encoder_weights("resnet18", "imagenet")
