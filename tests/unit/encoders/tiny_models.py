"""Sizes of models of the transformers library that are made on the spot."""

TINY = {
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 24,
    "initializer_range": 0.3,
}
TINY_TEXT = {**TINY, "vocab_size": 14, "max_position_embeddings": 20, "pad_token_id": 0}
TOKENS = {"bos_token_id": 2, "eos_token_id": 3}
