"""The losses of stage 2: next item, content-aware contrast."""

from collections.abc import Callable

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from sicsrec.models.blocked import BlockedCrossEntropy

MAX_LOGITS = 1 << 26
"""Most logits held at once (256 MiB in float32); more are worked off in blocks."""
BLOCK_NUMBERS = 1 << 23
"""Logits and item vectors of a block, about (32 MiB in float32). Larger ones are no faster, and
malloc returns them to the system block by block."""


def _as_they_are(item_vectors: Tensor) -> Tensor:
    return item_vectors


def next_item_cross_entropy(
    user_vectors: Float[Tensor, "targets width"],
    item_vectors: Float[Tensor, "items width"],
    targets: Int[Tensor, " targets"],
    max_logits: int = MAX_LOGITS,
    n_padding: int = 0,
    prepare: Callable[[Tensor], Tensor] = _as_they_are,
) -> Float[Tensor, ""]:
    """Softmax cross entropy over all items, the mean over the targets.

    ``-mean_t log( exp(u_t · v_target(t)) / Σ_i exp(u_t · v_i) )``, i over all items, padding not
    among them. When targets x items exceeds ``max_logits`` the items are worked off in blocks that
    are prepared and whose logits are computed again in the backward pass, so no more than a block
    is ever held.

    Args:
        user_vectors: u, any scale; temperatures are applied by the caller.
        item_vectors: row r belongs to item index r + 1 - ``n_padding``.
        targets: item indices 1..N.
        max_logits: most logits held at once.
        n_padding: first rows of ``item_vectors`` that are no items. Giving the whole table saves
            the copy that the gradient of a part of it takes.
        prepare: makes v of rows of ``item_vectors``, row by row and with gradients for these alone;
            random numbers are welcome. Without it v are the item vectors.

    Returns:
        The loss.
    """
    n_targets, n_items = len(user_vectors), len(item_vectors) - n_padding
    if n_targets * n_items <= max_logits:
        vectors = prepare(item_vectors[n_padding:])
        return F.cross_entropy(user_vectors @ vectors.T, targets - 1)
    size = max(1, min(max_logits, BLOCK_NUMBERS) // (n_targets + user_vectors.shape[1]))
    rows = targets - 1 + n_padding
    # Its sums run over millions of items and its backward pass computes the logits again: both
    # have to be of full precision.
    with torch.autocast(user_vectors.device.type, enabled=False):
        total = BlockedCrossEntropy.apply(
            user_vectors.float(), item_vectors, rows, n_padding, size, prepare
        )
    return total / n_targets


def content_contrast(
    user_vectors: Float[Tensor, "targets width"],
    content_vectors: Float[Tensor, "all_targets width"],
    targets: Int[Tensor, " all_targets"],
    temperature: float,
    first: int = 0,
    max_logits: int = MAX_LOGITS,
) -> Float[Tensor, ""]:
    """The content-aware contrastive task L_con, the mean over the targets with a user vector.

    ``-mean_t log( exp(o_t · c_t / τ) / (exp(o_t · c_t / τ) + Σ_s exp(o_t · c_s / τ)) )``, s over
    the batch's targets that are another item than target t: a pair of one item is neither a
    negative nor adds exp(0) to the denominator.

    Args:
        user_vectors: o, of unit length; of all targets, or of some that follow each other.
        content_vectors: c, of unit length; row t is the content embedding of target t.
        targets: item indices, by which same-item pairs are told.
        temperature: τ.
        first: the target that the first user vector belongs to.
        max_logits: most logits held at once; of more, those of a part of the user vectors at a
            time, computed again in the backward pass.

    Returns:
        The loss; 0 when all targets are the same item.
    """
    own = torch.arange(first, first + len(user_vectors), device=targets.device)

    def summed(user: Tensor, own: Tensor) -> Tensor:
        logits = user @ content_vectors.T / temperature
        is_same_item = targets[own][:, None] == targets[None, :]
        is_own = own[:, None] == torch.arange(len(targets), device=targets.device)[None, :]
        logits = logits.masked_fill(is_same_item & ~is_own, float("-inf"))
        return F.cross_entropy(logits, own, reduction="sum")

    return mean_in_parts(summed, user_vectors, own, max_logits // len(targets))


def mean_in_parts(
    summed: Callable[[Tensor, Tensor], Tensor],
    user_vectors: Float[Tensor, "targets width"],
    own: Int[Tensor, " targets"],
    size: int,
) -> Float[Tensor, ""]:
    """Return the mean of a loss over targets, of which but so many are worked off at a time.

    Args:
        summed: gives the sum of the loss of some targets, without drawing random numbers; where
            there are several parts it is called again in the backward pass.
        user_vectors: split along the targets, as is ``own``.
        own: column of every target.
        size: targets at a time; at least one is.
    """
    size = max(1, size)
    if len(own) <= size:
        return summed(user_vectors, own) / len(own)
    total = user_vectors.new_zeros(())
    for user, part in zip(torch.split(user_vectors, size), torch.split(own, size), strict=True):
        total = total + checkpoint(
            summed, user, part, use_reentrant=False, preserve_rng_state=False
        )
    return total / len(own)
