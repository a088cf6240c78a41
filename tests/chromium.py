"""A headless Chromium that tests look at pages with, through its DevTools protocol."""

import base64
import json
import shutil
import subprocess
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from websockets.sync.client import ClientConnection, connect

_NAMES = ("chromium", "chromium-browser", "google-chrome", "chrome")


class Page:
    """One open page, and what went wrong in it."""

    def __init__(self, connection: ClientConnection) -> None:
        self._connection = connection
        self._n_sent = 0
        self.events: list[dict[str, Any]] = []
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.send(f"{domain}.enable")

    def send(self, method: str, **parameters: Any) -> dict[str, Any]:
        self._n_sent += 1
        message = {"id": self._n_sent, "method": method, "params": parameters}
        self._connection.send(json.dumps(message))
        while True:
            answer: dict[str, Any] = json.loads(self._connection.recv(timeout=120))
            if answer.get("id") == self._n_sent:
                assert "error" not in answer, answer
                result: dict[str, Any] = answer["result"]
                return result
            self.events.append(answer)

    def look(self, width: int, *, dark: bool = False) -> None:
        """Be a screen of this width in light or dark."""
        self.send(
            "Emulation.setDeviceMetricsOverride",
            width=width, height=900, deviceScaleFactor=1, mobile=width < 500,
        )  # fmt: skip
        feature = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.send("Emulation.setEmulatedMedia", features=[feature])

    def open(self, url: str) -> None:
        self.send("Page.navigate", url=url)
        self.wait_for("document.readyState === 'complete'")

    def value(self, expression: str) -> Any:
        """Return the JSON value of an expression."""
        answer = self.send("Runtime.evaluate", expression=expression, returnByValue=True)
        return answer["result"].get("value")

    def wait_for(self, expression: str, seconds: float = 120.0) -> None:
        """Wait until an expression is true."""
        deadline = time.monotonic() + seconds
        while not self.value(expression):
            text = self.value("document.body ? document.body.innerText.slice(0, 2000) : ''")
            assert time.monotonic() < deadline, f"never true: {expression}\n{text}"
            time.sleep(0.3)

    def save(self, path: Path) -> None:
        """Save a picture of the whole page, for people."""
        size = "[document.documentElement.scrollWidth, document.documentElement.scrollHeight]"
        width, height = self.value(size)
        clip = {"x": 0, "y": 0, "width": width, "height": min(height, 8000), "scale": 1}
        shot = self.send("Page.captureScreenshot", clip=clip, captureBeyondViewport=True)
        path.write_bytes(base64.b64decode(shot["data"]))

    def complaints(self) -> list[str]:
        """Return what the console says of errors and warnings, exceptions included."""
        self.value("1")
        found = []
        for event in self.events:
            match event.get("method"), event.get("params", {}):
                case "Log.entryAdded", {"entry": {"level": "error" | "warning", "text": text}}:
                    found.append(text)
                case "Runtime.exceptionThrown", {"exceptionDetails": details}:
                    found.append(str(details))
                case "Runtime.consoleAPICalled", {"type": "error" | "warning"} as call:
                    found.append(str(call["args"]))
        return found

    def requests(self) -> list[str]:
        """Return the addresses that were asked for, data inside the page left out."""
        urls = [
            str(event["params"]["request"]["url"])
            for event in self.events
            if event.get("method") == "Network.requestWillBeSent"
        ]
        return [url for url in urls if not url.startswith("data:")]


@contextmanager
def chromium(folder: Path) -> Iterator[Page]:
    """Start a browser whose profile lies in ``folder``; skips where there is none."""
    binary = next((path for name in _NAMES if (path := shutil.which(name))), None)
    if binary is None:
        pytest.skip(f"no browser is installed (looked for {', '.join(_NAMES)})")
    command = [
        binary, "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage",
        "--no-first-run", "--disable-background-networking", "--remote-debugging-port=0",
        f"--user-data-dir={folder}", "about:blank",
    ]  # fmt: skip
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        try:
            port = _port(folder, process)
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/json") as answer:
                pages = [entry for entry in json.load(answer) if entry["type"] == "page"]
            with connect(pages[0]["webSocketDebuggerUrl"], max_size=None) as connection:
                yield Page(connection)
        finally:
            process.terminate()
            process.wait(timeout=30)


def _port(folder: Path, process: "subprocess.Popen[bytes]") -> str:
    path = folder / "DevToolsActivePort"
    deadline = time.monotonic() + 120
    while not path.exists() or not path.read_text().strip():
        assert process.poll() is None, "the browser ended"
        assert time.monotonic() < deadline, "the browser does not start"
        time.sleep(0.1)
    return path.read_text().split()[0]
