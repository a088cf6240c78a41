"""Lets the rights of files count for root too, who may otherwise read and write all of them."""

import ctypes
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

_VERSION = 0x20080522
_PAST_RIGHTS = 1 << 1 | 1 << 2
"""CAP_DAC_OVERRIDE and CAP_DAC_READ_SEARCH, which let root past the rights of files."""


class _Header(ctypes.Structure):
    _fields_ = [("version", ctypes.c_uint32), ("pid", ctypes.c_int)]


class _Data(ctypes.Structure):
    _fields_ = [(name, ctypes.c_uint32) for name in ("effective", "permitted", "inheritable")]


@contextmanager
def rights_count() -> Iterator[None]:
    """Let files and folders without a right refuse this thread, and those that it starts."""
    if os.geteuid() != 0:
        yield
        return
    library = ctypes.CDLL(None, use_errno=True)
    if not hasattr(library, "capset"):
        pytest.skip("as root nothing is refused here")
    header, data = _Header(_VERSION, 0), (_Data * 2)()
    assert library.capget(ctypes.byref(header), data) == 0
    before = data[0].effective
    try:
        data[0].effective = before & ~_PAST_RIGHTS
        assert library.capset(ctypes.byref(header), data) == 0
        yield
    finally:
        data[0].effective = before
        assert library.capset(ctypes.byref(header), data) == 0


@contextmanager
def closed(path: Path, rights: int = 0) -> Iterator[None]:
    """Leave a folder or file these rights alone, and let them count, as long as the block lasts."""
    before = path.stat().st_mode
    path.chmod(rights)
    try:
        with rights_count():
            yield
    finally:
        path.chmod(before)
