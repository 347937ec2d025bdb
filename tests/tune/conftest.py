from collections.abc import Iterator
from pathlib import Path

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
