"""Addresses with passwords in them, against a small server."""

import base64
import logging
import socket
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest

from sicsrec.addresses import WithoutPasswords, ask, without_passwords


class _Handler(BaseHTTPRequestHandler):
    seen: list[str | None]

    def do_GET(self) -> None:
        self.seen.append(self.headers["Authorization"])
        self.send_response(200 if self.path == "/health" else 503)
        self.end_headers()

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def server() -> Iterator[HTTPServer]:
    _Handler.seen = []
    with HTTPServer(("127.0.0.1", 0), _Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server
        server.shutdown()


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("at http://alice:s3cret@host:5000/x.", "at http://host:5000/x."),
        ("postgresql://alice:s3/cret@host/db, gone", "postgresql://host/db, gone"),
        ("postgresql+psycopg2://alice:1/cret@host/db", "postgresql+psycopg2://host/db"),
        ("https://alice:s3/cret@host/x", "https://host/x"),
        ("http://host:5000/a@b http://host/a@b", "http://host:5000/a@b http://host/a@b"),
        ("s3://bucket/a@b", "s3://bucket/a@b"),
    ],
)
def test_no_password_is_shown_whatever_signs_it_holds(text: str, shown: str) -> None:
    assert without_passwords(text) == shown


def test_user_and_password_are_sent_as_http_wants_them(server: HTTPServer) -> None:
    where = f"127.0.0.1:{server.server_port}"
    assert ask(f"http://alice:s3%40cret@{where}/health", timeout_seconds=20.0) == 200
    assert ask(f"http://{where}/other", timeout_seconds=20.0) == 503
    packed = base64.b64encode(b"alice:s3@cret").decode()
    assert _Handler.seen == [f"Basic {packed}", None]


@pytest.mark.parametrize(
    "url",
    [
        "foo",
        "foo/health",
        "http://127.0.0.1:port/api",
        "http://alice:s3cret@host.invalid",
        "http://alice:s3cret@127.0.0.1:9/health",
        "http://alice:s3cret/x@127.0.0.1:9/health",
        "http://alice:[s3cret]@127.0.0.1:9/health",
        "http://[::1",
        "file:///etc/passwd",
        "http://",
        "http://127.0.0.1:99999/",
    ],
)
def test_what_is_no_address_or_answers_nothing_is_one_error(url: str) -> None:
    with pytest.raises(ConnectionError) as caught:
        ask(url, timeout_seconds=5.0)
    assert str(caught.value)
    assert "s3cret" not in str(caught.value)


def test_what_speaks_something_else_is_the_same_error() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def greet() -> None:
            connection, _ = listener.accept()
            with connection:
                connection.recv(1000)
                connection.sendall(b"220 mail.example ESMTP\r\n")

        threading.Thread(target=greet, daemon=True).start()
        with pytest.raises(ConnectionError, match="220 mail"):
            ask(f"http://127.0.0.1:{listener.getsockname()[1]}", timeout_seconds=20.0)


def test_no_line_of_a_log_holds_a_password_not_even_in_what_caused_an_error() -> None:
    address = "http://alice:s3cret@host/api"
    error = ValueError("nothing was recorded")
    error.__cause__ = ConnectionError(f"no answer from {address}")
    about = (type(error), error, None)
    record = logging.LogRecord("a", logging.ERROR, "b", 1, "asked %s", (address,), about)
    for inner in (None, logging.Formatter("%(name)s: %(message)s")):
        text = WithoutPasswords(inner).format(record)
        assert text.startswith("asked http://host" if inner is None else "a: asked http://host")
        assert "no answer from http://host/api" in text
        assert "ValueError: nothing was recorded" in text
        assert "s3cret" not in text
