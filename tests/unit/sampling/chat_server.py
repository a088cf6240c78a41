"""A server that speaks the OpenAI chat protocol over real sockets, and misbehaves on request."""

import json
import re
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


@dataclass
class Say:
    """A reply of the model."""

    text: str | None
    finish_reason: str = "stop"
    usage: dict[str, int] | None = field(
        default_factory=lambda: {"prompt_tokens": 100, "completion_tokens": 10, "total_tokens": 110}
    )

    def content(self) -> dict[str, Any]:
        message = {"role": "assistant", "content": self.text}
        choice = {"index": 0, "finish_reason": self.finish_reason, "message": message}
        content = {"id": "1", "object": "chat.completion", "created": 1, "model": "tiny"}
        return {**content, "choices": [choice], **({"usage": self.usage} if self.usage else {})}


@dataclass
class Refuse:
    """A reply of the server with a status."""

    status: int
    message: str = "no"
    headers: dict[str, str] = field(default_factory=dict)
    code: str | None = None


@dataclass
class Raw:
    """Any body with status 200."""

    body: bytes


class Hang:
    """Never answer."""


@dataclass
class Trickle:
    """Send a blank now and then for some seconds, as gateways do, and then the answer."""

    n_blanks: int = 40


@dataclass
class Drop:
    """Close the connection without a word."""


@dataclass
class Cut:
    """Close the connection in the middle of the body."""


Behaviour = Callable[[str, int, dict[str, Any]], Any]
"""Given the prompt, how often it came before, and the body of the request."""


def first_candidate(prompt: str, n_before: int = 0, body: Any = None) -> Say:
    """Call the first candidate similar and the last of several unrelated."""
    numbers = [int(number) for number in re.findall(r"^(\d+)\. \"", prompt, re.MULTILINE)]
    negatives = numbers[-1:] if len(numbers) > 1 else []
    return Say(json.dumps({"positive": 1, "negatives": negatives}))


class ChatServer(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, behave: Behaviour) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.behave = behave
        self.lock = threading.Lock()
        self.closing = threading.Event()
        self.asked: Counter[str] = Counter()
        self.bodies: list[dict[str, Any]] = []
        self.keys: set[str | None] = set()
        self.in_flight = self.most_in_flight = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/v1"

    @property
    def n_requests(self) -> int:
        return len(self.bodies)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: ChatServer

    def do_POST(self) -> None:
        server = self.server
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        prompt = body["messages"][-1]["content"]
        with server.lock:
            n_before = server.asked[prompt]
            server.asked[prompt] += 1
            server.bodies.append(body)
            server.keys.add(self.headers["Authorization"])
            server.in_flight += 1
            server.most_in_flight = max(server.most_in_flight, server.in_flight)
        try:
            self._reply(server.behave(prompt, n_before, body))
        finally:
            with server.lock:
                server.in_flight -= 1

    def _reply(self, what: Any) -> None:
        if isinstance(what, Refuse):
            error = {"message": what.message, "code": what.code}
            self._send(what.status, json.dumps({"error": error}).encode(), what.headers)
        elif isinstance(what, Raw):
            self._send(200, what.body, {})
        elif isinstance(what, Say):
            self._send(200, json.dumps(what.content()).encode(), {})
        else:
            self.close_connection = True
            if isinstance(what, Hang):
                self.server.closing.wait(30)
            elif isinstance(what, Trickle):
                self._trickle(what.n_blanks)
            elif isinstance(what, Cut):
                self._begin(200, 1000, {})
                self.wfile.write(b'{"id": "1", "choi')

    def _trickle(self, n_blanks: int) -> None:
        body = json.dumps(Say('{"positive": 1, "negatives": []}').content()).encode()
        self._begin(200, n_blanks + len(body), {})
        for _ in range(n_blanks):
            self.server.closing.wait(0.1)
            self.wfile.write(b" ")
        self.wfile.write(body)

    def _send(self, status: int, body: bytes, headers: dict[str, str]) -> None:
        self._begin(status, len(body), headers)
        self.wfile.write(body)

    def _begin(self, status: int, n_bytes: int, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in {"Content-Type": "application/json", **headers}.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(n_bytes))
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002
        """Keep the terminal clean."""


class _Quiet(ChatServer):
    def handle_error(self, request: object, client_address: object) -> None:
        """A client that gave up closes the socket; that is what some tests are about."""


@contextmanager
def serving(behave: Behaviour = first_candidate) -> Iterator[ChatServer]:
    server = _Quiet(behave)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.closing.set()
        server.shutdown()
        thread.join()
        server.server_close()
