"""Causal language models of a few thousand weights with a character tokenizer, made on the spot."""

# ruff: noqa: S106 - the tokens are not secrets

from itertools import pairwise
from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

SPECIAL = ("<pad>", "<unk>", "<end>", "<user>", "<judge>")
LETTERS = [chr(code) for code in range(32, 127)] + ["\n"]
TEMPLATE = (
    "{% for message in messages %}<user>{{ message['content'] }}<end>{% endfor %}"
    "{% if add_generation_prompt %}<judge>{% endif %}"
)


def save_tokenizer(folder: Path, *more: str, template: str | None = TEMPLATE) -> dict[str, int]:
    """Write a tokenizer of single characters and whole words ``more``; return its vocabulary."""
    vocabulary = {token: number for number, token in enumerate([*SPECIAL, *LETTERS])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.normalizer = normalizers.Sequence([])
    tokenizer.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    tokenizer.decoder = decoders.Fuse()
    tokenizer.add_special_tokens(list(SPECIAL))
    tokenizer.add_tokens(list(more))
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", unk_token="<unk>", eos_token="<end>"
    )
    fast.chat_template = template
    fast.save_pretrained(folder)
    return fast.get_vocab()


def _config(n_tokens: int, width: int, **values: int) -> LlamaConfig:
    return LlamaConfig(
        vocab_size=n_tokens,
        hidden_size=width,
        intermediate_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        max_position_embeddings=values.get("max_position_embeddings", 4096),
        initializer_range=0.6,
        eos_token_id=SPECIAL.index("<end>"),
        pad_token_id=SPECIAL.index("<pad>"),
        bos_token_id=None,
    )


def save_random_model(folder: Path, **values: int) -> Path:
    """Write a model that says something else to every prompt, none of which is an answer."""
    n_tokens = max(save_tokenizer(folder).values()) + 1
    torch.manual_seed(3)
    LlamaForCausalLM(_config(n_tokens, 16, **values)).save_pretrained(folder)
    return folder


def save_scripted_model(folder: Path, *words: str) -> Path:
    """Write a model that says these words, each a token, to any prompt, and ends.

    Its one layer adds nothing, so the next token depends on the last alone: a table.
    """
    vocabulary = save_tokenizer(folder, *words)
    n_tokens = max(vocabulary.values()) + 1
    width = n_tokens + n_tokens % 4
    width += -width % 4
    model = LlamaForCausalLM(_config(n_tokens, width))
    chain = ["<judge>", *words, "<end>"]
    with torch.no_grad():
        for layer in model.model.layers:
            layer.self_attn.o_proj.weight.zero_()
            layer.mlp.down_proj.weight.zero_()
        model.model.embed_tokens.weight.copy_(torch.eye(n_tokens, width))
        model.lm_head.weight.zero_()
        for last, following in pairwise(chain):
            model.lm_head.weight[vocabulary[following], vocabulary[last]] = 1.0
    model.save_pretrained(folder)
    return folder
