"""The page in a real browser: opened from disk, the network off."""

from pathlib import Path

import pytest
from reader import Reader
from searched_run import searched_run
from tiny_run import Finished
from written_run import base, write_run

from ensemble_tune.report.page import write_report
from ensemble_tune.tune.record import Status


@pytest.fixture(scope="module")
def whole(finished: Finished, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The page of a finished run."""
    to = tmp_path_factory.mktemp("whole") / "report.html"
    return Path(str(write_report(finished.out, to, cache=finished.folder / "cache")))


@pytest.fixture(scope="module")
def under_way(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The page of a search with trials of every status."""
    return Path(str(write_report(searched_run(tmp_path_factory.mktemp("under way") / "run"))))


@pytest.fixture(scope="module")
def empty(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The page of a search whose first trial has not had an epoch."""
    return Path(str(write_report(write_run(tmp_path_factory.mktemp("empty"), base(0, None, status=Status.RUNNING)))))


@pytest.fixture(scope="module")
def alive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The page of a search that goes on at this moment."""
    return Path(str(write_report(searched_run(tmp_path_factory.mktemp("alive") / "run", alive=True))))


_SEARCHED = {
    *("curves-base", "importance-base", "parallel-base", "classes", "compromise", "timeline"),
    *(f"slice-base-{name}" for name in ("learning_rate", "architecture", "decoder_attention")),
}
FIGURES = {
    "whole": {
        *("gains", "classes-final", "classes", "confusion", "compromise", "timeline"),
        *("curves-base", "parallel-base", "slice-base-learning_rate", "slice-base-encoder"),
        *("curves-meta", "parallel-meta", "slice-meta-kind", "slice-meta-learning_rate", "slice-meta-bases"),
    },
    "under_way": _SEARCHED,
    "alive": _SEARCHED,
    "empty": set(),
}
"""The figures of each page: no kind of them may be lost unseen."""
_DRAWN = """all => all.map(one => {
    const box = one.getBoundingClientRect(), drawing = one.querySelector(".main-svg");
    const there = (x, y) => x && y && [...x].some((each, place) => each !== null && y[place] !== null);
    // Some are there for the legend or the scale of colours alone.
    const wanted = one._fullData.filter(trace => trace.visible === true && (trace.z || there(trace.x, trace.y)));
    const layers = one.querySelectorAll(".scatterlayer > .trace, .barlayer > .trace, .heatmaplayer > .hm");
    const marked = [...layers].filter(trace => trace.querySelector("path, image, text"));
    return [one.id.replace("plot-", ""), drawing !== null && box.width > 200 && box.height > 100,
            wanted.length, marked.length, drawing ? drawing.getBoundingClientRect().right : 0];
})"""
"""Of each figure: name, whether it is there, how many traces have data, how many are drawn, its right edge."""


@pytest.mark.parametrize(
    ("which", "width", "dark"),
    [
        ("whole", 1400, False),
        ("whole", 400, True),
        ("under_way", 400, False),
        ("alive", 1400, True),
        ("empty", 400, False),
    ],
)
def test_a_page_is_drawn_whole_and_without_an_error(
    reader: Reader, request: pytest.FixtureRequest, which: str, width: int, dark: bool
) -> None:
    opened = reader.open(request.getfixturevalue(which), width=width, dark=dark)
    figures = opened.page.eval_on_selector_all(".canvas", _DRAWN)
    assert {name for name, *_ in figures} == FIGURES[which]
    for name, there, wanted, marked, right in figures:
        assert there and wanted and marked >= wanted, f"{name}: {marked} of {wanted} traces are drawn"
        assert right <= width, f"{name} is wider than the page"
    assert opened.page.evaluate("document.documentElement.scrollWidth") <= width, "the page scrolls sideways"
    assert (opened.errors, opened.requests) == ([], [])


def test_a_page_says_whether_the_search_goes_on(reader: Reader, alive: Path, under_way: Path) -> None:
    for page, standing in ((alive, "running"), (under_way, "interrupted")):
        opened = reader.open(page).page
        assert opened.inner_text(".standing") == standing
        assert opened.evaluate("getComputedStyle(document.querySelector('.standing')).color") != opened.evaluate(
            "getComputedStyle(document.body).color"
        )


def test_a_click_on_a_column_sorts_the_table_and_a_status_filters_it(reader: Reader, under_way: Path) -> None:
    page = reader.open(under_way).page

    def column(place: int) -> list[str]:
        return page.eval_on_selector_all(
            f".trials tbody tr > :nth-child({place})", "all => all.map(one => one.textContent)"
        )

    rate = page.locator(".trials th", has_text="learning_rate")
    before = column(10)
    rate.locator("button").click()
    assert [float(text) for text in column(10)] == sorted(map(float, before), reverse=True)
    assert rate.get_attribute("aria-sort") == "descending"
    page.keyboard.press("Enter")
    assert [float(text) for text in column(10)] == sorted(map(float, before))
    page.locator(".trials th button", has_text="decoder_attention").click()
    assert column(9) == ["none"] * 4 + ["scse"] * 4 + ["-"] * 16, "what lacks a value comes last"
    assert sorted(column(1)) == [f"base-{number:04d}" for number in range(24)]
    page.select_option("#status", "stopped")
    shown = page.locator(".trials tbody tr:visible")
    assert shown.count() == 8 and page.inner_text("#count") == "8 of 24 trials"
    assert all("stopped" in text for text in shown.all_inner_texts())


def test_trials_beyond_the_first_hundreds_are_sorted_filtered_and_shown(
    reader: Reader, tmp_path_factory: pytest.TempPathFactory
) -> None:
    run = searched_run(tmp_path_factory.mktemp("many") / "run", 1300, epochs=2)
    opened = reader.open(Path(str(write_report(run))))
    page = opened.page
    rows, more = page.locator(".trials tbody tr"), page.locator(".trials .more")
    assert rows.count() == 500 and page.inner_text("#count") == "1300 trials"
    assert more.inner_text() == "Show 500 more of 800"
    more.focus()
    for shown in (1000, 1300):
        page.keyboard.press("Enter")
        assert rows.count() == shown
    assert not more.is_visible()
    page.locator(".trials th button", has_text="trial").click()
    assert rows.first.locator("th").inner_text() == "base-0000"
    page.keyboard.press("Enter")
    assert rows.first.locator("th").inner_text() == "base-1299"
    page.fill("#find", "base-0777")
    assert rows.count() == 1 and page.inner_text("#count") == "1 of 1300 trials"
    page.fill("#find", "")
    page.select_option("#status", "failed")
    assert 0 < rows.count() < 300 and set(rows.locator("td:nth-child(2)").all_inner_texts()) == {"failed"}
    assert "</script>" in rows.first.inner_text(), "an error is shown as it was"
    assert not opened.errors


def test_words_and_stage_filter_the_tables(reader: Reader, whole: Path) -> None:
    page = reader.open(whole).page
    names = page.locator(".trials tbody tr:visible th")
    everyone = names.count()
    assert page.inner_text("#count") == f"{everyone} trials"
    page.select_option("#stage", "meta")
    assert 0 < names.count() < everyone and all(name.startswith("meta-") for name in names.all_inner_texts())
    page.fill("#find", "plain finished")
    assert names.count() == 1 and page.inner_text("#count") == f"1 of {everyone} trials"
    page.fill("#find", "nothing like this")
    assert names.count() == 0


def test_a_slider_goes_from_prediction_to_truth(reader: Reader, whole: Path) -> None:
    page = reader.open(whole).page
    slider, truth = page.locator(".picture input").first, page.locator(".picture .truth").first
    slider.focus()
    page.keyboard.press("Home")
    assert truth.evaluate("one => getComputedStyle(one).clipPath") == "inset(0px 100% 0px 0px)"
    for _ in range(10):
        page.keyboard.press("ArrowRight")
    assert truth.evaluate("one => getComputedStyle(one).clipPath") == "inset(0px 90% 0px 0px)"
    assert page.eval_on_selector_all(
        ".picture img", "all => all.every(one => one.complete && one.naturalWidth === 64)"
    ), "a picture is broken"
    page.check("#plain")
    assert not truth.is_visible()


def test_numbers_in_the_confusion_matrix_can_be_read_in_the_dark(reader: Reader, whole: Path) -> None:
    page = reader.open(whole, dark=True).page
    ink = page.evaluate("getComputedStyle(document.body).color")
    shown = page.eval_on_selector_all(".heatmap-label text", "all => all.map(one => getComputedStyle(one).fill)")
    assert len(shown) == 9 and set(shown) == {ink}


def test_colours_follow_the_system_and_the_reader(reader: Reader, under_way: Path) -> None:
    def colours(page: object) -> list[str]:
        return [
            page.evaluate(f"getComputedStyle(document.querySelector('{what}')).{how}")  # type: ignore[attr-defined]
            for what, how in (("body", "backgroundColor"), (".canvas .xtick text", "fill"))
        ]

    page = reader.open(under_way, dark=True).page
    dark = colours(page)
    page.select_option("#theme", "light")
    page.wait_for_function(
        "before => getComputedStyle(document.querySelector('.xtick text')).fill !== before", arg=dark[1]
    )
    light = colours(page)
    assert light[0] == "rgb(255, 255, 255)" and not set(light) & set(dark)
    page.select_option("#theme", "light dark")
    page.wait_for_function(
        "after => getComputedStyle(document.querySelector('.xtick text')).fill === after", arg=dark[1]
    )
    page.emulate_media(color_scheme="light")
    page.wait_for_function(
        "after => getComputedStyle(document.querySelector('.xtick text')).fill === after", arg=light[1]
    )


@pytest.mark.parametrize("which", ["under_way", "whole"])
def test_a_page_can_be_read_with_the_keyboard_alone(reader: Reader, request: pytest.FixtureRequest, which: str) -> None:
    page = reader.open(request.getfixturevalue(which)).page
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.className") == "skip"
    wanted = page.evaluate(
        """() => {
            const able = document.querySelectorAll("a[href], button, input, select, [tabindex='0']");
            const seen = [...able].filter(one => one.getClientRects().length);
            seen.forEach((one, place) => { one.dataset.place = place; });
            return seen.length;
        }"""
    )
    reached = {"0"}
    for _ in range(wanted + 20):
        page.keyboard.press("Tab")
        reached.add(page.evaluate("document.activeElement.dataset.place"))
    assert reached - {None} == {str(place) for place in range(wanted)}


def test_a_slider_is_moved_with_the_keyboard_alone(reader: Reader, whole: Path) -> None:
    page = reader.open(whole).page
    page.focus("#plain")
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.ariaLabel").endswith(": how much of the truth is shown")
    page.keyboard.press("End")
    truth = page.locator(".picture .truth").first
    assert truth.evaluate("one => getComputedStyle(one).clipPath") == "inset(0px 0% 0px 0px)"
    for _ in range(3):
        page.keyboard.press("ArrowLeft")
    assert truth.evaluate("one => getComputedStyle(one).clipPath") == "inset(0px 3% 0px 0px)"


_FITS = """wide => Math.abs(document.body.getBoundingClientRect().width - wide) <= 1 &&
    [...document.querySelectorAll(".canvas")].every(one =>
        Math.abs(one.querySelector(".main-svg").getBoundingClientRect().width - one.clientWidth) <= 1)"""
"""Whether the page is that wide and each figure fills its place: each is laid out anew in its own time."""
_PAPER = 180 / 25.4 * 96


@pytest.mark.parametrize("which", ["under_way", "whole"])
def test_a_page_can_be_printed(reader: Reader, request: pytest.FixtureRequest, which: str) -> None:
    """Light whatever the screen's colours, each figure on the paper and drawn."""
    opened = reader.open(request.getfixturevalue(which), dark=True)
    page = opened.page
    assert page.pdf(format="A4").startswith(b"%PDF")
    page.emulate_media(media="print")
    assert not page.locator("nav").is_visible() and not page.locator("#filters").is_visible()
    wide = page.evaluate("document.body.getBoundingClientRect().width")
    assert wide > _PAPER + 10
    page.evaluate("dispatchEvent(new Event('beforeprint'))")
    page.wait_for_function(_FITS, arg=_PAPER)
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    page.wait_for_function("getComputedStyle(document.querySelector('.xtick text')).fill === 'rgb(27, 31, 36)'")
    figures = page.eval_on_selector_all(".canvas", _DRAWN)
    assert {name for name, *_ in figures} == FIGURES[which]
    for name, there, wanted, marked, _ in figures:
        assert there and marked >= wanted > 0, f"{name} is blank on paper"
    page.evaluate("dispatchEvent(new Event('afterprint'))")
    page.wait_for_function(_FITS, arg=wide)
    assert not opened.errors
