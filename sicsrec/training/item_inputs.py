"""The constant part of encoding, computed once per item and not once per pair and epoch.

While only the last block is trained, everything below it is a constant of the item; while the whole
encoder is trained, its tokens or pixels still are. Either lies in one memory-mapped file, item
after item without padding; beyond a bound nothing is kept and every batch is computed anew.
"""

import hashlib
import logging
import shutil
from pathlib import Path
from typing import Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

from sicsrec.artifacts import canonical_json
from sicsrec.config.encoders import Precision, VectorDtype
from sicsrec.encoders.base import EncoderInputs, ItemEncoder
from sicsrec.encoders.content import ItemContent
from sicsrec.encoders.identity import digest_weights
from sicsrec.encoders.precision import computing_in
from sicsrec.errors import ConfigError, EncoderError
from sicsrec.progress import Progress
from sicsrec.training.constant_parts import ConstantParts, PartsWriter, read_parts

logger = logging.getLogger(__name__)

_ITEMS_ASKED = 64
"""Items whose constant part is computed to estimate the size of all."""


@runtime_checkable
class ItemInputs(Protocol):
    """Encodes items while their encoder is trained."""

    @property
    def where(self) -> str:
        """Where the constant part lies: ``file`` or ``computed``."""
        ...

    def plan(self, indices: NDArray[np.integer], at_a_time: int) -> list[NDArray[np.intp]]:
        """Return which positions of ``indices`` are best encoded together."""
        ...

    def encode(self, indices: NDArray[np.integer]) -> Float[Tensor, "items width"]:
        """Return the vectors of some items, with gradients to the weights that move."""
        ...


