"""Opens pages in a real browser, from disk and with the network off, and notes what goes wrong there."""

from dataclasses import dataclass, field
from pathlib import Path

from playwright.sync_api import Browser, Page


@dataclass
class Opened:
    """A page, and what went wrong while it was open."""

    page: Page
    errors: list[str] = field(default_factory=list)
    requests: list[str] = field(default_factory=list)
    """What it asked for beside itself."""


class Reader:
    """Opens pages, each in a window of its own."""

    def __init__(self, browser: Browser) -> None:
        self._browser = browser
        self._opened: list[Opened] = []

    def open(self, file: Path, *, width: int = 1400, dark: bool = False) -> Opened:
        """The page, once all its figures are drawn."""
        context = self._browser.new_context(
            offline=True, viewport={"width": width, "height": 900}, color_scheme="dark" if dark else "light"
        )
        opened = Opened(context.new_page())
        opened.page.on("pageerror", lambda error: opened.errors.append(str(error)))
        opened.page.on(
            "console",
            lambda said: opened.errors.append(said.text) if said.type in ("error", "warning") else None,
        )
        address = file.absolute().as_uri()
        opened.page.on(
            "request",
            lambda request: (
                None if request.url.startswith((address, "data:", "blob:")) else opened.requests.append(request.url)
            ),
        )
        opened.page.goto(address)
        opened.page.wait_for_selector("html[data-drawn=all]", timeout=30_000)
        self._opened.append(opened)
        return opened

    def close(self) -> None:
        for opened in self._opened:
            opened.page.context.close()
