from dataclasses import replace
from pathlib import Path

import pytest
from tiny_run import settings

from ensemble_tune.errors import ConfigError


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
