"""Servers on the loopback that say they are well and do little of what they are asked."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import ClassVar


class Failing(BaseHTTPRequestHandler):
    """Says that it is well, and fails in all else."""

    # Prefect's websockets take no answer of an older one.
    protocol_version = "HTTP/1.1"
    answers: ClassVar[dict[str, tuple[HTTPStatus, bytes]]] = {
        "/health": (HTTPStatus.OK, b"true"),
        "/api/health": (HTTPStatus.OK, b"true"),
    }
    """Status and body of the answers at some paths."""
    otherwise = HTTPStatus.INTERNAL_SERVER_ERROR
    """Status everywhere else."""

    def do_GET(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"] or 0))
        status, body = self.answers.get(self.path.partition("?")[0], (self.otherwise, b""))
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def do_POST(self) -> None:
        self.do_GET()

    def log_message(self, *_: object) -> None:
        pass


class Refusing(Failing):
    """As a Prefect server does that wants to be told a password."""

    otherwise = HTTPStatus.UNAUTHORIZED


class WithoutSchedule(Failing):
    """As a Prefect server does that knows no runs and cannot say which are due."""

    answers = Failing.answers | {
        "/api/csrf-token": (HTTPStatus.NOT_FOUND, b""),
        "/api/flow_runs/filter": (HTTPStatus.OK, b"[]"),
    }


@contextmanager
def answering(kind: type[Failing]) -> Iterator[str]:
    """Yield host and port of a server of this kind."""
    with ThreadingHTTPServer(("127.0.0.1", 0), kind) as started:
        threading.Thread(target=started.serve_forever, daemon=True).start()
        yield f"127.0.0.1:{started.server_port}"
        started.shutdown()
