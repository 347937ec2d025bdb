from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest
from tiles import SIZE

from ensemble_tune.ensemble.base_trial import BaseTrial
from ensemble_tune.ensemble.config import BaseConfig
from ensemble_tune.ensemble.stage_data import StageData
from ensemble_tune.trained_before import trained_before
from ensemble_tune.tune.record import EpochRecord
from ensemble_tune.tune.trial_folder import CHECKPOINTS, TrialFolder

PARAMS = {"architecture": "linknet", "encoder": "tu-test_efficientnet", "size": SIZE, "epochs": 2, "batch_size": 4}
CONFIG = BaseConfig.from_params(PARAMS)


@pytest.fixture
def folder(tiles: Path, cache: Path, tmp_path: Path, one_thread: None) -> TrialFolder:
    """A trial's, after its last epoch."""
    folder = TrialFolder(tmp_path / CHECKPOINTS / "base-0000")
    rows: list[EpochRecord] = []
    for result in BaseTrial(data=StageData(data=str(tiles), cache=cache, folds=2))(PARAMS, None):
        row = EpochRecord(
            trial="base-0000",
            stage="base",
            number=0,
            attempt=1,
            epoch=result.epoch,
            scores={"miou": result.epoch / 10},
            seconds={},
            reported=datetime.now(UTC),
            worker="here/1",
        )
        rows.append(row)
        folder.save(folder.claim_attempt() if len(rows) == 1 else 1, result, rows)
    return folder


def test_a_checkpoint_comes_with_what_its_epoch_scored(folder: TrialFolder, tmp_path: Path) -> None:
    found = trained_before(tmp_path, "base-0000", CONFIG)
    assert found is not None and found.scores == {"miou": 0.2}
    assert trained_before(tmp_path, "base-0000", replace(CONFIG, learning_rate=0.5)) is None


def test_where_its_rows_are_damaged_the_weights_are_as_good(folder: TrialFolder, tmp_path: Path) -> None:
    found = folder.at(2)
    assert found is not None
    (found.folder / "rows.json").write_text("[")
    assert trained_before(tmp_path, "base-0000", CONFIG) == found
    assert found.scores is None
