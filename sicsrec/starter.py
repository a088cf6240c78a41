"""The process that started this one, seen through a pipe."""

import os
import threading
from collections.abc import Callable


def when_starter_ends(call: Callable[[], None]) -> None:
    """Call once whoever holds the other end of standard input is gone, however that comes about.

    Args:
        call: what to do, in a thread of its own that keeps nothing from ending.
    """

    def wait() -> None:
        # Not through sys.stdin, whose lock the interpreter wants when it ends.
        while os.read(0, 1):
            pass
        call()

    threading.Thread(target=wait, daemon=True).start()
