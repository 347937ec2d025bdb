from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from tiny_run import Finished, settings, trials_of
from torch import nn
from written_run import base, write_run

from ensemble_tune.ensemble.prediction_store import PredictionStore
from ensemble_tune.ensemble.predictions import write_predictions
from ensemble_tune.ensemble.training_state import TrainingState
from ensemble_tune.errors import ConfigError, RunError
from ensemble_tune.library import choose_members, ended_base_trials, keep_library, member_config
from ensemble_tune.settings import PREDICTIONS, Settings
from ensemble_tune.trial import EpochResult
from ensemble_tune.tune.record import TrialRecord
from ensemble_tune.tune.trial_folder import TrialFolder


def test_a_search_keeps_what_its_best_trials_predict_on_val(finished: Finished, tiles: Path) -> None:
    own = settings(tiles, finished.out, finished.folder / "cache")
    data = own.stage_data()
    store = PredictionStore(finished.out / PREDICTIONS, data)
    for record in trials_of(finished.out, "base"):
        assert store.has(member_config(record), 0, "val")
    library = keep_library(own, data, ended_base_trials(finished.out, data), size=12)
    assert len(library) == 2, "and what is there is not predicted again"


def test_the_library_is_no_larger_than_its_limit(finished: Finished, tiles: Path) -> None:
    said: list[str] = []
    own = replace(settings(tiles, finished.out, finished.folder / "cache"), say=said.append)
    data = own.stage_data()
    ranked = ended_base_trials(finished.out, data)
    val = data.held_out((32, 32))
    assert val is not None
    each = len(val) * len(val.classes) * 32 * 32 / 2**30
    assert keep_library(replace(own, library_limit=1.5 * each), data, ranked, size=12) == ranked[:1]
    assert "the library keeps 1 base models, not 2" in said[0] and "--library-limit" in said[0]


def test_a_trial_whose_weights_are_gone_is_not_in_the_library(finished: Finished, tiles: Path, tmp_path: Path) -> None:
    own = settings(tiles, tmp_path, finished.folder / "cache")
    data = own.stage_data()
    assert keep_library(own, data, ended_base_trials(finished.out, data), size=12) == []
    chosen = choose_members(own, data, ended_base_trials(finished.out, data), "auto", 12)
    assert len(chosen.records) == 2 and not chosen.weights, "then the best by score"


def test_members_come_with_how_they_were_chosen(finished: Finished, tiles: Path) -> None:
    own = settings(tiles, finished.out, finished.folder / "cache")
    data = own.stage_data()
    ranked = ended_base_trials(finished.out, data)
    chosen = choose_members(own, data, ranked, "auto", 12)
    assert list(chosen.records) == ranked
    assert sum(chosen.weights.values()) == pytest.approx(1.0) and chosen.disagreement is not None
    assert 0 < chosen.disagreement < 1
    one = choose_members(own, data, ranked, "1", 12)
    assert len(one.records) == 1 and one.disagreement is None
    named = choose_members(own, data, ranked, f"{ranked[1].trial}, {ranked[0].trial}", 12)
    assert named.records == tuple(ranked) and not named.weights
    with pytest.raises(ConfigError, match="names 'base-0009', which is no base trial that ended; did you mean"):
        choose_members(own, data, ranked, "base-0009", 12)


def library_of(tiles: Path, folder: Path, wrong: Sequence[tuple[int, ...]]) -> tuple[Settings, list[TrialRecord]]:
    """A run whose base trials, the best by score first, predict val, but are wrong in some of twelve columns."""
    own = settings(tiles, folder / "run", folder / "cache")
    data = own.stage_data()
    store, val = PredictionStore(own.out / PREDICTIONS, data), data.held_out((32, 32))
    assert val is not None
    records = [base(number, 0.9 - number / 100) for number in range(len(wrong))]
    for record, columns in zip(records, wrong, strict=True):
        config = member_config(record)
        state = TrainingState(nn.Linear(1, 1), config, steps=1, device=torch.device("cpu"))
        kept = TrialFolder(own.out / "checkpoints" / record.trial)
        epoch = record.best_epoch or 0
        kept.save(kept.claim_attempt(), EpochResult(epoch=epoch, scores={}, save=partial(state.save, epoch=epoch)), [])

        def predicted(row: int, columns: tuple[int, ...] = columns) -> np.ndarray:  # type: ignore[type-arg]
            label = val.label(row) % 3
            mistaken = np.isin(np.arange(32) * 12 // 32, columns)
            seen = np.where(mistaken, (label + 1) % 3, label)
            return np.where(np.arange(3)[:, None, None] == seen, 0.8, 0.1)

        stamp = store.stamp(config, 0, "val")
        write_predictions(store.folder(config, 0, "val"), stamp, map(predicted, range(len(val))))
    return own, records


def test_members_are_those_of_many_that_err_apart(tiles: Path, tmp_path: Path) -> None:
    """By score the first three would be fused, which err alike; two more are wrong nearly everywhere."""
    alike, nearly, useless = (0, 1, 2, 3), (0, 1, 2, 3, 4), tuple(range(11))
    wrong = [alike, nearly, nearly, (4, 5, 6, 7), (8, 9, 10, 11), useless, useless]
    own, ranked = library_of(tiles, tmp_path, wrong)
    data = own.stage_data()
    chosen = choose_members(own, data, ranked, "3", 12)
    assert [record.number for record in chosen.records] == [0, 3, 4]
    assert chosen.weights["base-0000"] > chosen.weights.get("base-0001", 0.0)
    assert chosen.disagreement == pytest.approx(2 / 3, abs=0.05), "two of them err in eight of twelve columns"
    assert choose_members(own, data, ranked, "auto", 12).records == chosen.records
    assert {record.number for record in choose_members(own, data, ranked, "2", 12).records} < {0, 3, 4}
    few = choose_members(own, data, ranked, "3", 2)
    assert [record.number for record in few.records] == [0, 1, 2], "a library of two, and the best by score beside it"


def test_who_has_no_weight_in_the_selection_is_no_member_unless_asked_for(tiles: Path, tmp_path: Path) -> None:
    own, ranked = library_of(tiles, tmp_path, [(0, 1, 2, 3), (6, 7, 8, 9), tuple(range(11))])
    said: list[str] = []
    own, data = replace(own, say=said.append), own.stage_data()
    chosen = choose_members(own, data, ranked, "auto", 12)
    assert [record.number for record in chosen.records] == [0, 1] and "base-0002" not in chosen.weights
    assert said == ["2 members, not 3: a greedy selection on val gives the others no weight"]
    assert len(choose_members(own, data, ranked, "3", 12).records) == 3
    assert len(choose_members(own, data, ranked[1:], "auto", 12).records) == 2, "two in any case"


def test_a_run_without_base_trials_or_of_other_data_is_refused(tmp_path: Path, tiles: Path) -> None:
    data = settings(tiles, tmp_path, tmp_path / "cache").stage_data()
    with pytest.raises(RunError, match=r"no search is in .*; run first: ensemble-tune search base"):
        ended_base_trials(tmp_path, data)
    write_run(tmp_path / "run", base(0, 0.4))
    with pytest.raises(RunError, match=r"both stages need the same data, but the base trials .* saw c0ffee"):
        ended_base_trials(tmp_path / "run", data)
