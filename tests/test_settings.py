import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from tiny_run import settings

from ensemble_tune.errors import ConfigError
from ensemble_tune.settings import TRIALS_NEED
from ensemble_tune.tune.workers import Workers
from ensemble_tune.waits import current_waits, listening


def test_the_split_travels_to_the_trials(tiles: Path, cache: Path, tmp_path: Path) -> None:
    given = settings(tiles, tmp_path, cache)
    assert given.stage_data().split == "official"
    assert replace(given, split="blocks").stage_data(with_val=True).split == "blocks"


def test_a_split_that_there_is_not_is_refused(tiles: Path, cache: Path, tmp_path: Path) -> None:
    wrong = replace(settings(tiles, tmp_path, cache), split="block")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match=r"--split cannot be 'block'; did you mean 'blocks'\?"):
        wrong.stage_data()


def test_folds_are_of_the_frames_that_blocks_leave(tiles: Path, cache: Path, tmp_path: Path) -> None:
    """Of 6, 6 and 4 frames one each is held out; beside two of them one or two are dropped."""
    few = replace(settings(tiles, tmp_path, cache), split="blocks", folds=11)
    with pytest.raises(ConfigError, match="at most the 10 training frames, but got 11"):
        few.stage_data()


def test_frames_are_decoded_where_it_is_seen_unless_trials_run_elsewhere(tiles: Path, tmp_path: Path) -> None:
    given = settings(tiles, tmp_path / "run", tmp_path / "cache")
    seen: list[str] = []
    with listening(lambda: seen.extend(wait.what for wait in current_waits())):
        data = given.stage_data()
        replace(given, workers=Workers(address="auto")).decoded(data, (32, 64))()
        assert not [what for what in seen if what.startswith("decoding")]
        given.decoded(data, (32, 64))()
        given.decoded(data, (32, 64))()  # once is enough
    decoded = ["the labels of train", "train at 32x64", "the labels of val", "val at 32x64"]
    assert [what for what in seen if what.startswith("decoding")] == [f"decoding {each}" for each in decoded]


ASKS = f"""
import torch
for name in ("is_available", "device_count", "init", "_lazy_init", "get_device_properties"):
    def refuse(*args, name=name, **named):
        raise AssertionError(f"torch.cuda.{{name}} is asked")
    setattr(torch.cuda, name, refuse)
import {TRIALS_NEED}
"""


def test_what_workers_import_before_they_have_a_device_asks_for_none() -> None:
    subprocess.run([sys.executable, "-c", ASKS], check=True, timeout=300)
