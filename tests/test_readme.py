"""What the README shows runs as it stands there."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

README = Path(__file__).parents[1] / "README.md"
PROGRAMS = re.findall(r"```python\n(.*?)```", README.read_text(encoding="utf-8"), re.DOTALL)


def test_a_search_of_any_trial(tmp_path: Path) -> None:
    (program,) = [each for each in PROGRAMS if "def my_trial" in each]
    (tmp_path / "mine.py").write_text(program)
    environment = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    environment["PYTHONPATH"] = str(README.parent)
    done = subprocess.run(
        [sys.executable, "mine.py"], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    assert "TrialRecord(trial='search-00" in done.stdout and "status=<Status.FINISHED" in done.stdout
    assert list((tmp_path / "runs" / "mine" / "ledger" / "trials").glob("*.parquet"))


@pytest.mark.parametrize("program", PROGRAMS)
def test_every_name_that_is_imported_is_there(program: str) -> None:
    for line in re.findall(r"^from ensemble_tune.*$", program, re.MULTILINE):
        subprocess.run([sys.executable, "-c", line], check=True, cwd=README.parent, timeout=60)
