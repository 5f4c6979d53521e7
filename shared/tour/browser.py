"""Look at a page in a real Chromium, the way a reader would: ``python -m shared.tour.browser build/tour/index.html``.

Playwright drives the Chromium or Chrome that the system has; it downloads none, and pages are offline.
"""

from __future__ import annotations

import contextlib
import importlib.util
import itertools
import shutil
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:  # who only wants the page needs no Playwright
    from playwright.sync_api import Browser, Locator, Page

Scheme = Literal["light", "dark"]
SCHEMES: tuple[Scheme, ...] = ("light", "dark")
WIDTHS = (1280, 390)  # a laptop and a phone, in CSS pixels
ARGUMENTS = [
    *"--no-sandbox --disable-gpu --disable-quic --no-first-run --disable-sync".split(),
    *"--disable-background-networking --disable-component-update".split(),
    "--host-resolver-rules=MAP * ~NOTFOUND",  # without it Chromium looks for its updates all the same
]


def find_browser() -> str | None:
    """Return the path of Chromium or Chrome, None where there is none."""
    names = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
    return next(filter(None, map(shutil.which, names)), None)


def lacking() -> str:
    """Say what is missing to look at a page, nothing where nothing is."""
    if find_browser() is None:
        return "no chromium or google-chrome on PATH"
    return "" if importlib.util.find_spec("playwright") else "no playwright: pip install playwright"


@contextlib.contextmanager
def browse() -> Iterator[Browser]:
    """Start a browser with an empty profile, and end it."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        with playwright.chromium.launch(executable_path=find_browser(), args=ARGUMENTS) as browser:
            yield browser


def open_page(browser: Browser, path: Path, *, width: int = 1280, scheme: Scheme = "light") -> Page:
    """Load a file at a width, a phone's with touch; ``with open_page(...) as page`` closes it again."""
    phone = width < 600
    page = browser.new_page(
        viewport={"width": width, "height": 844},
        color_scheme=scheme,
        is_mobile=phone,
        has_touch=phone,
        offline=True,
    )
    page.goto(path.resolve().as_uri())
    return page


# --- what is wrong with a page ------------------------------------------------------------------------------

FAULTS = Path(__file__).with_name("faults.js")
FILES = "() => [...document.querySelectorAll('a[href]')].filter(a => a.protocol === 'file:').map(a => [a.pathname, a.href])"


def faults(page: Page) -> list[str]:
    """Return what is wrong with the page as it is open now, empty when nothing is; unfolds it and moves its sliders."""
    found = [*page.evaluate(FAULTS.read_text(encoding="utf-8")), *link_faults(page), *slider_faults(page)]
    found += [error.stack or error.message for error in page.page_errors()]
    for said in page.console_messages():  # a file that cannot be loaded is among them
        if said.type in ("error", "assert", "warning"):
            found.append(f"console.{said.type}: {said.text} ({said.location['url']})")
    local, urls = ("file:", "data:", "about:", "blob:"), [request.url for request in page.requests()]
    return found + [f"asks the network for {url}" for url in urls if not url.startswith(local)]


def link_faults(page: Page) -> Iterator[str]:
    """Yield the links to files that are not there."""
    for name, url in page.evaluate(FILES):
        if not Path(urllib.request.url2pathname(name)).exists():
            yield f"a link leads to {url}, which is not there"


def slider_faults(page: Page) -> Iterator[str]:
    """Yield the sliders whose figure is the same at both ends, or has a NaN in it there, in all positions of a switch."""
    switches: list[Locator | None] = [*page.locator("input[type=radio]").all()]
    for switch in switches or [None]:
        if switch is not None:
            switch.check()
        yield from _visible_slider_faults(page)


def _visible_slider_faults(page: Page) -> Iterator[str]:
    for slider in page.locator("input[type=range]:visible").all():
        drawings = []
        for key in ("Home", "End"):
            slider.press(key)
            drawings.append(
                slider.evaluate("e => e.closest('figure')?.querySelector('svg, .reel')?.innerHTML")
            )
        if drawings[0] == drawings[1]:
            yield f"slider {slider.get_attribute('id')} changes nothing"
        if "NaN" in str(drawings):
            yield f"slider {slider.get_attribute('id')} leads to a NaN"


def check(browser: Browser, path: Path) -> Iterator[str]:
    """Open a page at both widths, light and dark, and yield what is wrong, after its place."""
    for width, scheme in itertools.product(WIDTHS, SCHEMES):
        with open_page(browser, path, width=width, scheme=scheme) as page:
            yield from (f"{width} px, {scheme}: {fault}" for fault in faults(page))


def main(arguments: list[str]) -> int:
    """Check one page."""
    if reason := lacking():
        print(f"NOT RUN: the page in a browser ({reason})")
        return 0
    path = Path(arguments[0])
    with browse() as browser:
        found = list(check(browser, path))
        print(*found, f"{path}: {len(found)} faults in Chromium {browser.version}", sep="\n")
    return min(len(found), 100)  # an exit status is one byte: 256 faults must not look like none


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
