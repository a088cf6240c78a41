"""The blocks all towers are made of: attention, feed-forward, post-norm layers, adapters."""

from typing import cast

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

LAYER_NORM_EPS = 1e-12
INITIAL_STD = 0.02
SHORTEST = 1e-12
"""Length up to which a vector counts as 0."""


def initialise(module: nn.Module) -> None:
    """Draw all weights of linear layers and embeddings from N(0, 0.02); biases 0, norms identity.

    To be used with ``module.apply(initialise)``.
    """
    if isinstance(module, nn.Linear | nn.Embedding):
        nn.init.normal_(module.weight, std=INITIAL_STD)
    if isinstance(module, nn.Linear) and module.bias is not None:
        nn.init.zeros_(module.bias)
    if isinstance(module, nn.LayerNorm):
        nn.init.ones_(module.weight)
        nn.init.zeros_(module.bias)


def norm2(x: Float[Tensor, "*batch width"]) -> Float[Tensor, "*batch width"]:
    """Scale vectors to unit length; a vector of 0 stays 0.

    ``functional.normalize`` gives the same vectors, but where one is 0 (all ReLUs before it are
    off, or dropout left nothing) it multiplies the gradient by 1e12.
    """
    length = torch.linalg.vector_norm(x, dim=-1, keepdim=True)
    return x / torch.where(length > SHORTEST, length, 1.0)


def causal_mask(
    segments: Int[Tensor, "rows length"],
) -> Bool[Tensor, "rows 1 length length"]:
    """Return which token (third axis) may read which (fourth): its own and earlier ones of its
    segment. Padding (segment 0) reads padding alone, so no row of the mask is empty.
    """
    length = segments.shape[1]
    same = segments[:, :, None] == segments[:, None, :]
    earlier = torch.ones(length, length, dtype=torch.bool, device=segments.device).tril()
    return (same & earlier)[:, None]


class Attention(nn.Module):
    """Multi-head attention: softmax(Q Kᵀ / √(D / heads)) V, then a linear layer.

    Args:
        width: D, of queries, keys, values and output.
        n_heads: heads; divides ``width``.
        dropout: of the attention weights.
    """

    def __init__(self, *, width: int, n_heads: int, dropout: float) -> None:
        super().__init__()
        self.n_heads = n_heads
        self.dropout = dropout
        self.query = nn.Linear(width, width)
        self.key_value = nn.Linear(width, 2 * width)
        self.output = nn.Linear(width, width)

    def forward(
        self,
        query: Float[Tensor, "rows length width"],
        key_value: Float[Tensor, "rows length width"],
        mask: Bool[Tensor, "rows 1 length length"],
    ) -> Float[Tensor, "rows length width"]:
        """Let every token of ``query`` read the tokens of ``key_value`` that ``mask`` allows."""
        q = self.query(query).unflatten(-1, (self.n_heads, -1)).transpose(1, 2)
        k, v = self.key_value(key_value).chunk(2, dim=-1)
        k = k.unflatten(-1, (self.n_heads, -1)).transpose(1, 2)
        v = v.unflatten(-1, (self.n_heads, -1)).transpose(1, 2)
        dropout = self.dropout if self.training else 0.0
        read = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, dropout_p=dropout)
        return self.output(read.transpose(1, 2).flatten(-2))


class FeedForward(nn.Module):
    """Linear(D → inner), GELU, Linear(inner → D).

    Args:
        width: D.
        inner_width: of the hidden layer.
    """

    def __init__(self, *, width: int, inner_width: int) -> None:
        super().__init__()
        self.inner = nn.Linear(width, inner_width)
        self.outer = nn.Linear(inner_width, width)

    def forward(self, x: Float[Tensor, "*batch width"]) -> Float[Tensor, "*batch width"]:
        """Apply the block to every token."""
        return self.outer(F.gelu(self.inner(x)))


