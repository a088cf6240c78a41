"""Text encoders of the transformers library."""

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from sicsrec.config.encoders import TransformersEncoderConfig
from sicsrec.encoders.base import EncoderInputs, Prepare
from sicsrec.encoders.transformer import (
    ORIGIN,
    Pooling,
    TransformerEncoder,
    load_local_first,
    load_pretrained_model,
    load_saved_model,
)
from sicsrec.errors import EncoderError

_PROBE = ("a", "a longer text of several words", "two words")


class TextTransformerEncoder(TransformerEncoder):
    """A text model with its tokenizer.

    Args:
        model: the model without task heads.
        tokenizer: its tokenizer.
        pooling: how token vectors become one vector.
        max_tokens: longer texts are cut.
        origin: where the model came from.

    Raises:
        EncoderError: if the model reads fewer tokens, or has no such pooling.
    """

    kind = "transformers_text"
    modality = "text"

    def __init__(
        self,
        model: nn.Module,
        tokenizer: PreTrainedTokenizerBase,
        pooling: Pooling,
        max_tokens: int,
        origin: dict[str, Any],
    ) -> None:
        super().__init__(model, pooling, origin)
        text_config = getattr(model.config, "text_config", model.config)
        limit = getattr(text_config, "max_position_embeddings", None)
        # XLNet says -1 where there is no limit.
        n_most = max_tokens
        if isinstance(limit, int) and limit > 0:
            n_most = limit - _positions_before_text(model)
        if max_tokens > n_most:
            raise EncoderError(
                f"encoder {self.name} reads at most {n_most} tokens, max_tokens is {max_tokens}"
            )
        # Inputs are cut to a batch's longest text, which only works with padding on the right.
        tokenizer.padding_side = "right"
        if tokenizer.pad_token is None:
            tokenizer.pad_token = tokenizer.eos_token
        self.tokenizer = tokenizer
        self.max_tokens = max_tokens
        # SigLIP pools at its last position, padding or not, and was trained without a mask on texts
        # of full width: a batch's longest text must not decide where that position lies.
        reads_padding = str(getattr(text_config, "model_type", "")).startswith("siglip")
        self._width = limit if reads_padding else None
        self._probe(_PROBE, ("many words " * max_tokens, "some words"))

    @classmethod
    def build(cls, config: TransformersEncoderConfig, seed: int) -> "TextTransformerEncoder":
        """Load a pretrained model.

        Raises:
            EncoderError: if it cannot be loaded.
        """
        del seed
        model, origin = load_pretrained_model(config)
        tokenizer = load_local_first("tokenizer", AutoTokenizer.from_pretrained, config)
        return cls(model, tokenizer, config.pooling, config.max_tokens, origin)

    def preparer(self) -> Prepare:
        """See :meth:`ItemEncoder.preparer`; ``values`` are token ids [batch, length]."""
        return partial(_prepare_texts, self.tokenizer, self.max_tokens, self._width)

    def _run(self, inputs: EncoderInputs) -> Any:
        mask = inputs.mask
        # Some models count positions by what is not the padding token, so padding must be it.
        # Of texts of full width (SigLIP) nothing is masked.
        ids = inputs.values.masked_fill(~mask, self.tokenizer.pad_token_id)
        call: Any = self.model.get_text_features if self.has_two_towers else self.model
        return call(input_ids=ids, attention_mask=mask.to(torch.int64))

    def _stand_in(self, states: EncoderInputs) -> EncoderInputs:
        """See :meth:`TransformerEncoder._stand_in`.

        Of the tokens themselves at most the closing one matters above the last block: CLIP pools
        where it finds it first, or where the greatest id is.
        """
        known = self._example.values[0].tolist()
        ids = torch.full(states.values.shape[:2], known[0], device=states.lengths.device)
        ends = (states.lengths - 1).clamp(min=0)  # a text may be empty
        return EncoderInputs(ids.scatter(1, ends[:, None], known[-1]), states.lengths)

    def describe(self) -> dict[str, Any]:
        """See :meth:`ItemEncoder.describe`."""
        return {**super().describe(), "preprocessing": {"max_tokens": self.max_tokens}}

    def save(self, folder: Path) -> None:
        """See :meth:`ItemEncoder.save`."""
        self.model.save_pretrained(folder)  # type: ignore[operator]
        self.tokenizer.save_pretrained(folder)

    @classmethod
    def load(cls, folder: Path, description: dict[str, Any]) -> "TextTransformerEncoder":
        """See :meth:`ItemEncoder.load`."""
        model = load_saved_model(folder)
        try:
            tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
        except (OSError, ValueError) as err:
            raise EncoderError(f"cannot read the tokenizer in {folder}: {err}") from err
        origin = {key: description[key] for key in ORIGIN}
        max_tokens = description["preprocessing"]["max_tokens"]
        return cls(model, tokenizer, description["pooling"], max_tokens, origin)


def _prepare_texts(
    tokenizer: PreTrainedTokenizerBase, max_tokens: int, width: int | None, items: Sequence[str]
) -> EncoderInputs:
    """Tokenise texts; with a ``width`` padding up to it is part of every text."""
    encoded = tokenizer(
        list(items),
        padding="longest",
        truncation=True,
        max_length=max_tokens,
        return_tensors="pt",
        # Some tokenizers give none unless asked.
        return_attention_mask=True,
    )
    ids, lengths = encoded["input_ids"], encoded["attention_mask"].sum(dim=1)
    if width is None:
        return EncoderInputs(ids, lengths)
    padded = F.pad(ids, (0, width - ids.shape[1]), value=tokenizer.pad_token_id)
    return EncoderInputs(padded, torch.full_like(lengths, width))


def _positions_before_text(model: nn.Module) -> int:
    """Return how many positions no token of a text has: RoBERTa counts from behind padding's."""
    for name, module in model.named_modules():
        if name.endswith("position_embeddings") and isinstance(module, nn.Embedding):
            return 0 if module.padding_idx is None else module.padding_idx + 1
    return 0
