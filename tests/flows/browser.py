"""A browser without a window, driven through its WebDriver; Debian's chromium-driver."""

import json
import subprocess
from base64 import b64decode
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.error import HTTPError
from urllib.request import Request, urlopen

from tests.flows.installation import free_port
from tests.flows.waiting import wait_until

QUIET = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--disable-dev-shm-usage",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",
    "--window-size=1200,2400",
)
_ELEMENT = "element-6066-11e4-a52e-4f735466cecf"  # what WebDriver calls a found element


class Browser:
    """One window."""

    def __init__(self, port: int, profile: Path) -> None:
        self._driver = f"http://127.0.0.1:{port}"
        options = {"args": [*QUIET, f"--user-data-dir={profile}"]}
        asked = {"alwaysMatch": {"browserName": "chrome", "goog:chromeOptions": options}}
        made = self._call("POST", "/session", {"capabilities": asked})
        self._driver += f"/session/{made['sessionId']}"

    def open(self, address: str) -> None:
        """Go to a page."""
        self._call("POST", "/url", {"url": address})

    def script(self, text: str, *arguments: object) -> Any:
        """Run a function's body in the page; what it returns."""
        return self._call("POST", "/execute/sync", {"script": text, "args": list(arguments)})

    def find(self, selector: str, *, seconds: float = 30) -> str:
        """The one element a selector of XPath means, once it is there."""
        found: list[dict[str, str]] = []

        def look() -> bool:
            found[:] = self._call("POST", "/elements", {"using": "xpath", "value": selector})
            return len(found) == 1

        wait_until(look, f"the page has {selector}", seconds=seconds, pause=0.2)
        return found[0][_ELEMENT]

    def click(self, selector: str) -> None:
        """Click an element."""
        self._call("POST", f"/element/{self.find(selector)}/click", {})

    def text(self) -> str:
        """What the page says."""
        return str(self.script("return document.body.innerText"))

    def write(self, selector: str, text: str) -> None:
        """Replace what a field holds, key by key as a person does."""
        field = self.find(selector)
        self._call("POST", f"/element/{field}/clear", {})
        self._call("POST", f"/element/{field}/value", {"text": text})

    def keep_picture(self, path: Path) -> None:
        """Write down what the window shows, as PNG."""
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b64decode(self._call("GET", "/screenshot", None)))

    def close(self) -> None:
        """Close the window."""
        self._call("DELETE", "", None)

    def _call(self, method: str, path: str, content: object) -> Any:
        data = None if content is None else json.dumps(content).encode()
        headers = {"content-type": "application/json"}
        request = Request(f"{self._driver}{path}", data, headers, method=method)
        try:
            with urlopen(request, timeout=60) as answer:
                return json.loads(answer.read())["value"]
        except HTTPError as problem:
            raise AssertionError(f"{method} {path}: {problem.read().decode()[:500]}") from problem


@contextmanager
def browser(folder: Path) -> Generator[Browser, None, None]:
    """A browser with an empty profile, for as long as the `with` lasts."""
    port = free_port()
    log = (folder / "chromedriver.log").open("wb")
    driver = subprocess.Popen(
        ["chromedriver", f"--port={port}"], stdout=log, stderr=subprocess.STDOUT
    )
    try:
        wait_until(lambda: _listens(port), "chromedriver answers", seconds=30, pause=0.2)
        window = Browser(port, folder / "profile")
        try:
            yield window
        finally:
            window.close()
    finally:
        driver.terminate()
        driver.wait(timeout=20)
        log.close()


def _listens(port: int) -> bool:
    try:
        with urlopen(f"http://127.0.0.1:{port}/status", timeout=5) as answer:
            return bool(json.loads(answer.read())["value"]["ready"])
    except OSError:
        return False
