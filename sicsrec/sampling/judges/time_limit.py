"""Ends replies that are not whole in time, however steadily they trickle in.

The client's own limit is one of every single read. Gateways that send a blank now and then to keep
a connection open never reach it, and a request whose model hangs behind one would never end.
"""

import time
from collections.abc import Callable, Iterator
from typing import Any

import httpx2

_STARTED = "sicsrec_started"


class _LimitedStream(httpx2.SyncByteStream):
    def __init__(self, stream: httpx2.SyncByteStream, ends_at: float) -> None:
        self._stream = stream
        self._ends_at = ends_at

    def __iter__(self) -> Iterator[bytes]:
        for part in self._stream:
            if time.monotonic() > self._ends_at:
                raise httpx2.ReadTimeout("the reply was not whole in time")
            yield part

    def close(self) -> None:
        self._stream.close()


def limit_replies(seconds: float) -> dict[str, list[Callable[..., Any]]]:
    """Return the event hooks of an httpx2 client whose replies take no longer.

    The time is looked at when a part arrives, so waiting for the next one comes on top.

    Args:
        seconds: from sending a request to the last byte of its reply.
    """

    def start(request: httpx2.Request) -> None:
        request.extensions[_STARTED] = time.monotonic()

    def limit(response: httpx2.Response) -> None:
        if isinstance(response.stream, httpx2.SyncByteStream):
            ends_at = response.request.extensions[_STARTED] + seconds
            response.stream = _LimitedStream(response.stream, ends_at)

    return {"request": [start], "response": [limit]}
