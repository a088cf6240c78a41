"""A model as ONNX: histories in, scores of all items out.

It is the model's own score, not a blend's: a blend counts transitions, which are a table and not a
network.
"""

import copy
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from sicsrec.errors import ConfigError
from sicsrec.models.base import SequenceModel, TokenBatch
from sicsrec.models.sicsrec import SICSRec

OPSET = 20


class HistoryScorer(nn.Module):
    """Scores padded histories; item vectors and content embeddings are tables.

    Args:
        model: in evaluation mode.
    """

    vectors: Float[Tensor, "items width"]
    content: Float[Tensor, "items_and_padding width"] | None

    def __init__(self, model: SequenceModel) -> None:
        super().__init__()
        self.model = model
        with torch.no_grad():
            self.register_buffer("vectors", model.item_vectors().detach().clone())
            content = None
            if isinstance(model, SICSRec):
                everything = torch.arange(model.n_items + 1, device=model.device)
                content = model.content_embedding(everything).detach()
            self.register_buffer("content", content)

    def forward(self, items: Int[Tensor, "users length"]) -> Float[Tensor, "users items"]:
        """Return the scores of all items; column j is item index j + 1.

        Args:
            items: item indices in time order, at most ``max_history_length``; shorter histories
                are padded with 0 at their end. No history may be empty.
        """
        positions = torch.arange(items.shape[1], device=items.device).expand_as(items)
        is_item = (items > 0).long()
        batch = TokenBatch(items, positions * is_item, is_item, torch.zeros_like(items))
        if isinstance(self.model, SICSRec) and self.content is not None:
            hidden = self.model.fuse(*self.model.tower_states(batch, self.content[items]))
        else:
            hidden = self.model.encode(batch)
        last = is_item.sum(dim=1) - 1
        user = hidden.gather(1, last[:, None, None].expand(-1, 1, hidden.shape[2]))[:, 0]
        return user @ self.vectors.T


def write_onnx(model: SequenceModel, path: Path) -> None:
    """Write a model as ONNX with the input ``items`` [users, length] and the output ``scores``.

    Raises:
        ConfigError: if the extra ``onnx`` is not installed.
    """
    try:
        import onnxscript  # noqa: F401
    except ImportError as err:
        raise ConfigError("ONNX needs pip install '.[onnx]'") from err
    example = torch.ones(2, min(3, model.max_history_length), dtype=torch.long)
    sizes: Any = {
        "items": {
            0: torch.export.Dim("users"),
            1: torch.export.Dim("length", max=model.max_history_length),
        }
    }
    program = torch.onnx.export(
        HistoryScorer(copy.deepcopy(model).cpu()).eval(),
        (example,),
        input_names=["items"],
        output_names=["scores"],
        dynamic_shapes=sizes,
        opset_version=OPSET,
        dynamo=True,
        verbose=False,
    )
    assert program is not None  # noqa: S101 - with dynamo there is one
    program.save(path)
