"""Look at a page in a real Chromium, the way a reader would: ``python -m shared.tour.browser build/tour/index.html``.

The browser is driven through its DevTools protocol over a pipe (JSON messages that end in a zero byte on its file
descriptors 3 and 4), so no driver and no package is needed. POSIX only.
"""

from __future__ import annotations

import base64
import contextlib
import itertools
import json
import os
import select
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

WIDTHS = (1280, 390)  # a laptop and a phone, in CSS pixels
SCHEMES = ("light", "dark")
ANSWER_LIMIT_S = 30.0
FLAGS = (
    "--headless --no-sandbox --disable-gpu --disable-quic --disable-dev-shm-usage --no-first-run --hide-scrollbars "
    "--disable-background-networking --disable-component-update --disable-sync --remote-debugging-pipe"
).split()


def find_browser() -> str | None:
    """Return the path of Chromium or Chrome, None where there is none."""
    names = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
    found = [path for path in map(shutil.which, names) if path]
    return found[0] if found and hasattr(os, "posix_spawn") else None


class Page:
    """One page in one browser; every wait has a limit."""

    def __init__(self, to_browser: int, from_browser: int) -> None:
        self._to, self._from = to_browser, from_browser
        self._unread = b""
        self._last = 0
        self._session: str | None = None
        self._loaded = False
        self.complaints: list[str] = []  # console errors, uncaught exceptions, requests that failed
        target = self.send("Target.createTarget", url="about:blank")["targetId"]
        self._session = self.send("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.send(f"{domain}.enable")

    def send(self, method: str, **params: Any) -> Any:
        """Send one command and return its result."""
        self._last += 1
        message = {"id": self._last, "method": method, "params": params}
        if self._session:
            message["sessionId"] = self._session
        data = json.dumps(message).encode() + b"\0"
        try:
            while data:
                data = data[os.write(self._to, data) :]
        except BrokenPipeError:
            raise ConnectionError(f"the browser ended before it answered {method}") from None
        deadline = time.monotonic() + ANSWER_LIMIT_S
        while True:
            answer = self._receive(deadline, method)
            if answer.get("id") != self._last:
                self._note(answer)
            elif "error" in answer:
                raise RuntimeError(f"{method}: {answer['error']['message']}")
            else:
                return answer["result"]

    def _receive(self, deadline: float, what: str) -> dict[str, Any]:
        while b"\0" not in self._unread:
            left = deadline - time.monotonic()
            if left <= 0 or not select.select([self._from], [], [], left)[0]:
                raise TimeoutError(f"the browser did not answer {what} within {ANSWER_LIMIT_S:g} s")
            chunk = os.read(self._from, 1 << 20)
            if not chunk:
                raise ConnectionError(f"the browser ended before it answered {what}")
            self._unread += chunk
        message, _, self._unread = self._unread.partition(b"\0")
        decoded: dict[str, Any] = json.loads(message)
        return decoded

    def _note(self, event: dict[str, Any]) -> None:
        """Keep what the page complains about."""
        method, params = event.get("method"), event.get("params", {})
        if method == "Page.loadEventFired":
            self._loaded = True
        elif method == "Runtime.exceptionThrown":
            details = params["exceptionDetails"]
            self.complaints.append(details.get("exception", {}).get("description") or details["text"])
        elif method == "Runtime.consoleAPICalled" and params["type"] in ("error", "assert", "warning"):
            said = " ".join(str(part.get("value", part.get("description", ""))) for part in params["args"])
            self.complaints.append(f"console.{params['type']}: {said}")
        elif method == "Log.entryAdded" and params["entry"]["level"] in ("error", "warning"):
            entry = params["entry"]
            self.complaints.append(f"{entry['text']} {entry.get('url', '')}".strip())
        elif method == "Network.requestWillBeSent":
            url = params["request"]["url"]
            if not url.startswith(("file:", "data:", "about:", "blob:")):
                self.complaints.append(f"asks the network for {url}")

    def open(self, path: Path, *, width: int = 1280, scheme: str = "light", height: int = 844) -> None:
        """Load a file at a width, light or dark; return once it has loaded and drawn."""
        self.complaints.clear()
        phone = width < 600
        self.send(
            "Emulation.setDeviceMetricsOverride",
            **{"width": width, "height": height, "deviceScaleFactor": 1, "mobile": phone},
        )
        self.send("Emulation.setTouchEmulationEnabled", enabled=phone)
        self.send("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])
        self._loaded = False
        self.send("Page.navigate", url=path.resolve().as_uri())
        deadline = time.monotonic() + ANSWER_LIMIT_S
        while not self._loaded:
            self._note(self._receive(deadline, f"with {path.name} loaded"))
        self.settle()

    def settle(self) -> None:
        """Wait until two frames were drawn."""
        self.evaluate(
            "new Promise(done => requestAnimationFrame(() => requestAnimationFrame(() => done(1))))"
        )

    def evaluate(self, expression: str) -> Any:
        """Return the value of a JavaScript expression in the page (of a promise, what it resolves to)."""
        result = self.send("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        if "exceptionDetails" in result:
            details = result["exceptionDetails"]
            raise RuntimeError(details.get("exception", {}).get("description") or details["text"])
        return result["result"].get("value")

    def press(self, key: str) -> None:
        """Press a key by its name, such as ArrowRight."""
        code = {"ArrowLeft": 37, "ArrowRight": 39, "Tab": 9, "Enter": 13}[key]
        for kind in ("rawKeyDown", "keyUp"):
            self.send("Input.dispatchKeyEvent", type=kind, key=key, code=key, windowsVirtualKeyCode=code)
        self.settle()

    def picture(self, clip: dict[str, float] | None = None) -> bytes:
        """Return a PNG of the whole page, or of the rectangle `clip` (x, y, width, height)."""
        options: dict[str, Any] = {"format": "png", "captureBeyondViewport": True}
        if clip:
            options["clip"] = {**clip, "scale": 1}
        return base64.b64decode(self.send("Page.captureScreenshot", **options)["data"])

    def picture_of(self, selector: str) -> bytes:
        """Return a PNG of the first element that matches."""
        return self.picture(
            self.evaluate(f"(e => {RECTANGLE})(document.querySelector({json.dumps(selector)}))")
        )


RECTANGLE = "(r => ({x: r.x + scrollX, y: r.y + scrollY, width: r.width, height: r.height}))(e.getBoundingClientRect())"


@contextlib.contextmanager
def browse(browser: str) -> Iterator[Page]:
    """Start a browser with an empty profile; end it, and all its children, in any case."""
    with tempfile.TemporaryDirectory(prefix="tour-", ignore_cleanup_errors=True) as profile:
        its_input, to_browser = os.pipe()
        from_browser, its_output = os.pipe()
        quiet = (os.POSIX_SPAWN_OPEN, 2, os.devnull, os.O_WRONLY, 0)
        # Away from 3 and 4 first: a pipe may be one of them already, and the second dup2 would overwrite it.
        spare = 5 + max(its_input, to_browser, from_browser, its_output)
        moves = [(its_input, spare), (its_output, spare + 1), (spare, 3), (spare + 1, 4)]
        actions = [quiet, *((os.POSIX_SPAWN_DUP2, old, new) for old, new in moves)]
        actions += [(os.POSIX_SPAWN_CLOSE, spare), (os.POSIX_SPAWN_CLOSE, spare + 1)]
        command = [browser, *FLAGS, f"--user-data-dir={profile}", "about:blank"]
        environment = {**os.environ, "HOME": profile}  # nothing of the user's own is read or written
        child = os.posix_spawn(browser, command, environment, file_actions=actions, setpgroup=0)
        os.close(its_input)
        os.close(its_output)
        try:
            yield Page(to_browser, from_browser)
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(child, signal.SIGKILL)
            os.waitpid(child, 0)
            os.close(to_browser)
            os.close(from_browser)


# --- what is wrong with a page ------------------------------------------------------------------------------

OVERFLOW = """
document.documentElement.scrollWidth <= innerWidth ? [] :
  [...document.querySelectorAll("body *")]
    .filter(e => e.getBoundingClientRect().right > innerWidth + 1 && !e.parentElement.closest(".scroll"))
    .slice(0, 3)
    .map(e => `${e.tagName.toLowerCase()} is wider than the page (${Math.round(e.getBoundingClientRect().right)} > ` +
              `${innerWidth} px): ${e.textContent.trim().slice(0, 40)}`)
    .concat(`the page scrolls sideways: ${document.documentElement.scrollWidth} > ${innerWidth} px`)
"""
FIGURES = """
Promise.all([...document.querySelectorAll("figure img")].map(async img => {
  const name = `figure "${img.alt.slice(0, 40)}"`;
  try { await img.decode(); } catch { return `${name} cannot be decoded`; }
  const box = img.getBoundingClientRect();
  if (!img.alt.trim()) return `a figure has no alt text`;
  if (!img.naturalWidth || box.width < 50 || box.height < 20) return `${name} is not visible`;
  const canvas = document.createElement("canvas");
  canvas.width = 200; canvas.height = Math.max(20, Math.round(200 * box.height / box.width));
  const pen = canvas.getContext("2d");
  pen.fillStyle = "#fff"; pen.fillRect(0, 0, canvas.width, canvas.height);
  pen.drawImage(img, 0, 0, canvas.width, canvas.height);
  const pixels = new Uint32Array(pen.getImageData(0, 0, canvas.width, canvas.height).data.buffer);
  return pixels.every(pixel => pixel === pixels[0]) ? `${name} is blank` : "";
})).then(found => found.filter(Boolean))
"""
DRAWN = """
[...document.querySelectorAll("figure svg")].flatMap(svg => {
  const box = svg.getBoundingClientRect(), name = `drawing of ${svg.closest("figure").id}`;
  const shapes = [...svg.querySelectorAll("path, rect, circle, line")].filter(e => e.getBoundingClientRect().width > 1);
  if (box.width < 200 || box.height < 80) return [`${name} is not visible`];
  if (svg.innerHTML.includes("NaN")) return [`${name} has a NaN in it`];
  return shapes.length < 3 ? [`${name} is blank`] : [];
})
"""
LABELS = """
[...document.querySelectorAll("input, select")].filter(e => !e.labels.length).map(e => `${e.id} has no label`)
"""
TARGETS = """
[...document.querySelectorAll("a[href^='#']")].map(a => a.getAttribute("href").slice(1))
  .filter(id => !document.getElementById(id)).map(id => `a link leads to #${id}, which is not there`)
"""


def faults(page: Page) -> list[str]:
    """Return what is wrong with the page as it is open now, empty when nothing is."""
    checks = (OVERFLOW, FIGURES, DRAWN, LABELS, TARGETS)
    found = [str(fault) for check in checks for fault in page.evaluate(check)]
    return [*page.complaints, *found, *dead_controls(page)]


def dead_controls(page: Page) -> list[str]:
    """Return the sliders that change nothing in their figure when an arrow key is pressed."""
    dead = []
    for name in page.evaluate("[...document.querySelectorAll('input[type=range]')].map(e => e.id)"):
        slider = f"document.getElementById({json.dumps(name)})"
        figure = f"{slider}.closest('figure').querySelector('svg')?.innerHTML"
        before = page.evaluate(f"{slider}.focus(), {figure}")
        at_end = page.evaluate(f"{slider}.value === {slider}.max")
        for _ in range(3):
            page.press("ArrowLeft" if at_end else "ArrowRight")
        if page.evaluate(figure) in (None, before):
            dead.append(f"slider {name} changes nothing")
    return dead


def check(path: Path, browser: str, say: Callable[[str], object] = print) -> int:
    """Open a page at both widths, light and dark; say what is wrong and return how many faults there are."""
    count = 0
    with browse(browser) as page:
        for width, scheme in itertools.product(WIDTHS, SCHEMES):
            page.open(path, width=width, scheme=scheme)
            for fault in faults(page):
                say(f"{width} px, {scheme}: {fault}")
                count += 1
    return count


def main(arguments: list[str]) -> int:
    """Check one page."""
    browser = find_browser()
    if browser is None:
        print("NOT RUN: the page in a browser (no chromium or google-chrome on PATH)")
        return 0
    path = Path(arguments[0])
    count = check(path, browser)
    print(f"{path}: {count or 'no'} fault{'s' if count != 1 else ''} in {Path(browser).name}")
    return count


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
