"""Items to vectors: all at once in memory, or shard by shard on disk."""

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from sicsrec.config.encoders import Precision, VectorDtype
from sicsrec.encoders.base import ItemEncoder
from sicsrec.encoders.content import ItemContent
from sicsrec.encoders.precision import computing_in
from sicsrec.encoders.preparation import prepare_batches
from sicsrec.errors import EncoderError
from sicsrec.progress import NoProgress, Progress
from sicsrec.replacing import replaced

logger = logging.getLogger(__name__)

Vectors = NDArray[np.float32] | NDArray[np.float16]


@dataclass(frozen=True)
class EncodingSettings:
    """How items are encoded."""

    batch_size: int
    normalise: bool
    """Scale every vector to unit length."""
    dtype: VectorDtype = "float32"
    """Type of the numbers that come out."""
    precision: Precision = "float32"
    """What the encoder computes in."""
    n_workers: int = 0
    """Processes that read and prepare items; 0: this one does."""


class VectorShards:
    """Finished vectors on disk, in shards of equally many items.

    Args:
        folder: of the shards.
        modality: begins the names of the files.
        indices: [n] ascending item indices of all shards.
        shard_items: items per shard.
        width: width of the vectors.
        dtype: type of the numbers.
    """

    def __init__(
        self,
        folder: Path,
        modality: str,
        indices: NDArray[np.int32],
        shard_items: int,
        width: int,
        dtype: VectorDtype,
    ) -> None:
        self._folder = folder
        self.modality = modality
        self._width = width
        self._dtype = np.dtype(dtype)
        starts = range(0, len(indices), shard_items)
        self.parts = [indices[start : start + shard_items] for start in starts]
        """Item indices of each shard."""

    def is_finished(self, number: int) -> bool:
        """Return whether a shard is there; one that is, is whole, for it came by renaming."""
        path = self._path(number)
        if not path.is_file():
            return False
        found = np.load(path, mmap_mode="r", allow_pickle=False)
        expected = (len(self.parts[number]), self._width)
        return bool(found.shape == expected and found.dtype == self._dtype)

    def missing(self) -> list[int]:
        """Return the numbers of the shards that are not there yet."""
        missing = [number for number in range(len(self.parts)) if not self.is_finished(number)]
        if len(missing) < len(self.parts):
            logger.info(
                "%s: %d of %d shards were finished by a run that was cut off",
                self.modality,
                len(self.parts) - len(missing),
                len(self.parts),
            )
        return missing

    def write(self, number: int, vectors: Vectors) -> None:
        """Put a shard on disk, whole or not at all."""
        with replaced(self._path(number)) as file:
            np.save(file, vectors)

    def __iter__(self) -> Iterator[Vectors]:
        """Yield the vectors of every shard, in the order of the item index."""
        for number in range(len(self.parts)):
            yield np.load(self._path(number), allow_pickle=False)

    def _path(self, number: int) -> Path:
        return self._folder / f"{self.modality}-{number:05d}.npy"


def encode_content(
    encoder: ItemEncoder,
    content: ItemContent,
    *,
    batch_size: int,
    normalise: bool,
    progress: Progress | None = None,
) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
    """Encode every item that has the modality, in evaluation mode.

    Args:
        encoder: of the same modality.
        content: what to encode.
        batch_size: items in a batch.
        normalise: scale every vector to unit length.
        progress: shows how far it is.

    Returns:
        Ascending item indices [n] and their vectors [n, D].

    Raises:
        EncoderError: if a vector is not finite, or has no length and is to be normalised.
    """
    settings = EncodingSettings(batch_size, normalise)
    order = content.reading_order()
    vectors = np.empty((len(order), encoder.dim), dtype=np.float32)
    stage = (progress or NoProgress()).stage(f"encoding {content.modality}", len(order))
    with stage as advance:
        start = 0
        for encoded in _encode(encoder, content, _split(order, batch_size), settings):
            vectors[start : start + len(encoded)] = encoded
            start += len(encoded)
            advance(len(encoded))
    by_index = np.argsort(order)
    indices, vectors = order[by_index], vectors[by_index]
    return indices, _finish(vectors, indices, settings, encoder).astype(np.float32, copy=False)


