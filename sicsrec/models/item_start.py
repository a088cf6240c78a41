"""What item embeddings are before training: random numbers, or what the items' content says.

Harte et al., *Leveraging Large Language Models for Sequential Recommendation* (RecSys 2023), start
a sequence model's item embeddings at the principal components of vectors of the items' texts. Here
the vectors of all modalities are joined first.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from sicsrec.data.vectors import ItemVectors, unit_rows
from sicsrec.errors import DataError

_ROWS_AT_A_TIME = 65_536
_NO_SPREAD = 1e-12
"""Variance of vectors of unit length that is a matter of rounding."""
_LITTLE_SPREAD = 1e-6
"""Share of the largest variance below which a direction is one too, and must not be made wide."""


@dataclass(frozen=True)
class ContentStart:
    """Where item embeddings start."""

    embeddings: NDArray[np.float32]
    """[N, D]; row r belongs to index r + 1."""
    has_content: NDArray[np.bool_]
    """[N]; items without any vector start at random numbers."""
    n_components: int
    """Directions that the embeddings are made of, at most D."""
    explained_share: float
    """Share of the vectors' variance that lies in these directions."""


def content_start(
    vectors: Sequence[ItemVectors],
    width: int,
    *,
    std: float,
    whitening: float,
    rng: np.random.Generator,
) -> ContentStart:
    """Return item embeddings made of the principal components of the items' vectors.

    Vectors are scaled to unit length, centred over the items that have the modality, and joined; a
    modality that an item lacks counts as its mean. Component k is divided by ``s_k ** whitening``,
    s_k being its standard deviation. A random rotation then spreads the components over all
    dimensions, which a Transformer deals out to its heads in their order. A vector of zeros counts
    as none.

    Args:
        vectors: of one catalogue, at least one modality.
        width: D.
        std: standard deviation of all numbers of the items that have content.
        whitening: 0 ... 1.
        rng: draws the rotation and the embeddings of items without content.

    Raises:
        DataError: if no two items have different vectors.
    """
    vectors = [replace(entry, present=np.any(entry.matrix, axis=1)) for entry in vectors]
    present: NDArray[np.bool_] = np.logical_or.reduce([entry.present for entry in vectors])
    means = [_mean(entry) for entry in vectors]
    covariance = sum(rows.T @ rows for _, rows in _joined(vectors, means)) / max(1, present.sum())
    variances, directions = np.linalg.eigh(covariance)
    kept = np.argsort(variances)[::-1][:width]
    kept = kept[variances[kept] > max(_NO_SPREAD, _LITTLE_SPREAD * variances[kept[0]])]
    if not len(kept):
        raise DataError(
            f"{present.sum()} of {len(present)} items have vectors, and no two of them differ, so "
            "item embeddings cannot start at them; set pretrain_id.item_start.kind: random"
        )
    # An eigenvector's sign is the library's choice; this one is not.
    largest = np.abs(directions[:, kept]).argmax(axis=0)
    components = directions[:, kept] * np.sign(directions[largest, kept])
    components /= variances[kept] ** (0.5 * whitening)
    components *= std / np.sqrt((variances[kept] ** (1.0 - whitening)).sum() / width)
    rotation, _ = np.linalg.qr(rng.standard_normal((width, width)))
    projection = components @ rotation[: len(kept)]
    embeddings = np.empty((len(present), width), dtype=np.float32)
    for first, rows in _joined(vectors, means):
        embeddings[first : first + len(rows)] = rows @ projection
    embeddings[~present] = rng.normal(scale=std, size=(int((~present).sum()), width))
    share = float(variances[kept].sum() / variances.sum())
    return ContentStart(embeddings, present, len(kept), share)


def _mean(entry: ItemVectors) -> NDArray[np.float64]:
    """Return the mean of the vectors, each at unit length, of the items that have one."""
    total = np.zeros(entry.matrix.shape[1])
    for first in range(0, len(entry.present), _ROWS_AT_A_TIME):
        # Rows of items without the modality are 0.
        total += unit_rows(entry.matrix[first : first + _ROWS_AT_A_TIME]).sum(axis=0, dtype=float)
    return total / max(1, entry.present.sum())


def _joined(
    vectors: Sequence[ItemVectors], means: Sequence[NDArray[np.float64]]
) -> Iterator[tuple[int, NDArray[np.float64]]]:
    """Yield the first row and the centred vectors of all modalities, some items at a time."""
    for first in range(0, len(vectors[0].present), _ROWS_AT_A_TIME):
        rows = slice(first, first + _ROWS_AT_A_TIME)
        parts = [
            (unit_rows(entry.matrix[rows]) - mean) * entry.present[rows, None]
            for entry, mean in zip(vectors, means, strict=True)
        ]
        yield first, np.concatenate(parts, axis=1)
