"""What item embeddings are before training: random numbers, or what the items' content says.

Harte et al., *Leveraging Large Language Models for Sequential Recommendation* (RecSys 2023), start
a sequence model's item embeddings at the principal components of vectors of the items' texts. Here
the vectors of all modalities are joined first.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sicsrec.data.vectors import ItemVectors, unit_rows
from sicsrec.errors import DataError

_ROWS_AT_A_TIME = 65_536
_NO_SPREAD = 1e-10
"""Share of the largest variance below which a direction is a matter of rounding."""


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
    dimensions, which a Transformer deals out to its heads in their order.

    Args:
        vectors: of one catalogue, at least one modality.
        width: D.
        std: standard deviation of all numbers of the items that have content.
        whitening: 0 ... 1.
        rng: draws the rotation and the embeddings of items without content.

    Raises:
        DataError: if all items have the same vectors.
    """
    present: NDArray[np.bool_] = np.logical_or.reduce([entry.present for entry in vectors])
    means = [unit_rows(entry.matrix[entry.present]).mean(axis=0) for entry in vectors]
    total = sum(entry.matrix.shape[1] for entry in vectors)
    covariance = np.zeros((total, total))
    for _, rows in _joined(vectors, means):
        covariance += rows.T @ rows
    variances, directions = np.linalg.eigh(covariance / max(1, present.sum()))
    kept = np.argsort(variances)[::-1][:width]
    kept = kept[variances[kept] > _NO_SPREAD * max(variances.max(), 0.0)]
    if not len(kept) or not variances[kept[0]] > _NO_SPREAD:
        raise DataError(
            "the vectors of all items are the same, so item embeddings cannot start at them; set "
            "pretrain_id.item_start.kind: random"
        )
    rotation, _ = np.linalg.qr(rng.standard_normal((width, width)))
    spread = variances[kept] ** (0.5 * whitening)
    # An eigenvector's sign is the library's choice; this one is not.
    largest = np.abs(directions[:, kept]).argmax(axis=0)
    signs = np.sign(directions[largest, kept])
    projection = (directions[:, kept] * signs / spread) @ rotation[: len(kept)]
    embeddings = np.empty((len(present), width), dtype=np.float32)
    for first, rows in _joined(vectors, means):
        embeddings[first : first + len(rows)] = rows @ projection
    embeddings[present] *= std / embeddings[present].std()
    n_without = int((~present).sum())
    embeddings[~present] = rng.normal(scale=std, size=(n_without, width))
    share = float(variances[kept].sum() / variances.sum())
    return ContentStart(embeddings, present, len(kept), share)


def _joined(
    vectors: Sequence[ItemVectors], means: Sequence[NDArray[np.float32]]
) -> Iterator[tuple[int, NDArray[np.float64]]]:
    """Yield the first row and the centred vectors of all modalities, some items at a time."""
    for first in range(0, len(vectors[0].present), _ROWS_AT_A_TIME):
        rows = slice(first, first + _ROWS_AT_A_TIME)
        parts = [
            (unit_rows(entry.matrix[rows]) - mean) * entry.present[rows, None]
            for entry, mean in zip(vectors, means, strict=True)
        ]
        yield first, np.concatenate(parts, axis=1).astype(np.float64)
