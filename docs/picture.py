"""Draws the first screen of a report as the README shows it: python docs/picture.py REPORT.html TO.png.

--width and --height: of the screen in pixels, such as a telephone's 400; --dark: as a screen at night.
"""

import argparse
import shutil
import sys
from pathlib import Path
from typing import Literal

from playwright.sync_api import sync_playwright

WIDTH, HEIGHT = 1400, 900
"""In pixels."""


def draw(
    report: Path,
    to: Path,
    *,
    width: int = WIDTH,
    height: int = HEIGHT,
    colours: Literal["light", "dark"] = "light",
) -> None:
    """Writes the picture. Needs Chromium, as tests/browser does."""
    if not report.is_file():
        sys.exit(f"a picture needs a report, but {report} is not there; write it with ensemble-tune report RUN")
    browser_path = shutil.which("chromium")
    if browser_path is None:
        sys.exit("a picture needs Chromium, but none is on the path; install Debian's chromium")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=browser_path, args=["--no-sandbox", "--disable-gpu"])
        page = browser.new_page(viewport={"width": width, "height": height}, color_scheme=colours)
        page.goto(report.absolute().as_uri())
        page.wait_for_selector("html[data-drawn=all]")
        page.screenshot(path=to)
        browser.close()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("report", type=Path)
    parser.add_argument("to", type=Path)
    parser.add_argument("--width", type=int, default=WIDTH)
    parser.add_argument("--height", type=int, default=HEIGHT)
    parser.add_argument("--dark", action="store_true")
    asked = parser.parse_args()
    colours: Literal["light", "dark"] = "dark" if asked.dark else "light"
    draw(asked.report, asked.to, width=asked.width, height=asked.height, colours=colours)
