"""Looking at something again and again while a block runs, in a thread."""

import itertools
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

from sicsrec.repeating import repeated

Look = Callable[[], Mapping[str, float]]
"""Returns the numbers of this moment."""
Publish = Callable[[Mapping[str, float], int], None]
"""Takes numbers and the number of the look, from 0."""


@contextmanager
def sampled(look: Look, publish: Publish, every_seconds: float) -> Iterator[None]:
    """Publish what ``look`` returns every so often inside the block, and once at its end.

    Args:
        look: called from another thread, never twice at the same time.
        publish: called from the same thread; must not raise.
        every_seconds: between two looks.
    """
    numbers = itertools.count()
    with repeated(
        lambda: publish(look(), next(numbers)), every_seconds, "system-metrics", at_end=True
    ):
        yield
