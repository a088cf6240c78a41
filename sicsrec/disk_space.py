"""Says of an error that the disk is full, whichever library met it first, and what to do."""

import asyncio
import errno
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from sicsrec.errors import DiskFullError, SicsrecError
from sicsrec.paths import nearest_existing

_NUMBERS = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
_WORDS = re.compile(
    # Libraries that write by themselves keep the text and drop the number: Rust's (polars,
    # safetensors), SQLite, NumPy's short writes, torch.
    r"no space left on device|disk quota exceeded|file too large|os error (28|122|27)\b"
    r"|disk is full|\d+ requested and \d+ written|inline_container.*unexpected pos",
    re.IGNORECASE | re.DOTALL,
)
_NOTHING_LEFT = 64 * 1024
"""Bytes; a disk with less is full, whatever an error on it says."""


def is_disk_full(error: BaseException, folder: Path) -> bool:
    """Return whether an error, or what it came from, is that a file could not be made longer.

    Args:
        error: what was raised.
        folder: where was written to.
    """
    for one in _came_from(error):
        if (isinstance(one, OSError) and one.errno in _NUMBERS) or _WORDS.search(str(one)):
            return True
    # What has no size, such as /proc, is no disk and cannot be full.
    return _usage(folder).total > 0 and _free_bytes(folder) < _NOTHING_LEFT


def _came_from(error: BaseException) -> Iterator[BaseException]:
    """Yield an error and all that it came from, each once."""
    seen: set[int] = set()
    waiting: list[BaseException | None] = [error]
    while waiting:
        one = waiting.pop()
        if one is None or id(one) in seen:
            continue
        seen.add(id(one))
        yield one
        waiting += [one.__cause__, one.__context__]


@contextmanager
def naming_full_disk(folder: Path, what: str) -> Iterator[None]:
    """Raise one clear error when the block fails because the disk of ``folder`` is full.

    A stop (Ctrl-C, a termination) goes on as one where a library made an error of its own of it.

    Args:
        folder: where the block writes.
        what: what is written, for the message.

    Raises:
        DiskFullError: naming the folder, what is free there, and what to do.
    """
    try:
        yield
    except SicsrecError:
        raise
    except Exception as err:
        if not is_disk_full(err, folder):
            raise
        # Torch says of a file whose writing was stopped what it says of a full disk.
        stop = next((one for one in _came_from(err) if _is_stop(one)), None)
        if stop is not None:
            raise stop from None
        raise DiskFullError(
            f"no more can be written to {folder} ({what}): the disk is full or a quota is reached, "
            f"{_free_bytes(folder) / 1e6:,.1f} MB are free. What was finished is kept. Free space "
            "there (`sicsrec gc` lists what can go) or move the folder to a larger disk and set "
            f"SICSREC_HOME, then run the same command again. Cause: {type(err).__name__}: "
            f"{str(err).partition(chr(10))[0]}"
        ) from err


def _is_stop(error: BaseException) -> bool:
    return not isinstance(error, Exception | GeneratorExit | asyncio.CancelledError)


def _free_bytes(folder: Path) -> int:
    """Return what is free on the disk of ``folder``, or of the nearest folder above it."""
    return _usage(folder).free


def _usage(folder: Path) -> "shutil._ntuple_diskusage":
    return shutil.disk_usage(nearest_existing(folder))
