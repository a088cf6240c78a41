"""The three contrastive losses of stage 1 (arXiv 2510.10556, content modality semantic alignment).

All work on the *distinct* items of a batch, so an item that occurs twice can never be its own
negative. Masked entries are -inf before the softmax: they add 0 to its denominator (the reference
sets them to 0 before exp, which adds 1 each), and log-sum-exp does not overflow at small
temperatures.
"""

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn import functional


def batch_negatives(
    anchors: Int[Tensor, " pairs"],
    positives: Int[Tensor, " pairs"],
    own_negatives: Bool[Tensor, "pairs items"],
    known_positives: Bool[Tensor, "pairs items"],
) -> Bool[Tensor, "pairs items"]:
    """Return which items of the batch are negatives of which pair.

    Negatives of a pair are the positives of all pairs of the batch and the items its judge called
    unrelated, except the anchor itself and every item known to be similar to it.

    Args:
        anchors: row of each pair's anchor among the batch's distinct items.
        positives: row of each pair's positive.
        own_negatives: items the judge called unrelated to the pair's anchor.
        known_positives: items that some pair of the training set joins with the anchor.
    """
    n_items = own_negatives.shape[1]
    is_target = torch.zeros(n_items, dtype=torch.bool, device=anchors.device)
    is_target[positives] = True
    pairs = torch.arange(len(anchors), device=anchors.device)
    negatives = (is_target | own_negatives) & ~known_positives
    negatives[pairs, anchors] = False
    negatives[pairs, positives] = False
    return negatives


def pair_contrast(
    vectors: Float[Tensor, "items width"],
    anchors: Int[Tensor, " pairs"],
    positives: Int[Tensor, " pairs"],
    negatives: Bool[Tensor, "pairs items"],
    present: Bool[Tensor, " items"],
    temperature: float,
) -> Float[Tensor, ""]:
    r"""Return L_t2t (on texts) or L_v2v (on images), the InfoNCE loss of item pairs.

    .. math:: L = -\frac{1}{|B|} \sum_{(a, p) \in B} \log
        \frac{e^{z_a \cdot z_p / \tau}}{e^{z_a \cdot z_p / \tau} +
        \sum_{n \in N(a, p)} e^{z_a \cdot z_n / \tau}}

    B holds the pairs whose two items have the modality and that have at least one negative that
    has it; with no such pair the loss is 0. The anchor's similarity with itself is not in the
    denominator (in the reference it is).

    Args:
        vectors: unit vectors of the batch's distinct items; rows of absent items are ignored.
        anchors: row of each pair's anchor.
        positives: row of each pair's positive.
        negatives: N(a, p), from :func:`batch_negatives`.
        present: whether an item has the modality.
        temperature: the paper's tau.
    """
    counted = negatives & present
    usable = present[anchors] & present[positives] & counted.any(dim=1)
    if not usable.any():
        return vectors.new_zeros(())
    # Absent rows may hold anything, NaN included, and NaN * 0 is NaN in the backward pass.
    safe = torch.where(present[:, None], vectors, vectors.new_zeros(()))
    rows, targets = anchors[usable], positives[usable]
    logits = safe[rows] @ safe.T / temperature
    is_column = counted[usable].clone()
    is_column[torch.arange(len(rows), device=rows.device), targets] = True
    logits = logits.masked_fill(~is_column, float("-inf"))
    return functional.cross_entropy(logits, targets)


def cross_modal_contrast(
    text_vectors: Float[Tensor, "items width"],
    image_vectors: Float[Tensor, "items width"],
    item_ids: Int[Tensor, " items"],
    present: Bool[Tensor, " items"],
    temperature: float,
) -> Float[Tensor, ""]:
    r"""Return L_t2v, the symmetric CLIP loss between an item's own text and image.

    .. math:: L = -\frac{1}{2|B|} \sum_{i \in B} \left(
        \log \frac{e^{t_i \cdot v_i / \tau}}{\sum_{j \in B} e^{t_i \cdot v_j / \tau}} +
        \log \frac{e^{t_i \cdot v_i / \tau}}{\sum_{j \in B} e^{t_j \cdot v_i / \tau}} \right)

    B holds the items that have both modalities; with fewer than two the loss is 0. Of rows with
    the same id only j = i stays in the sums.

    Args:
        text_vectors: unit vectors t; rows of absent items are ignored.
        image_vectors: unit vectors v; rows of absent items are ignored.
        item_ids: equal numbers mark the same item.
        present: whether an item has both modalities.
        temperature: the paper's tau.
    """
    if len(torch.unique(item_ids[present])) < 2:
        return text_vectors.new_zeros(())
    texts, images, ids = text_vectors[present], image_vectors[present], item_ids[present]
    own = torch.eye(len(ids), dtype=torch.bool, device=ids.device)
    is_duplicate = (ids[:, None] == ids[None, :]) & ~own
    logits = (texts @ images.T / temperature).masked_fill(is_duplicate, float("-inf"))
    targets = torch.arange(len(ids), device=ids.device)
    by_text = functional.cross_entropy(logits, targets)
    by_image = functional.cross_entropy(logits.T, targets)
    return (by_text + by_image) / 2
