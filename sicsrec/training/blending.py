"""Fits the weights of a blend on validation targets, by maximum likelihood.

The model is a softmax over all items whose logits are linear in the weights, so the negative
log-likelihood is convex and Newton's method finds its minimum in a few steps::

    L(w) = Σ_u log Σ_i exp(w · f(u, i)) - w · f(u, target(u)) + r/2 Σ_j (s_j w_j)²

The ridge keeps weights finite where the data would drive them off, such as that of ``watched``
where nobody ever watches twice; s_j is the standard deviation of feature j over the items, so the
units of features do not matter. A blend has about twenty weights and validation thousands of
targets, so hardly anything can be learned by heart; its validation figures are those of the data it
was fitted on all the same.
"""

import logging
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int
from numpy.typing import NDArray
from torch import Tensor

from sicsrec.errors import TrainingDivergedError
from sicsrec.evaluation.ranking import RankingSet
from sicsrec.models.blend import Blend

logger = logging.getLogger(__name__)

MAX_VALUES = 1 << 27
"""Most feature values kept for all steps (512 MiB in float32)."""
MAX_STEPS = 30
RIDGE = 1.0
"""r."""
BLOCK_USERS = 256
FEWEST_USERS = 1024
"""As many users are fitted on whatever the catalogue, where there are as many; of more, those whose
values are :data:`MAX_VALUES`."""

_ENOUGH = 1e-6
"""Newton's decrement, in nats per user, below which the minimum counts as found."""
_ROUNDING = 1e-6
"""Deviation, as a share of the values, up to which features of float32 count as equal."""


@dataclass(frozen=True)
class BlendFit:
    """How a fit ended."""

    weights: dict[str, float]
    n_users: int
    """Users it was fitted on."""
    n_steps: int
    loss: float | None
    """Mean negative log-likelihood of a target, in nats; None where nothing was fitted."""


@dataclass(frozen=True)
class _Block:
    features: Float[Tensor, "users items features"]
    """Less their mean over the items of each user."""
    means: Float[Tensor, "users features"]
    """What the features are less by."""
    columns: Int[Tensor, " users"]
    """Column of each user's target."""

    def logits(self, weights: Float[Tensor, " features"]) -> Float[Tensor, "users items"]:
        """Return w · f of every item, where the features are."""
        return self.features @ weights.to(self.features)


