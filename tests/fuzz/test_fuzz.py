"""A thousand damaged files; `make soak` takes a hundred thousand."""

from pathlib import Path

import pytest
from fuzzing import fuzz, shares

SEED = 1


@pytest.mark.parametrize(("kind", "inputs"), list(shares(1000)))
def test_no_damaged_file_leads_to_anything_but_one_line(kind: str, inputs: int, tmp_path: Path) -> None:
    (tmp_path / "own").mkdir()
    tally = fuzz(kind, inputs, SEED, tmp_path / "own")
    assert not tally.faults, "\n".join(tally.faults)
    assert sum(tally.ends.values()) == inputs