class TabulatedInputs:
    """Keeps the constant part of all items.

    Args:
        encoder: computes the rest; whether that is its head or everything is settled here.
        parts: the constant parts.
        precision: what the encoder computes in.
    """

    where = "file"

    def __init__(
        self, encoder: ItemEncoder, parts: ConstantParts, precision: Precision = "float32"
    ) -> None:
        self._encode = encoder.head if encoder.trunk_is_constant else encoder.encode
        self._device = _device_of(encoder)
        self._parts = parts
        self._precision = precision

    def plan(self, indices: NDArray[np.integer], at_a_time: int) -> list[NDArray[np.intp]]:
        """See :meth:`ItemInputs.plan`; by length, so that little is spent on padding."""
        order = np.argsort(self._parts.lengths_of(indices), kind="stable")
        return np.array_split(order, max(1, -(-len(order) // at_a_time)))

    def encode(self, indices: NDArray[np.integer]) -> Float[Tensor, "items width"]:
        """See :meth:`ItemInputs.encode`."""
        values, lengths = self._parts.get(indices)
        inputs = EncoderInputs(torch.from_numpy(values), torch.from_numpy(lengths))
        inputs = inputs.to(self._device)
        if inputs.values.dtype == torch.float16:
            inputs = EncoderInputs(inputs.values.float(), inputs.lengths)
        with computing_in(self._precision, self._device):
            return self._encode(inputs).float()


class ComputedInputs:
    """Keeps nothing: items are read and prepared anew for every batch.

    Args:
        encoder: computes everything.
        content: gives texts or covers.
        precision: what the encoder computes in.
    """

    where = "computed"

    def __init__(
        self, encoder: ItemEncoder, content: ItemContent, precision: Precision = "float32"
    ) -> None:
        self._encoder = encoder
        self._content = content
        self._precision = precision

    def plan(self, indices: NDArray[np.integer], at_a_time: int) -> list[NDArray[np.intp]]:
        """See :meth:`ItemInputs.plan`."""
        return np.array_split(np.arange(len(indices)), max(1, -(-len(indices) // at_a_time)))

    def encode(self, indices: NDArray[np.integer]) -> Float[Tensor, "items width"]:
        """See :meth:`ItemInputs.encode`."""
        device = _device_of(self._encoder)
        inputs = self._encoder.prepare(self._content.get(indices))
        with computing_in(self._precision, device):
            return self._encoder.encode(inputs.to(device)).float()


def tabulate_inputs(
    encoder: ItemEncoder,
    content: ItemContent,
    *,
    batch_size: int,
    work: Path,
    progress: Progress,
    max_bytes: int,
    dtype: VectorDtype = "float32",
    precision: Precision = "float32",
) -> ItemInputs:
    """Compute the constant part of every item, if all of them together stay within bounds.

    A file that a killed run finished is used again; one that it left half-written is not.

    Args:
        encoder: with the weights that move already chosen.
        content: texts or covers of the items; at least one.
        batch_size: items computed at a time.
        work: folder of the file.
        progress: shows how far it is.
        max_bytes: more than so much is not kept.
        dtype: type in which hidden states and pixels are kept.
        precision: what the encoder computes in.

    Raises:
        ConfigError: if the file is within the bound but not within the free space of the disk.
    """
    order = content.reading_order()
    path = work / f"{content.modality}_inputs.bin"
    constant = _ConstantPart(encoder, content, dtype, precision)
    identity = constant.identity()
    kept = read_parts(path, order, identity)
    if kept is not None:
        logger.info("%s: using %s, finished by a run that was cut off", content.modality, path)
        return TabulatedInputs(encoder, kept, precision)
    estimate = _estimate_bytes(constant, order)
    logger.info(
        "%s: what is constant per item takes about %.1f MB on disk, at most %.0f MB are allowed",
        content.modality,
        estimate / 1e6,
        max_bytes / 1e6,
    )
    if estimate > max_bytes:
        return _give_up(path, encoder, content, precision, max_bytes)
    free = shutil.disk_usage(work).free
    if estimate > free:
        raise ConfigError(
            f"align_encoders.max_cache_bytes is {max_bytes}, so {estimate} bytes of "
            f"{content.modality} inputs would be kept in {work}, where {free} bytes are free; free "
            "some, or lower max_cache_bytes to compute them in every batch instead"
        )
    stage = progress.stage(f"reading {content.modality}", len(order))
    with stage as advance, PartsWriter(path) as writer:
        for start in range(0, len(order), batch_size):
            some = order[start : start + batch_size]
            writer.add(*constant.compute(some))
            if writer.n_bytes > max_bytes:
                return _give_up(path, encoder, content, precision, max_bytes)
            advance(len(some))
        parts = writer.finish(order, identity)
    return TabulatedInputs(encoder, parts, precision)


class _ConstantPart:
    """Computes what does not change in training, for a batch of items."""

    def __init__(
        self,
        encoder: ItemEncoder,
        content: ItemContent,
        dtype: VectorDtype,
        precision: Precision,
    ) -> None:
        self._encoder = encoder
        self._content = content
        self._dtype = np.dtype(dtype)
        self._precision = precision

    def identity(self) -> str:
        """Return a digest of all that the values depend on beside the items."""
        content = {
            "weights": digest_weights(self._encoder),
            "description": self._encoder.describe(),
            "trunk": self._encoder.trunk_is_constant,
            "dtype": self._dtype.name,
            "precision": self._precision,
            "device": _device_of(self._encoder).type,
        }
        return hashlib.sha256(canonical_json(content).encode()).hexdigest()

    def compute(self, indices: NDArray[np.int32]) -> tuple[NDArray[np.generic], NDArray[np.int64]]:
        """Return values [items, length, ...], padded, and lengths [items]."""
        inputs = self._encoder.prepare(self._content.get(indices))
        if self._encoder.trunk_is_constant:
            device = _device_of(self._encoder)
            with torch.no_grad(), computing_in(self._precision, device):
                inputs = self._encoder.trunk(inputs.to(device)).to("cpu")
        values = inputs.values
        if values.is_floating_point():
            return self._stored(values.float().numpy()), inputs.lengths.numpy()
        return values.numpy(), inputs.lengths.numpy()

    def _stored(self, values: NDArray[np.float32]) -> NDArray[np.floating]:
        largest = np.abs(values).max(initial=0.0)
        if np.finfo(self._dtype).max < largest < np.inf:
            raise EncoderError(
                f"encoder {self._encoder.name} gives values up to {largest:.3g} below its last "
                f"block, too large for align_encoders.cache_dtype = {self._dtype.name}: take "
                "float32"
            )
        return values.astype(self._dtype)


def _estimate_bytes(constant: _ConstantPart, order: NDArray[np.int32]) -> int:
    """Return the bytes of all constant parts, from some that are spread over the lengths."""
    asked = order[np.unique(np.linspace(0, len(order) - 1, _ITEMS_ASKED).astype(np.intp))]
    values, lengths = constant.compute(asked)
    bytes_per_position = values[0, 0].nbytes
    return int(lengths.mean() * bytes_per_position * len(order))


def _give_up(
    path: Path, encoder: ItemEncoder, content: ItemContent, precision: Precision, max_bytes: int
) -> ComputedInputs:
    path.unlink(missing_ok=True)
    logger.warning(
        "%s: more than align_encoders.max_cache_bytes = %d would be kept; every batch is computed "
        "from scratch instead, which is many times slower",
        content.modality,
        max_bytes,
    )
    return ComputedInputs(encoder, content, precision)


def _device_of(encoder: ItemEncoder) -> torch.device:
    return next(encoder.parameters()).device
