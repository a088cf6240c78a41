"""The constant part of encoding, computed once per item and not once per pair and epoch.

While only the last block is trained, everything below it is a constant of the item; while the whole
encoder is trained, its tokens or pixels still are. Either is kept, in memory or in a memory-mapped
file; beyond a bound nothing is kept and every batch is computed anew.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

from sicsrec.encoders.base import EncoderInputs, ItemEncoder
from sicsrec.encoders.content import ItemContent
from sicsrec.progress import Progress

MAX_MEMORY_BYTES = 1 << 30
"""Larger tables go to a memory-mapped file."""
MAX_FILE_BYTES = 32 << 30
"""Larger tables are not kept at all."""

_ITEMS_AT_A_TIME = 64


@runtime_checkable
class ItemInputs(Protocol):
    """Encodes items while their encoder is trained."""

    @property
    def where(self) -> str:
        """Where the constant part lies: ``memory``, ``file`` or ``computed``."""
        ...

    def encode(self, indices: NDArray[np.integer]) -> Float[Tensor, "items width"]:
        """Return the vectors of some items, with gradients to the weights that move."""
        ...


class TabulatedInputs:
    """Keeps the constant part of all items.

    Args:
        encoder: computes the rest.
        indices: [n] item indices.
        parts: [n] arrays [length, ...], the constant part of each of these items.
        where: where the arrays lie.
    """

    def __init__(
        self,
        encoder: ItemEncoder,
        indices: NDArray[np.int32],
        parts: Sequence[NDArray[np.generic]],
        where: str,
    ) -> None:
        self._encoder = encoder
        self._parts = dict(zip(indices.tolist(), parts, strict=True))
        self.where = where

    def encode(self, indices: NDArray[np.integer]) -> Float[Tensor, "items width"]:
        """See :meth:`ItemInputs.encode`."""
        parts = [self._parts[index] for index in indices.tolist()]
        # By length and some at a time: little is spent on padding, and it stays near the processor.
        order = np.argsort([len(part) for part in parts], kind="stable")
        chunks = np.array_split(order, -(-len(order) // _ITEMS_AT_A_TIME))
        encoded = torch.cat([self._encode_some([parts[row] for row in rows]) for rows in chunks])
        return encoded[torch.from_numpy(np.argsort(order)).to(encoded.device)]

    def _encode_some(self, parts: Sequence[NDArray[np.generic]]) -> Tensor:
        lengths = torch.tensor([len(part) for part in parts])
        shape = (len(parts), int(lengths.max()), *parts[0].shape[1:])
        values = np.zeros(shape, dtype=parts[0].dtype)
        for row, part in enumerate(parts):
            values[row, : len(part)] = part
        inputs = EncoderInputs(torch.from_numpy(values), lengths)
        encode = self._encoder.head if self._encoder.trunk_is_constant else self._encoder.encode
        return encode(inputs.to(_device_of(self._encoder)))


class ComputedInputs:
    """Keeps nothing: items are read and prepared anew for every batch.

    Args:
        encoder: computes everything.
        content: gives texts or covers.
    """

    where = "computed"

    def __init__(self, encoder: ItemEncoder, content: ItemContent) -> None:
        self._encoder = encoder
        self._content = content

    def encode(self, indices: NDArray[np.integer]) -> Float[Tensor, "items width"]:
        """See :meth:`ItemInputs.encode`."""
        inputs = self._encoder.prepare(self._content.get(indices))
        return self._encoder.encode(inputs.to(_device_of(self._encoder)))


def tabulate_inputs(
    encoder: ItemEncoder,
    content: ItemContent,
    *,
    batch_size: int,
    work: Path,
    progress: Progress,
    max_memory_bytes: int = MAX_MEMORY_BYTES,
    max_file_bytes: int = MAX_FILE_BYTES,
) -> ItemInputs:
    """Compute the constant part of every item, if all of them together stay within bounds.

    Args:
        encoder: with the weights that move already chosen.
        content: texts or covers of the items; at least one.
        batch_size: items computed at a time.
        work: folder for what is too large for memory.
        progress: shows how far it is.
        max_memory_bytes: more than so much goes to a file in ``work``.
        max_file_bytes: more than so much is not kept.
    """
    order = content.reading_order()
    # Items come by length, so the last are about the longest and the estimate errs upwards.
    estimate = len(order) * _constant_parts(encoder, content, order[-1:])[0].nbytes
    if estimate > max_file_bytes:
        return ComputedInputs(encoder, content)
    parts: list[NDArray[np.generic]] = []
    path = None if estimate <= max_memory_bytes else work / f"{content.modality}_inputs.bin"
    with progress.stage(f"reading {content.modality}", len(order)) as advance:
        for start in range(0, len(order), batch_size):
            computed = _constant_parts(encoder, content, order[start : start + batch_size])
            parts.extend(computed if path is None else _append(path, computed, is_first=not start))
            advance(len(computed))
    return TabulatedInputs(encoder, order, parts, "memory" if path is None else "file")


def _append(
    path: Path, parts: Sequence[NDArray[np.generic]], *, is_first: bool
) -> Iterator[NDArray[np.generic]]:
    """Move arrays to the end of a file and yield them as views of it."""
    with path.open("wb" if is_first else "ab") as file:
        offset = file.tell()
        for part in parts:
            file.write(part.tobytes())
    for part in parts:
        yield np.memmap(path, dtype=part.dtype, mode="r", offset=offset, shape=part.shape)
        offset += part.nbytes


def _constant_parts(
    encoder: ItemEncoder, content: ItemContent, indices: NDArray[np.int32]
) -> list[NDArray[np.generic]]:
    inputs = encoder.prepare(content.get(indices))
    if encoder.trunk_is_constant:
        with torch.no_grad():
            inputs = encoder.trunk(inputs.to(_device_of(encoder))).to("cpu")
    lengths = inputs.lengths.tolist()
    return [
        values[:length].numpy().copy()
        for values, length in zip(inputs.values, lengths, strict=True)
    ]


def _device_of(encoder: ItemEncoder) -> torch.device:
    return next(encoder.parameters()).device
