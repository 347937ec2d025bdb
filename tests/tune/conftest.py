from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
import ray

from ensemble_tune.tune.ray_start import start_ray


@pytest.fixture(scope="package")
def local_ray() -> Iterator[str]:
    """A Ray for all tests, by its address."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(Path(__file__).parent))  # Where workers find the trial.
        ray.shutdown()  # Another folder's Ray, whose workers would not.
        start_ray()
        yield ray.get_runtime_context().gcs_address
        ray.shutdown()


@pytest.fixture
def no_ray(monkeypatch: pytest.MonkeyPatch) -> None:
    """A trainable runs without Ray around it: what its trials share is handed over as it is."""
    monkeypatch.setattr(ray, "get", lambda reference: reference)
    monkeypatch.setattr(ray, "get_runtime_context", lambda: SimpleNamespace(get_node_id=lambda: "here"))
