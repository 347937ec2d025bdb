import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from tiles import write_tiles

if TYPE_CHECKING:
    from tiny_run import Finished

# No test may join a cluster that happens to run on this machine.
os.environ.pop("RAY_ADDRESS", None)


@pytest.fixture(scope="session")
def tiles(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny data set: 12 training frames in two sequences, 4 of val, 4 of test."""
    return write_tiles(tmp_path_factory.mktemp("data") / "tiles")


@pytest.fixture(scope="session")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Decoded frames, shared by all tests."""
    return tmp_path_factory.mktemp("cache")


@pytest.fixture
def one_thread() -> Iterator[None]:
    """Trials set the threads of the process that they run in; other tests get theirs back."""
    import torch

    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="session")
def finished(tiles: Path, tmp_path_factory: pytest.TempPathFactory) -> "Finished":
    """A whole run on the tiles, interrupted in every stage; read it, never write to it."""
    from tiny_run import finish

    return finish(tiles, tmp_path_factory.mktemp("finished"))
