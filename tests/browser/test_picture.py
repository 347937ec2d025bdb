"""docs/picture.py draws what the README shows of a report."""

import shutil
import subprocess
import sys
from pathlib import Path

import cv2
import pytest
from searched_run import searched_run

from ensemble_tune.report.page import write_report

DOCS = Path(__file__).parents[2] / "docs"


@pytest.mark.skipif(shutil.which("chromium") is None, reason="no chromium is on the path")
def test_the_first_screen_of_a_report_is_drawn(tmp_path: Path) -> None:
    report = write_report(searched_run(tmp_path / "run"), tmp_path / "report.html")
    subprocess.run([sys.executable, DOCS / "picture.py", report, tmp_path / "report.png"], check=True, timeout=120)
    drawn = cv2.imread(str(tmp_path / "report.png"))
    assert drawn.shape == (900, 1400, 3)
    assert drawn.mean() > 200 and drawn.std() > 10, "light, and not empty"


def test_the_picture_that_the_readme_shows_is_small() -> None:
    assert (DOCS / "report.png").stat().st_size < 300_000
