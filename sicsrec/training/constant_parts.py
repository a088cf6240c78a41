"""A memory-mapped file of arrays of unequal length, one per item, that is whole or not there.

::

    <name>.bin    the arrays one after the other, without padding
    <name>.npz    written last: whose they are, how long, what made them; without it the other
                  file is what a killed run left and is not used
"""

import logging
import os
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any
from zipfile import BadZipFile

import numpy as np
from numpy.typing import NDArray

from sicsrec.replacing import replaced

logger = logging.getLogger(__name__)


class ConstantParts:
    """Arrays [length, ...] by item index.

    Args:
        flat: [positions, ...], the arrays of all items one after the other.
        indices: [n] item indices, in the order of the arrays.
        lengths: [n] positions of each.
    """

    def __init__(
        self,
        flat: NDArray[np.generic],
        indices: NDArray[np.int32],
        lengths: NDArray[np.int64],
    ) -> None:
        self._flat = np.asarray(flat)
        self._row_of = np.full(int(indices.max()) + 1, -1, dtype=np.int64)
        self._row_of[indices] = np.arange(len(indices))
        self._lengths = lengths
        self._starts = np.concatenate([[0], np.cumsum(lengths)[:-1]]).astype(np.int64)

    def lengths_of(self, indices: NDArray[np.integer]) -> NDArray[np.int64]:
        """Return the length of some items' arrays."""
        return self._lengths[self._row_of[indices]]

    def get(self, indices: NDArray[np.integer]) -> tuple[NDArray[np.generic], NDArray[np.int64]]:
        """Return some items' arrays [items, length, ...], padded with 0, and their lengths."""
        rows = self._row_of[indices]
        lengths = self._lengths[rows]
        offsets = np.arange(lengths.max())
        values = self._flat.take(self._starts[rows][:, None] + offsets, axis=0, mode="clip")
        if lengths.min() < len(offsets):
            values[offsets >= lengths[:, None]] = 0
        return values, lengths


class PartsWriter:
    """Writes the two files; used in a ``with`` statement.

    Args:
        path: of the first file; the second lies beside it.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lengths: list[NDArray[np.int64]] = []
        self._dtype: np.dtype[Any] = np.dtype(np.float32)
        self._shape: tuple[int, ...] = ()
        self.n_bytes = 0
        """Bytes written so far."""

    def __enter__(self) -> "PartsWriter":
        """Remove what an earlier run left and open the file."""
        _index_path(self._path).unlink(missing_ok=True)
        self._file = self._path.open("wb")
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Close the file."""
        self._file.close()

    def add(self, values: NDArray[np.generic], lengths: NDArray[np.int64]) -> None:
        """Append the arrays of some items.

        Args:
            values: [items, length, ...], padded on the right.
            lengths: [items] how much of the second axis is not padding.
        """
        is_there = np.arange(values.shape[1]) < lengths[:, None]
        flat = np.ascontiguousarray(values[is_there])
        self._file.write(flat.data)
        self._dtype, self._shape = flat.dtype, flat.shape[1:]
        self._lengths.append(lengths)
        self.n_bytes += flat.nbytes

    def finish(self, indices: NDArray[np.int32], identity: str) -> ConstantParts:
        """Write the second file and return the arrays.

        Args:
            indices: [n] item indices, in the order of the arrays.
            identity: tells these arrays from those of other encoders.
        """
        self._file.flush()
        os.fsync(self._file.fileno())
        lengths = np.concatenate(self._lengths)
        with replaced(_index_path(self._path)) as file:
            np.savez(
                file,
                indices=indices,
                lengths=lengths,
                dtype=np.array(self._dtype.str),
                shape=np.array(self._shape, dtype=np.int64),
                identity=np.array(identity),
            )
        return _map(self._path, indices, lengths, self._dtype, self._shape)


def read_parts(path: Path, indices: NDArray[np.int32], identity: str) -> ConstantParts | None:
    """Return the arrays of a finished file, or None if there is none, or one of other items.

    A damaged file counts as none, for its content can be made anew.

    Args:
        path: of the first file.
        indices: [n] item indices expected, in the order of the arrays.
        identity: expected as well.
    """
    index_path = _index_path(path)
    if not (path.is_file() and index_path.is_file()):
        return None
    try:
        # Opened here: of a damaged file numpy leaves it open.
        with index_path.open("rb") as file, np.load(file, allow_pickle=False) as index:
            content: Mapping[str, NDArray[Any]] = {name: index[name] for name in index.files}
    except (OSError, ValueError, EOFError, BadZipFile) as err:
        logger.warning("%s is damaged and made anew: %s", index_path, err)
        return None
    if str(content["identity"]) != identity or not np.array_equal(content["indices"], indices):
        return None
    lengths, shape = content["lengths"], tuple(content["shape"].tolist())
    dtype = np.dtype(str(content["dtype"]))
    n_bytes = int(lengths.sum()) * dtype.itemsize * int(np.prod(shape, dtype=np.int64))
    if path.stat().st_size != n_bytes:
        return None
    return _map(path, indices, lengths, dtype, shape)


def _index_path(path: Path) -> Path:
    return path.with_suffix(".npz")


def _map(
    path: Path,
    indices: NDArray[np.int32],
    lengths: NDArray[np.int64],
    dtype: np.dtype[Any],
    shape: tuple[int, ...],
) -> ConstantParts:
    flat = np.memmap(path, dtype=dtype, mode="r", shape=(int(lengths.sum()), *shape))
    return ConstantParts(flat, indices, lengths)