def encode_shards(
    encoder: ItemEncoder,
    content: ItemContent,
    settings: EncodingSettings,
    *,
    shard_items: int,
    work: Path,
    progress: Progress,
    only: Sequence[int] | None = None,
) -> VectorShards:
    """Encode every item that has the modality and leave the vectors on disk.

    A shard is put there when it is finished; a run that was cut off goes on with the first one
    that is missing. Batches lie within shards, so what a shard holds does not depend on it.

    Args:
        encoder: of the same modality.
        content: what to encode.
        settings: how.
        shard_items: items per shard, which are what is held in memory.
        work: folder of the shards.
        progress: shows how far it is.
        only: numbers of the shards to make; None: all that are missing.

    Raises:
        EncoderError: if a vector is not finite, or has no length and is to be normalised.
    """
    shards = VectorShards(
        work, content.modality, content.indices, shard_items, encoder.dim, settings.dtype
    )
    missing = shards.missing() if only is None else only
    rank = np.empty(int(content.indices.max(initial=0)) + 1, dtype=np.int64)
    rank[content.reading_order()] = np.arange(len(content.indices))
    orders = {number: np.argsort(rank[shards.parts[number]]) for number in missing}
    batches = [
        batch
        for number in missing
        for batch in _split(shards.parts[number][orders[number]], settings.batch_size)
    ]
    encoded = _encode(encoder, content, batches, settings)
    n_left = sum(map(len, batches))
    with progress.stage(f"encoding {content.modality}", n_left) as advance:
        for number in missing:
            indices = shards.parts[number]
            vectors = np.empty((len(indices), encoder.dim), dtype=np.float32)
            start = 0
            while start < len(indices):
                some = next(encoded)
                vectors[orders[number][start : start + len(some)]] = some
                start += len(some)
                advance(len(some), f"shard {number + 1}/{len(shards.parts)}")
            shards.write(number, _finish(vectors, indices, settings, encoder))
    return shards


def _split(order: NDArray[np.int32], batch_size: int) -> list[NDArray[np.int32]]:
    return [order[start : start + batch_size] for start in range(0, len(order), batch_size)]


def _encode(
    encoder: ItemEncoder,
    content: ItemContent,
    batches: Sequence[NDArray[np.int32]],
    settings: EncodingSettings,
) -> Iterator[NDArray[np.float32]]:
    encoder.eval()
    device = next(encoder.parameters()).device
    prepared = prepare_batches(encoder.preparer(), content, batches, settings.n_workers)
    for inputs in prepared:
        with torch.inference_mode(), computing_in(settings.precision, device):
            vectors = encoder.encode(inputs.to(device))
        yield vectors.float().cpu().numpy()


def _finish(
    vectors: NDArray[np.float32],
    indices: NDArray[np.int32],
    settings: EncodingSettings,
    encoder: ItemEncoder,
) -> Vectors:
    """Check vectors, bring them to unit length if asked to, and convert them."""
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    bad = ~np.isfinite(lengths[:, 0]) | ((lengths[:, 0] == 0.0) & settings.normalise)
    if not bad.any() and settings.normalise:
        vectors = vectors / lengths
    if settings.dtype == "float16":
        bad |= np.abs(vectors).max(axis=1) > np.finfo(np.float16).max
    if bad.any():
        raise EncoderError(
            f"encoder {encoder.name} gives {int(bad.sum())} {encoder.modality} vectors that are "
            f"not finite, too large for encode_items.dtype = {settings.dtype} or without length, "
            f"e.g. of the item indices {indices[bad][:3].tolist()}"
        )
    return vectors.astype(settings.dtype, copy=False)
