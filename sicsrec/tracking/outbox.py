"""Records on their way to a store that may be slow, or away for a while.

Records are sent in order by a thread, so that whoever records goes on at once. While the store
cannot be reached they are kept, tried again now and then, and sent when it is back. What is left
when the waiting ends is said, with its number, and dropped: the artifacts hold everything that
matters.
"""

import contextvars
import logging
import math
import threading
import time
from collections import deque
from collections.abc import Callable

from sicsrec.addresses import without_passwords

logger = logging.getLogger(__name__)

_MAX_LINE = 200
_HURRIED_SECONDS = 1.0
"""How long a store that is away is left alone at most while somebody waits in :meth:`flush`."""

Record = Callable[[], object]
"""Sends one record; called again when it raised."""


class Outbox:
    """Sends records in order, and never raises because a store is away or refuses one.

    The thread lives while records wait. It is a daemon, so a program that ends without
    :meth:`flush` loses what waits then.

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
        self._is_away = False
        self._n_tries = 0
        self._n_waiters = 0
        self._own_error: Exception | None = None
        self._thread: threading.Thread | None = None
        # Guards all of the above and tells of every change; never held while a record is sent.
        self._changed = threading.Condition()

    def __len__(self) -> int:
        """Return how many records are waiting."""
        return len(self._waiting)

    def send(self, what: str, record: Record) -> None:
        """Let a record be sent after those that wait, and return at once.

        Args:
            what: names the record in messages.
            record: sends it; called in another thread.
        """
        with self._changed:
            self._waiting.append((what, record))
            if self._thread is None:
                # In the caller's context, by which messages find the page of a Prefect run.
                context = contextvars.copy_context()
                self._thread = threading.Thread(
                    target=context.run, args=(self._send_all,), name="records", daemon=True
                )
                self._thread.start()

    def wait_for(self, is_there: Callable[[], bool]) -> bool:
        """Wait until something that a waiting record brings is there, but not for an absent store.

        Returns:
            Whether it is there.
        """
        with self._changed:
            self._changed.wait_for(lambda: is_there() or self._is_away or not self._waiting)
            return is_there()

    def flush(self, patience_seconds: float) -> bool:
        """Wait until everything is sent, for an absent store at most so long; the rest is dropped.

        Returns:
            Whether everything was sent.

        Raises:
            Exception: what a record raised since the last time that no store raises.
        """
        with self._changed:
            self._n_waiters += 1
            self._changed.notify_all()
            try:
                is_sent = self._wait_until_sent(time.monotonic() + patience_seconds)
            finally:
                self._n_waiters -= 1
            error, self._own_error = self._own_error, None
        if error is not None:
            raise error
        return is_sent

    def _wait_until_sent(self, deadline: float) -> bool:
        n_tries = self._n_tries
        while self._waiting:
            # However short the patience, a store that was away is tried once more.
            is_away = self._is_away and self._n_tries > n_tries
            left = deadline - time.monotonic()
            if is_away and left <= 0:
                self._give_up()
                return False
            self._changed.wait(left if is_away else None)
        return True

    def _give_up(self) -> None:
        logger.error(
            "%d records were not sent: the store of records stayed away; the first is %s. The run "
            "itself is whole, its artifacts and reports are in the store.",
            len(self._waiting),
            self._waiting[0][0],
        )
        self._waiting.clear()
        self._changed.notify_all()

    def _send_all(self) -> None:
        while True:
            with self._changed:
                if not self._waiting:
                    self._thread = None
                    self._changed.notify_all()
                    return
                entry = self._waiting[0]
            why_away, own_error = None, None
            try:
                why_away = self._try(*entry)
            except Exception as err:
                logger.exception("%s could not be recorded", entry[0])
                own_error = err
            with self._changed:
                self._own_error = self._own_error or own_error
                self._n_tries += 1
                if why_away is None:
                    self._take_off(entry)
                else:
                    self._stay_away(why_away)

    def _try(self, what: str, record: Record) -> Exception | None:
        """Send a record, or say that the store refused it; return why the store is away."""
        try:
            record()
        except self._errors as err:
            if not self._answers():
                return err
            # It may just have come back.
            try:
                record()
            except self._errors as again:
                logger.warning("the store of records refused %s: %s", what, first_line(again))
        return None

    def _answers(self) -> bool:
        try:
            self._is_there()
        except self._errors:
            return False
        return True

    def _take_off(self, entry: tuple[str, Record]) -> None:
        if self._is_away:
            logger.warning(
                "the store of records is back; %d kept records are sent", len(self._waiting)
            )
            self._is_away = False
        # Whoever waited for an absent store may have given up in the meantime.
        if self._waiting and self._waiting[0] is entry:
            self._waiting.popleft()
        self._changed.notify_all()

    def _stay_away(self, error: Exception) -> None:
        if not self._is_away:
            logger.warning(
                "the store of records cannot be reached; the run goes on, records are kept and "
                "sent when it is back (%s)",
                first_line(error),
            )
        self._is_away = True
        self._changed.notify_all()
        tried = time.monotonic()
        while self._waiting:
            pause = min(self._retry_seconds, _HURRIED_SECONDS if self._n_waiters else math.inf)
            left = tried + pause - time.monotonic()
            if left <= 0:
                return
            self._changed.wait(left)


def first_line(error: Exception) -> str:
    """Return the kind of an error and the first line of its message, cut, without passwords.

    MLflow's messages name the address that was asked, with the password that may stand in it.
    """
    line = without_passwords(str(error).partition("\n")[0])
    return f"{type(error).__name__}: {line[:_MAX_LINE]}"
