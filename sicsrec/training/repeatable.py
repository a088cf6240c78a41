"""The same bits each time, on the CPU: what training needs beside seeds."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch


@contextmanager
def repeatable(devices: Iterable[torch.device]) -> Iterator[None]:
    """On the CPU, forbid operations that give other bits each time.

    Several threads add up some gradients in the order in which they get there. On other devices
    torch has no repeatable form of all that is used, so there it is left as it was.

    Args:
        devices: all that is computed on.
    """
    was_repeatable = torch.are_deterministic_algorithms_enabled()
    memory: Any = torch.utils.deterministic
    was_filled = memory.fill_uninitialized_memory
    on_cpu = all(device.type == "cpu" for device in devices)
    torch.use_deterministic_algorithms(on_cpu or was_repeatable)
    # Fresh memory is always written before it is read here; filling it first takes time.
    memory.fill_uninitialized_memory = was_filled and not on_cpu
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(was_repeatable)
        memory.fill_uninitialized_memory = was_filled
