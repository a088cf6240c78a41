"""Records on their way to a store that may be away for a while.

Records are sent at once and in order. While the store cannot be reached they are kept, tried again
now and then, and sent when it is back; whoever records goes on in the meantime. What is left when
the waiting ends is said, with its number, and dropped: the artifacts hold everything that matters.
"""

import logging
import threading
import time
from collections import deque
from collections.abc import Callable

from sicsrec.addresses import without_passwords

logger = logging.getLogger(__name__)

_MAX_LINE = 200

Record = Callable[[], object]
"""Sends one record; called again when it raised."""


class Outbox:
    """Sends records in order, and never raises because a store is away or refuses one.

    Args:
        is_there: asks the store for something small; raises one of ``errors`` while it is away.
        errors: what a store raises that is away, or that refuses a record.
        retry_seconds: how long a store that is away is left alone.
    """

    def __init__(
        self,
        is_there: Record,
        errors: tuple[type[Exception], ...],
        retry_seconds: float = 10.0,
    ) -> None:
        self._is_there = is_there
        self._errors = errors
        self._retry_seconds = retry_seconds
        self._waiting: deque[tuple[str, Record]] = deque()
        self._retry_at = 0.0
        self._is_away = False
        # Steps record from their own thread, the sampler of system metrics from another.
        self._lock = threading.RLock()

    def __len__(self) -> int:
        """Return how many records are waiting."""
        return len(self._waiting)

    def send(self, what: str, record: Record) -> None:
        """Send a record after those that wait, or let it wait.

        Args:
            what: names the record in messages.
            record: sends it.
        """
        with self._lock:
            self._waiting.append((what, record))
            if time.monotonic() >= self._retry_at:
                self._drain()

    def flush(self, patience_seconds: float) -> bool:
        """Send what waits, and wait for the store at most so long; the rest is dropped.

        Returns:
            Whether everything was sent.
        """
        deadline = time.monotonic() + patience_seconds
        with self._lock:
            self._drain()
            while self._waiting and time.monotonic() < deadline:
                time.sleep(min(1.0, self._retry_seconds))
                self._drain()
            if not self._waiting:
                return True
            logger.error(
                "%d records were not sent: the store of records stayed away for %.0f s; the first "
                "is %s. The run itself is whole, its artifacts and reports are in the store.",
                len(self._waiting),
                patience_seconds,
                self._waiting[0][0],
            )
            self._waiting.clear()
            return False

    def _drain(self) -> None:
        n_waited = len(self._waiting)
        while self._waiting:
            what, record = self._waiting[0]
            try:
                record()
            except self._errors as err:
                if not self._answers():
                    self._stay_away(err)
                    return
                self._try_once_more(what, record)
            self._waiting.popleft()
        if self._is_away:
            logger.warning("the store of records is back; %d kept records were sent", n_waited)
        self._is_away, self._retry_at = False, 0.0

    def _answers(self) -> bool:
        try:
            self._is_there()
        except self._errors:
            return False
        return True

    def _stay_away(self, error: Exception) -> None:
        if not self._is_away:
            logger.warning(
                "the store of records cannot be reached; the run goes on, records are kept and "
                "sent when it is back (%s)",
                first_line(error),
            )
        self._is_away = True
        self._retry_at = time.monotonic() + self._retry_seconds

    def _try_once_more(self, what: str, record: Record) -> None:
        """Send a record that failed although the store answers: it may just have come back."""
        try:
            record()
        except self._errors as err:
            logger.warning("the store of records refused %s: %s", what, first_line(err))


def first_line(error: Exception) -> str:
    """Return the kind of an error and the first line of its message, cut, without passwords.

    MLflow's messages name the address that was asked, with the password that may stand in it.
    """
    line = without_passwords(str(error).partition("\n")[0])
    return f"{type(error).__name__}: {line[:_MAX_LINE]}"
