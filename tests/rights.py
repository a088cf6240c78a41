"""Lets the rights of files count for root too, who may otherwise read and write all of them."""

import ctypes
import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import ParamSpec, TypeVar

import pytest

_P, _T = ParamSpec("_P"), TypeVar("_T")
_VERSION = 0x20080522
_PAST_RIGHTS = 1 << 1 | 1 << 2
"""CAP_DAC_OVERRIDE and CAP_DAC_READ_SEARCH, which let root past the rights of files."""


class _Header(ctypes.Structure):
    _fields_ = [("version", ctypes.c_uint32), ("pid", ctypes.c_int)]


class _Data(ctypes.Structure):
    _fields_ = [(name, ctypes.c_uint32) for name in ("effective", "permitted", "inheritable")]


def as_anybody(call: Callable[_P, _T], *arguments: _P.args, **named: _P.kwargs) -> _T:
    """Call a function in a thread that files and folders refuse what their rights do not grant."""
    if os.geteuid() != 0:
        return call(*arguments, **named)
    library = ctypes.CDLL(None)
    if not hasattr(library, "capset"):
        pytest.skip("root is refused nothing here")

    def give_up() -> None:
        header, data = _Header(_VERSION, 0), (_Data * 2)()
        assert library.capget(ctypes.byref(header), data) == 0
        for name in ("effective", "permitted"):
            setattr(data[0], name, getattr(data[0], name) & ~_PAST_RIGHTS)
        assert library.capset(ctypes.byref(header), data) == 0

    # Linux keeps for each thread what it may do, so the test itself stays what it is.
    with ThreadPoolExecutor(1, initializer=give_up) as pool:
        return pool.submit(call, *arguments, **named).result()


@contextmanager
def closed(path: Path, rights: int = 0) -> Iterator[None]:
    """Leave a folder or file these rights alone for as long as the block lasts."""
    before = path.stat().st_mode
    path.chmod(rights)
    try:
        yield
    finally:
        path.chmod(before)
