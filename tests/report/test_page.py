import re
from dataclasses import replace
from pathlib import Path

import pytest
from searched_run import searched_run
from tiny_run import Finished
from written_run import base, usual_run, write_run

from ensemble_tune.cli import app
from ensemble_tune.errors import ConfigError, RunError
from ensemble_tune.report.page import render, write_report
from ensemble_tune.report.run_view import RunView
from ensemble_tune.storage import Location
from ensemble_tune.tune.record import Status

MOST_BYTES = 8_000_000


def test_a_page_needs_nothing_but_itself(finished: Finished, tmp_path: Path) -> None:
    text = write_report(finished.out, tmp_path / "page.html", cache=finished.folder / "cache").read_text()
    page = re.sub(r"<script>.*?</script>", "", text, flags=re.DOTALL)
    assert not re.findall(r"""(?:src|href|action)\s*=\s*["'](?!data:|\#)""", page)
    assert "url(" not in page and "@import" not in page
    assert text.count("<script>") == 2, "plotly once, and the page's own"
    assert "default-src 'none'" in page


def test_a_page_of_a_large_run_stays_small(finished: Finished, tmp_path: Path) -> None:
    run = searched_run(tmp_path / "run", 1600, epochs=12)
    page = write_report(run, final=finished.out / "final", cache=finished.folder / "cache")
    assert page == run / "report.html"
    assert 4_000_000 < len(page.read_bytes()) < MOST_BYTES


def test_what_a_trial_says_is_shown_and_never_run(searched: RunView) -> None:
    page = render(searched)
    assert "a step must be &lt;b&gt;finite&lt;/b&gt;, but &lt;/script&gt; is not" in page
    assert "</script> is not" not in page


@pytest.mark.parametrize("status", [Status.RUNNING, Status.FAILED])
def test_a_run_without_a_score_has_a_page(tmp_path: Path, status: Status) -> None:
    page = render(RunView.of(write_run(tmp_path, base(0, None, status=status, error="out of memory"))))
    assert "no trial has a score yet" in page and "base-0000" in page
    for missing in ("No fusion has a score yet", "No trial has had two epochs yet", "Nothing has been trained yet"):
        assert missing in page


def test_a_search_of_anything_else_has_a_page(tmp_path: Path) -> None:
    others = [
        replace(base(n, 0.4 + n / 100), stage="search", trial=f"search-{n:04d}", params={"a <b": n / 9, "deep": n > 5})
        for n in range(10)
    ]
    page = render(RunView.of(write_run(tmp_path, *others)))
    assert "search-0009: " in page and 'id="plot-slice-search-a &lt;b"' in page


def test_a_page_can_be_written_wherever_a_run_can_be(place: Location) -> None:
    usual_run(place)  # type: ignore[arg-type]
    assert write_report(place) == place / "report.html"
    page = (place / "report.html").read_text()
    assert "plain of 2 models" in page and "<h3>The members</h3>" in page


def test_mistakes_are_one_line(tmp_path: Path) -> None:
    with pytest.raises(RunError, match=r"no search is in .*; run first: ensemble-tune run"):
        write_report(tmp_path / "nothing")
    run = usual_run(tmp_path / "run")
    with pytest.raises(ConfigError, match=r"--to is the file to write, but .* is a folder; try "):
        write_report(run, tmp_path)


def test_the_command_says_where_the_page_is(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = usual_run(tmp_path / "a run")
    app(["report", str(run), "--price", "2"], standalone_mode=False)
    told = capsys.readouterr()
    assert f"wrote {run / 'report.html'}" in told.out
    assert f"open file://{tmp_path}/a%20run/report.html in a browser" in told.err
    assert (run / "report.html").exists()
