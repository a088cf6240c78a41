"""The last block of a transformers model at its first position, where cls and pooler read.

The other positions of its output go nowhere, so only their keys and values are computed: about a
fifth of the block.
"""

from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn import functional as F


def run_first(
    block: nn.Module,
    hidden: Float[Tensor, "batch length width"],
    mask: Bool[Tensor, "batch length"] | None,
) -> Float[Tensor, "batch 1 width"]:
    """Return the block's output at the first position.

    Blocks are recognised by the names of their parts, those of BERT and its kin and those of ViT;
    the caller compares with the whole model, which tells whether they also mean the same.

    Args:
        block: a Transformer block.
        hidden: what it reads.
        mask: True where that is not padding; None where nothing is.

    Raises:
        AttributeError: if the block has other parts.
    """
    return (_run_pre_norm if hasattr(block, "layernorm_before") else _run_post_norm)(
        block, hidden, mask
    )


def _run_post_norm(block: Any, hidden: Tensor, mask: Tensor | None) -> Tensor:
    attention = block.attention.self
    rate = attention.dropout.p if attention.training else 0.0
    projections = (attention.query, attention.key, attention.value)
    context = _attend(projections, hidden, attention.num_attention_heads, mask, rate)
    attended = block.attention.output(context, hidden[:, :1])
    output: Tensor = block.output(block.intermediate(attended), attended)
    return output


def _run_pre_norm(block: Any, hidden: Tensor, mask: Tensor | None) -> Tensor:
    attention = block.attention
    rate = attention.attention_dropout if attention.training else 0.0
    projections = (attention.q_proj, attention.k_proj, attention.v_proj)
    normed = block.layernorm_before(hidden)
    context = _attend(projections, normed, attention.num_attention_heads, mask, rate)
    attended = block.dropout(attention.o_proj(context)) + hidden[:, :1]
    output: Tensor = block.dropout(block.mlp(block.layernorm_after(attended))) + attended
    return output


def _attend(
    projections: tuple[nn.Module, nn.Module, nn.Module],
    hidden: Float[Tensor, "batch length width"],
    n_heads: int,
    mask: Bool[Tensor, "batch length"] | None,
    rate: float,
) -> Float[Tensor, "batch 1 inner"]:
    read = (hidden[:, :1], hidden, hidden)
    query, key, value = (
        project(part).unflatten(-1, (n_heads, -1)).transpose(1, 2)
        for project, part in zip(projections, read, strict=True)
    )
    visible = None if mask is None else mask[:, None, None, :]
    context = F.scaled_dot_product_attention(query, key, value, attn_mask=visible, dropout_p=rate)
    return torch.flatten(context.transpose(1, 2), 2)
