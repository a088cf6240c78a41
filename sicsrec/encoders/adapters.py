"""The small networks between encoders and losses."""

from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F


class LossAdapter(nn.Module):
    """Two layers from an encoder's vectors to the space of the contrastive losses.

    ``z = norm2(W_2 relu(W_1 x + b_1) + b_2)`` (paper: -> 128, ReLU, -> 64), used for the losses
    only. The reference creates its adapters and never gives them to the optimiser.

    Args:
        width: width of the encoder's vectors.
        hidden_width: inner width.
        output_width: width of z.
    """

    def __init__(self, width: int, hidden_width: int, output_width: int) -> None:
        super().__init__()
        self.inner = nn.Linear(width, hidden_width)
        self.outer = nn.Linear(hidden_width, output_width)

    def forward(self, vectors: Float[Tensor, "items width"]) -> Float[Tensor, "items output"]:
        """Return unit vectors z."""
        hidden = F.relu(self.inner(vectors))
        return F.normalize(self.outer(hidden), dim=-1)
