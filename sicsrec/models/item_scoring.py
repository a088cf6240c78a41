"""What user vectors are compared with: item embeddings alone, or with their content beside them."""

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor, nn

from sicsrec.models.layers import norm2


class IdVectors(nn.Module):
    """v_i = norm2(e_i), the rule by which the paper trains, or v_i = e_i, by which it ranks.

    Here one of them does both: an embedding's norm says how often its item is watched, which a
    model that never saw it in training cannot weigh.

    Args:
        normalised: whether embeddings are scaled to unit length.
    """

    name = "id"

    def __init__(self, *, normalised: bool) -> None:
        super().__init__()
        self.normalised = normalised

    def forward(
        self, table: Float[Tensor, "items width"], content: Callable[[], Tensor]
    ) -> Float[Tensor, "items width"]:
        """Return v of the table's items; ``content``, which gives their c, is not called."""
        del content
        return norm2(table) if self.normalised else table


class IdAndContentVectors(nn.Module):
    """v_i = norm2(e_i) + w · c_i with a learned weight w; ours, the paper has none.

    An item that nobody has watched has an embedding that says nothing, but its content is like that
    of items that were watched, so it gets a place of its own in the ranking.

    Args:
        weight: the value w starts at.
    """

    name = "id_and_content"

    def __init__(self, weight: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.tensor(float(weight)))

    def forward(
        self, table: Float[Tensor, "items width"], content: Callable[[], Tensor]
    ) -> Float[Tensor, "items width"]:
        """Return v of the table's items; ``content`` gives their c."""
        return norm2(table) + self.weight * content()
