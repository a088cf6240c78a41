"""What went wrong with a request to a server, whether to try again, and when."""

import email.utils
import json
import random
import threading
import time
import urllib.parse
from collections.abc import Callable
from dataclasses import dataclass
from itertools import groupby
from operator import itemgetter
from typing import Any

_PASSING = frozenset({408, 429})
"""Client errors that may pass by themselves; all others are of our own making."""
_NO_CREDIT = frozenset({"insufficient_quota", "billing_hard_limit_reached"})
"""Error codes of status 429 that no waiting helps against."""
_FIRST_WAIT_SECONDS = 0.5
_MOST_WORDS = 300
_PIECE = 8
"""So many characters of a key in a row are hidden too: servers and clients repeat cut keys."""


@dataclass(frozen=True)
class Trouble:
    """Why a request has no reply."""

    words: str
    """For people: status and what the server said, without the key."""
    status: int | None = None
    """HTTP status; None when there was no whole reply."""
    retry_after: float | None = None
    """Seconds the server asks to wait."""
    is_final: bool = False
    """Whether trying again is pointless."""


def read_trouble(error: Any, api_key: str | None) -> Trouble:
    """Return what an exception of the client says, without the key.

    Args:
        error: an ``openai.OpenAIError``.
        api_key: cut out of what the server said, which may repeat it.
    """
    status = getattr(error, "status_code", None)
    response = getattr(error, "response", None)
    if status is None or status < 400:
        cause = error.__cause__
        why = f" ({type(cause).__name__}: {cause})" if cause else ""
        return Trouble(_without(api_key, f"{error}{why}"))
    code = getattr(error, "code", None)
    is_final = (status < 500 and status not in _PASSING) or code in _NO_CREDIT
    retry_after = read_retry_after(response.headers.get("retry-after")) if response else None
    return Trouble(_without(api_key, f"status {status}: {error}"), status, retry_after, is_final)


def read_retry_after(value: str | None, now: float | None = None) -> float | None:
    """Return the seconds that a ``Retry-After`` header asks to wait, None when it is unreadable.

    Args:
        value: seconds, or a date as HTTP writes it.
        now: seconds since 1970; by default the clock's.

    Example:
        >>> read_retry_after("7"), read_retry_after("soon")
        (7.0, None)
    """
    if value is None:
        return None
    try:
        seconds = float(value)
    except ValueError:
        try:
            at = email.utils.parsedate_to_datetime(value).timestamp()
        except (ValueError, OverflowError):
            return None
        seconds = at - (time.time() if now is None else now)
    # Not a number compares false with everything.
    return max(0.0, seconds) if seconds < float("inf") else None


def _without(api_key: str | None, words: str) -> str:
    """Return the words in one line, cut, with stars for the key and for longer pieces of it."""
    pieces = {piece for form in _forms(api_key or "") for piece in _pieces(form)}
    hidden = [False] * len(words)
    for piece in pieces:
        at = words.find(piece)
        while at >= 0:
            hidden[at : at + len(piece)] = [True] * len(piece)
            at = words.find(piece, at + 1)
    shown = "".join(
        "***" if is_hidden else "".join(letter for letter, _ in run)
        for is_hidden, run in groupby(zip(words, hidden, strict=True), key=itemgetter(1))
    )
    words = " ".join(shown.split())
    return words if len(words) <= _MOST_WORDS else f"{words[:_MOST_WORDS]}…"


def _forms(api_key: str) -> set[str]:
    """Return how a key is written in messages: as it is, as Python, as JSON, in an address."""
    as_python, as_json = repr(api_key)[1:-1], json.dumps(api_key)[1:-1]
    forms = {api_key, api_key.strip(), as_python, as_json, urllib.parse.quote(api_key, safe="")}
    return forms - {""}


def _pieces(form: str) -> set[str]:
    return {form[at : at + _PIECE] for at in range(max(1, len(form) - _PIECE + 1))}


class Waiting:
    """How long to wait before trying again; a wait that the server asked for holds for all.

    Args:
        max_wait_seconds: no wait is longer.
    """

    def __init__(self, max_wait_seconds: float) -> None:
        self._max_wait_seconds = max_wait_seconds
        self._lock = threading.Lock()
        self._opens_at = 0.0

    def before_next_try(self, attempt: int, retry_after: float | None) -> float | None:
        """Return the seconds to wait after a failed try, None when the server asks for too many.

        Waits double from half a second and are drawn between half and the whole of it, so that
        requests that failed together do not come back together. The server's wish is a lower
        bound.

        Args:
            attempt: number of the try that failed, from 1.
            retry_after: seconds that the server asks to wait.
        """
        longest = self._max_wait_seconds
        backoff = min(longest, _FIRST_WAIT_SECONDS * 2.0 ** min(attempt - 1, 30))
        drawn = backoff * random.uniform(0.5, 1.0)  # noqa: S311 - spreads load, hides nothing
        if retry_after is None:
            return drawn
        if retry_after > longest:
            return None
        with self._lock:
            self._opens_at = max(self._opens_at, time.monotonic() + retry_after)
        return min(longest, max(drawn, retry_after + 0.1 * drawn))

    def pass_gate(self, pause: Callable[[float], object]) -> None:
        """Wait until the server wants to be asked again.

        Args:
            pause: waits so many seconds; true when there is nothing to wait for any more.
        """
        waited_for = 0.0
        # While one waits, the server may ask another for a longer rest.
        while True:
            with self._lock:
                opens_at = self._opens_at
            seconds = opens_at - time.monotonic()
            if opens_at <= waited_for or seconds <= 0 or pause(seconds):
                return
            waited_for = opens_at
