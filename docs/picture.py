"""Draws the first screen of a report as the README shows it: python docs/picture.py REPORT.html TO.png."""

import shutil
import sys
from pathlib import Path

from playwright.sync_api import sync_playwright

WIDTH, HEIGHT = 1400, 900
"""In pixels."""


def draw(report: Path, to: Path) -> None:
    """Writes the picture. Needs Chromium, as tests/browser does."""
    browser_path = shutil.which("chromium")
    if browser_path is None:
        sys.exit("a picture needs Chromium, but none is on the path; install Debian's chromium")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=browser_path, args=["--no-sandbox", "--disable-gpu"])
        page = browser.new_page(viewport={"width": WIDTH, "height": HEIGHT}, color_scheme="light")
        page.goto(report.absolute().as_uri())
        page.wait_for_selector("html[data-drawn=all]")
        page.screenshot(path=to)
        browser.close()


if __name__ == "__main__":
    draw(Path(sys.argv[1]), Path(sys.argv[2]))