def fit_blend(blend: Blend, valid: RankingSet, seed: int) -> BlendFit:
    """Fit the weights of a blend; the blend itself stays as it is.

    Args:
        blend: gives the features.
        valid: users with their training histories as context and their validation targets.
        seed: draws the users when there are more than memory allows.

    Returns:
        The weights, by feature.

    Raises:
        TrainingDivergedError: if a feature or the likelihood is not finite.
    """
    chosen = np.flatnonzero(valid.histories.lengths > 0)
    if not len(chosen):
        return _unfitted(blend)
    names = [name for name, _ in blend.features(valid.histories.take(chosen[:1]))]
    n_most = max(FEWEST_USERS, MAX_VALUES // (blend.n_items * len(names)))
    if len(chosen) > n_most:
        chosen = np.sort(np.random.default_rng(seed).choice(chosen, n_most, replace=False))
    blocks = _Blocks(blend, valid, chosen, len(names))
    deviations = _deviations(blocks, len(names))
    weights = torch.zeros(len(names), dtype=torch.float64)
    loss = _loss(blocks, weights, deviations)
    n_steps = 0
    while n_steps < MAX_STEPS:
        n_steps += 1
        gradient, hessian = _derivatives(blocks, weights, deviations)
        direction = torch.linalg.solve(hessian, -gradient)
        decrement = -float(gradient @ direction)
        weights, found = _line_search(blocks, weights, direction, loss, decrement, deviations)
        is_done = decrement < _ENOUGH * len(chosen) or found >= loss
        loss = found
        if is_done:
            break
    if not (np.isfinite(loss) and bool(torch.isfinite(weights).all())):
        raise TrainingDivergedError(
            "blend: the likelihood is not finite; look for broken values among the models' scores"
        )
    mean_loss = loss / len(chosen)
    logger.info("blend: %d users, %d steps, %.4f nats", len(chosen), n_steps, mean_loss)
    return BlendFit(
        dict(zip(names, weights.tolist(), strict=True)), len(chosen), n_steps, mean_loss
    )


def _unfitted(blend: Blend) -> BlendFit:
    """Return weights by which the blend ranks as the last of its models does."""
    logger.warning(
        "blend: no user with a validation target has a training history, so there is nothing to "
        "fit it on; it ranks as %s alone. With split.strategy: leave_one_out every user of three "
        "interactions has one",
        blend.models[-1].kind,
    )
    return BlendFit(blend.models[-1].own_weights(), n_users=0, n_steps=0, loss=None)


class _Blocks:
    """The users in blocks: kept where all of them fit, made anew by every pass where they do not.

    Args:
        blend: gives the features.
        valid: users and targets.
        chosen: rows of the users.
        n_features: of the blend.
    """

    def __init__(
        self, blend: Blend, valid: RankingSet, chosen: NDArray[np.intp], n_features: int
    ) -> None:
        self._blend = blend
        self._valid = valid
        of_user = blend.n_items * n_features
        # A pass holds a block up to three times.
        n_users = max(1, min(BLOCK_USERS, MAX_VALUES // (4 * of_user)))
        self._rows = np.array_split(chosen, -(-len(chosen) // n_users))
        self._kept = list(self._make()) if len(chosen) * of_user <= MAX_VALUES else None

    def __iter__(self) -> Iterator[_Block]:
        """Pass over all users."""
        return self._make() if self._kept is None else iter(self._kept)

    def _make(self) -> Iterator[_Block]:
        return (_make_block(self._blend, self._valid, rows) for rows in self._rows)


def _make_block(blend: Blend, valid: RankingSet, rows: np.ndarray) -> _Block:
    features = torch.stack(
        [feature for _, feature in blend.features(valid.histories.take(rows))], dim=-1
    )
    if features.device.type != "cuda":
        # The sums below are of float64, which not every accelerator has.
        features = features.cpu()
    # What all items share cancels out of the softmax. Left in, it would swamp in float32 what tells
    # them apart, and the covariances of cosines that all lie near 1 would be noise.
    means = features.mean(dim=1)
    features -= means[:, None]
    columns = torch.from_numpy(valid.targets[rows].astype(np.int64) - 1)
    return _Block(features, means, columns.to(features.device))


def _deviations(blocks: _Blocks, n_features: int) -> Float[Tensor, " features"]:
    """Return s, the root of the variance over the items, averaged over the users.

    It is 0 for features that rounding alone may have made unequal, such as cosines of vectors that
    are the same but for their last digits: weights fitted to that would be a million times the
    others' and, in sums of float32, swallow what these say.
    """
    total = torch.zeros(n_features, dtype=torch.float64)
    squares = torch.zeros(n_features, dtype=torch.float64)
    n_users = 0
    for block in blocks:
        total += block.features.var(dim=1, correction=0).sum(dim=0).double().cpu()
        squares += block.means.square().sum(dim=0).double().cpu()
        n_users += len(block.columns)
    deviations = (total / max(1, n_users)).sqrt()
    magnitudes = (squares / max(1, n_users)).sqrt()
    return torch.where(deviations > _ROUNDING * magnitudes, deviations, 0.0)


def _loss(
    blocks: _Blocks,
    weights: Float[Tensor, " features"],
    deviations: Float[Tensor, " features"],
) -> float:
    total = 0.5 * RIDGE * float((deviations * weights).square().sum())
    for block in blocks:
        logits = block.logits(weights)
        own = logits.gather(1, block.columns[:, None])[:, 0]
        total += float((logits.logsumexp(dim=1) - own).double().sum())
    return total


def _derivatives(
    blocks: _Blocks,
    weights: Float[Tensor, " features"],
    deviations: Float[Tensor, " features"],
) -> tuple[Float[Tensor, " features"], Float[Tensor, "features features"]]:
    """Return gradient E[f] - f(target) and Hessian Cov[f], summed over users, with the ridge."""
    # A feature that is the same for all items deviates by 0 and may take any weight: keep it at 0.
    ridge = torch.where(deviations > 0, RIDGE * deviations.square(), 1.0)
    gradient = ridge * weights
    hessian = torch.diag(ridge)
    for block in blocks:
        probabilities = block.logits(weights).softmax(dim=1)
        means = torch.einsum("un,unf->uf", probabilities, block.features)
        rows = torch.arange(len(block.columns), device=block.columns.device)
        gradient += (means - block.features[rows, block.columns]).double().sum(dim=0).cpu()
        weighted = (block.features * probabilities[:, :, None]).flatten(0, 1)
        hessian += (weighted.T @ block.features.flatten(0, 1) - means.T @ means).double().cpu()
    return gradient, hessian


def _line_search(
    blocks: _Blocks,
    weights: Float[Tensor, " features"],
    direction: Float[Tensor, " features"],
    loss: float,
    decrement: float,
    deviations: Float[Tensor, " features"],
) -> tuple[Float[Tensor, " features"], float]:
    """Halve the step until the loss falls by a fair part of what the decrement promises."""
    step = 1.0
    while step > 1e-4:
        candidate = weights + step * direction
        found = _loss(blocks, candidate, deviations)
        if found <= loss - 1e-4 * step * decrement:
            return candidate, found
        step /= 2
    return weights, loss
