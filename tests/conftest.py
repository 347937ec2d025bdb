import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from tiles import write_tiles

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
def finished(tiles: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A whole run on the tiles, by the one call that does everything; read it, never write to it."""
    from tiny_run import BASE_EPOCHS, BASE_TRIALS, META_EPOCHS, META_TRIALS, settings, write_spaces

    from ensemble_tune.run import run

    folder = tmp_path_factory.mktemp("finished")
    base, meta = write_spaces(folder / "spaces")
    run(
        settings(tiles, folder / "run", folder / "cache"),
        base_space=base,
        base_trials=BASE_TRIALS,
        base_epochs=BASE_EPOCHS,
        size="32x32",
        meta_space=meta,
        meta_trials=META_TRIALS,
        meta_epochs=META_EPOCHS,
        scheduler="none",
    )
    return folder
