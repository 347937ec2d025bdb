from pathlib import Path

import pytest
import torch
from members import Members, train_members

from ensemble_tune.ensemble.stage_data import StageData


@pytest.fixture(scope="session")
def members(tiles: Path, cache: Path, tmp_path_factory: pytest.TempPathFactory) -> Members:
    threads = torch.get_num_threads()
    trained = train_members(
        StageData(data=str(tiles), cache=cache, folds=2), tmp_path_factory.mktemp("members"), "float32"
    )
    torch.set_num_threads(threads)
    return trained