class LowRankAdapter(nn.Module):
    """A low-rank residual x + B(A(x)); the identity until it is trained, because B starts at 0.

    Args:
        width: D.
        rank: inner width of A and B.
    """

    def __init__(self, *, width: int, rank: int) -> None:
        super().__init__()
        self.lora_a = nn.Linear(width, rank, bias=False)
        self.lora_b = nn.Linear(rank, width, bias=False)
        self.reset()

    def reset(self) -> None:
        """Draw A from N(0, 0.02) and set B to 0."""
        nn.init.normal_(self.lora_a.weight, std=INITIAL_STD)
        nn.init.zeros_(self.lora_b.weight)

    def forward(self, x: Float[Tensor, "*batch width"]) -> Float[Tensor, "*batch width"]:
        """Return x + B(A(x))."""
        return x + self.lora_b(self.lora_a(x))


class TransformerLayer(nn.Module):
    """A post-norm layer: x ← LN(x + Attn(x, y)); x ← LN(x + FF(x)).

    Self-attention reads y = x; cross-attention reads another sequence y.

    Args:
        width: D.
        inner_width: of the feed-forward block.
        n_heads: attention heads.
        dropout: of attention weights and of both blocks' outputs.
    """

    def __init__(self, *, width: int, inner_width: int, n_heads: int, dropout: float) -> None:
        super().__init__()
        self.attention = Attention(width=width, n_heads=n_heads, dropout=dropout)
        self.attention_adapter: nn.Module = nn.Identity()
        self.attention_norm = nn.LayerNorm(width, eps=LAYER_NORM_EPS)
        self.feed_forward = FeedForward(width=width, inner_width=inner_width)
        self.feed_forward_adapter: nn.Module = nn.Identity()
        self.feed_forward_norm = nn.LayerNorm(width, eps=LAYER_NORM_EPS)
        self.dropout = nn.Dropout(dropout)

    def add_adapters(self, rank: int) -> None:
        """Put a low-rank adapter behind the attention and one behind the feed-forward block."""
        width = self.attention.output.out_features
        self.attention_adapter = LowRankAdapter(width=width, rank=rank)
        self.feed_forward_adapter = LowRankAdapter(width=width, rank=rank)

    def forward(
        self,
        x: Float[Tensor, "rows length width"],
        key_value: Float[Tensor, "rows length width"],
        mask: Bool[Tensor, "rows 1 length length"],
    ) -> Float[Tensor, "rows length width"]:
        """Return the layer's output for ``x`` reading ``key_value``."""
        read = self.attention_adapter(self.attention(x, key_value, mask))
        x = self.attention_norm(x + self.dropout(read))
        changed = self.feed_forward_adapter(self.feed_forward(x))
        return self.feed_forward_norm(x + self.dropout(changed))


class Transformer(nn.Module):
    """A stack of self-attention layers over input embeddings with LayerNorm and dropout.

    Args:
        width: D.
        inner_width: of the feed-forward blocks.
        n_layers: layers.
        n_heads: attention heads of each layer.
        dropout: of the input, the attention weights and the blocks' outputs.
    """

    def __init__(
        self, *, width: int, inner_width: int, n_layers: int, n_heads: int, dropout: float
    ) -> None:
        super().__init__()
        self.input_norm = nn.LayerNorm(width, eps=LAYER_NORM_EPS)
        self.input_dropout = nn.Dropout(dropout)
        self.layers = nn.ModuleList(
            TransformerLayer(width=width, inner_width=inner_width, n_heads=n_heads, dropout=dropout)
            for _ in range(n_layers)
        )

    def add_adapters(self, rank: int) -> None:
        """Put low-rank adapters into every layer."""
        for layer in self.layers:
            cast(TransformerLayer, layer).add_adapters(rank)

    def forward(
        self,
        x: Float[Tensor, "rows length width"],
        mask: Bool[Tensor, "rows 1 length length"],
    ) -> Float[Tensor, "rows length width"]:
        """Return the hidden states H of the last layer."""
        x = self.input_dropout(self.input_norm(x))
        for layer in self.layers:
            x = layer(x, x, mask)
        return x
