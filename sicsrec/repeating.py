"""Doing something again and again while a block runs, in a thread."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager


@contextmanager
def repeated(
    do: Callable[[], object], every_seconds: float, name: str, *, at_end: bool = False
) -> Iterator[None]:
    """Call ``do`` every so often inside the block, first after one such time.

    Args:
        do: called from another thread, never twice at the same time; must not raise.
        every_seconds: between two calls.
        name: of the thread.
        at_end: whether it is called once more when the block ends.
    """
    is_over = threading.Event()

    def repeat() -> None:
        while not is_over.wait(every_seconds):
            do()
        if at_end:
            do()

    thread = threading.Thread(target=repeat, name=name, daemon=True)
    thread.start()
    try:
        yield
    finally:
        is_over.set()
        thread.join()
