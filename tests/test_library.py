from dataclasses import replace
from pathlib import Path

import pytest
from tiny_run import Finished, settings, trials_of
from written_run import base, write_run

from ensemble_tune.ensemble.prediction_store import PredictionStore
from ensemble_tune.errors import ConfigError, RunError
from ensemble_tune.library import choose_members, ended_base_trials, keep_library, member_config
from ensemble_tune.settings import PREDICTIONS


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


def test_a_run_without_base_trials_or_of_other_data_is_refused(tmp_path: Path, tiles: Path) -> None:
    data = settings(tiles, tmp_path, tmp_path / "cache").stage_data()
    with pytest.raises(RunError, match=r"no search is in .*; run first: ensemble-tune search base"):
        ended_base_trials(tmp_path, data)
    write_run(tmp_path / "run", base(0, 0.4))
    with pytest.raises(RunError, match=r"both stages need the same data, but the base trials .* saw c0ffee"):
        ended_base_trials(tmp_path / "run", data)
