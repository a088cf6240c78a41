"""The three contrastive losses of stage 1 (arXiv 2510.10556, content modality semantic alignment).

All work on the *distinct* items of a batch, so an item that occurs twice can never be its own
negative. Masked entries are -inf before the softmax: they add 0 to its denominator (the reference
sets them to 0 before exp, which adds 1 each), and log-sum-exp does not overflow at small
temperatures.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn import functional as F


@dataclass(frozen=True)
class Remembered:
    """Vectors of items of earlier batches, none of which is an item of this batch."""

    vectors: Float[Tensor, "remembered width"]
    """Unit vectors without gradient."""
    negatives: Bool[Tensor, "rows remembered"]
    """Which of them are negatives of which row: of a pair, or of an item."""


def batch_negatives(
    anchors: Int[Tensor, " pairs"],
    positives: Int[Tensor, " pairs"],
    own_negatives: Bool[Tensor, "pairs items"],
    known_positives: Bool[Tensor, "pairs items"],
    twins: Bool[Tensor, "items items"] | None = None,
) -> Bool[Tensor, "pairs items"]:
    """Return which items of the batch are negatives of which pair.

    Negatives of a pair are the positives of all pairs of the batch and the items its judge called
    unrelated, except the anchor itself, every item known to be similar to it, and whatever cannot
    be told from the anchor or from the positive.

    Args:
        anchors: row of each pair's anchor among the batch's distinct items.
        positives: row of each pair's positive.
        own_negatives: items the judge called unrelated to the pair's anchor.
        known_positives: items that some pair of the training set joins with the anchor.
        twins: items whose content, the text or the cover in question, is the same.
    """
    n_items = own_negatives.shape[1]
    is_target = torch.zeros(n_items, dtype=torch.bool, device=anchors.device)
    is_target[positives] = True
    pairs = torch.arange(len(anchors), device=anchors.device)
    negatives = (is_target | own_negatives) & ~known_positives
    negatives[pairs, anchors] = False
    negatives[pairs, positives] = False
    if twins is not None:
        negatives &= ~(twins[anchors] | twins[positives])
    return negatives


def pair_contrast(
    vectors: Float[Tensor, "items width"],
    anchors: Int[Tensor, " pairs"],
    positives: Int[Tensor, " pairs"],
    negatives: Bool[Tensor, "pairs items"],
    present: Bool[Tensor, " items"],
    temperature: float,
    remembered: Remembered | None = None,
) -> Float[Tensor, ""] | None:
    r"""Return L_t2t (on texts) or L_v2v (on images), the InfoNCE loss of item pairs.

    .. math:: L = -\frac{1}{|B|} \sum_{(a, p) \in B} \log
        \frac{e^{z_a \cdot z_p / \tau}}{e^{z_a \cdot z_p / \tau} +
        \sum_{n \in N(a, p)} e^{z_a \cdot z_n / \tau}}

    B holds the pairs whose two items have the modality and that have at least one negative that
    has it; with no such pair there is no loss, None. The anchor's similarity with itself is not in
    the denominator (in the reference it is). Negatives out of earlier batches join N(a, p).

    Args:
        vectors: unit vectors of the batch's distinct items; rows of absent items are ignored.
        anchors: row of each pair's anchor.
        positives: row of each pair's positive.
        negatives: N(a, p), from :func:`batch_negatives`.
        present: whether an item has the modality.
        temperature: the paper's tau.
        remembered: negatives of each pair out of earlier batches.
    """
    counted = negatives & present
    has_any = counted.any(dim=1)
    if remembered is not None:
        has_any |= remembered.negatives.any(dim=1)
    usable = present[anchors] & present[positives] & has_any
    if not usable.any():
        return None
    # Absent rows may hold anything, NaN included, and NaN * 0 is NaN in the backward pass.
    safe = torch.where(present[:, None], vectors, vectors.new_zeros(()))
    rows, targets = anchors[usable], positives[usable]
    is_column = counted[usable].clone()
    is_column[torch.arange(len(rows), device=rows.device), targets] = True
    logits = _masked_logits(safe[rows], safe, is_column, temperature)
    if remembered is not None:
        further = remembered.negatives[usable]
        further_logits = _masked_logits(safe[rows], remembered.vectors, further, temperature)
        logits = torch.cat([logits, further_logits], dim=1)
    return F.cross_entropy(logits, targets)


def _masked_logits(
    rows: Float[Tensor, "rows width"],
    columns: Float[Tensor, "columns width"],
    is_column: Bool[Tensor, "rows columns"],
    temperature: float,
) -> Float[Tensor, "rows columns"]:
    return (rows @ columns.T / temperature).masked_fill(~is_column, float("-inf"))


def cross_modal_contrast(
    text_vectors: Float[Tensor, "items width"],
    image_vectors: Float[Tensor, "items width"],
    same: Bool[Tensor, "items items"],
    present: Bool[Tensor, " items"],
    temperature: float,
    remembered: tuple[Remembered, Remembered] | None = None,
) -> Float[Tensor, ""] | None:
    r"""Return L_t2v, the symmetric CLIP loss between an item's own text and image.

    .. math:: L = -\frac{1}{2|B|} \sum_{i \in B} \left(
        \log \frac{e^{t_i \cdot v_i / \tau}}{\sum_{j \in B} e^{t_i \cdot v_j / \tau}} +
        \log \frac{e^{t_i \cdot v_i / \tau}}{\sum_{j \in B} e^{t_j \cdot v_i / \tau}} \right)

    B holds the items that have both modalities. Of rows that are the same only j = i stays in the
    sums. Images out of earlier batches join the first sum, texts the second. Where no item has a
    negative there is no loss, None.

    Args:
        text_vectors: unit vectors t; rows of absent items are ignored.
        image_vectors: unit vectors v; rows of absent items are ignored.
        same: whether two rows are the same item, or have the same text or the same cover.
        present: whether an item has both modalities.
        temperature: the paper's tau.
        remembered: (texts, images) of earlier batches; negatives of each row.
    """
    own = torch.eye(len(same), dtype=torch.bool, device=same.device)[present][:, present]
    is_column = ~same[present][:, present] | own
    has_any = (is_column & ~own).any()
    if remembered is not None:
        has_any |= any(bool(entry.negatives[present].any()) for entry in remembered)
    if not has_any:
        return None
    texts, images = text_vectors[present], image_vectors[present]
    by_text = _masked_logits(texts, images, is_column, temperature)
    by_image = _masked_logits(images, texts, is_column.T, temperature)
    if remembered is not None:
        old_texts, old_images = remembered
        further = old_images.negatives[present]
        further_images = _masked_logits(texts, old_images.vectors, further, temperature)
        by_text = torch.cat([by_text, further_images], dim=1)
        further = old_texts.negatives[present]
        further_texts = _masked_logits(images, old_texts.vectors, further, temperature)
        by_image = torch.cat([by_image, further_texts], dim=1)
    targets = torch.arange(len(texts), device=texts.device)
    first = F.cross_entropy(by_text, targets)
    return (first + F.cross_entropy(by_image, targets)) / 2
