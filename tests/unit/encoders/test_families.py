"""Families of models in the transformers library that are built otherwise than BERT and ViT."""

import pytest
import torch
from transformers import (
    ConvBertConfig,
    ConvBertModel,
    DINOv3ViTConfig,
    DINOv3ViTModel,
    DistilBertConfig,
    DistilBertModel,
    Gemma3TextConfig,
    Gemma3TextModel,
    GPT2Config,
    GPT2Model,
    ModernBertConfig,
    ModernBertModel,
    T5Config,
    T5Model,
    ViTMAEConfig,
    ViTMAEModel,
    XLNetConfig,
    XLNetModel,
)

from sicsrec.encoders.builder import build_encoder
from sicsrec.errors import EncoderError
from tests.unit.encoders.tiny_models import TINY, TINY_TEXT, TOKENS
from tests.unit.stage_one import bert, save_tiny_bert, save_tiny_vit


def save_text_model(folder, model):
    """Write a text model beside a tokenizer."""
    save_tiny_bert(folder)
    model.save_pretrained(folder)
    return folder


def test_a_split_is_not_taken_for_right_because_of_how_many_texts_it_is_tried_on(tmp_path):
    """Gemma's blocks take positions second, a pair of tensors: a mask of two texts is such a pair.

    For the first token, whose position is 0 and which sees itself alone, nothing else would differ.
    """
    torch.manual_seed(0)
    heads = {"num_key_value_heads": 2, "head_dim": 8}
    model = Gemma3TextModel(Gemma3TextConfig(**TINY_TEXT, **heads, **TOKENS))
    config = bert(save_text_model(tmp_path / "model", model), pooling="cls")
    gemma = build_encoder(config, "text", seed=3)
    for texts in (["red cat"], ["red cat", "sun"], ["red cat", "sun", "blue sea song"]):
        inputs = gemma.prepare(texts)
        with torch.no_grad():
            own = gemma.model(inputs.values, inputs.mask.long()).last_hidden_state[:, 0]
            torch.testing.assert_close(gemma.encode(inputs), own, rtol=1e-4, atol=1e-5)


def test_vectors_that_depend_on_the_batch_are_refused(tmp_path):
    """ConvBERT's convolutions read the padding beside a short text."""
    torch.manual_seed(0)
    model = ConvBertModel(ConvBertConfig(**TINY_TEXT, embedding_size=16))
    config = bert(save_text_model(tmp_path / "model", model))
    with pytest.raises(EncoderError, match="beside other items"):
        build_encoder(config, "text", seed=3)


def test_vectors_that_depend_on_chance_are_refused(tmp_path):
    """A masked autoencoder leaves out three patches of four, drawn anew each time."""
    torch.manual_seed(0)
    folder = save_tiny_vit(tmp_path / "model")
    ViTMAEModel(ViTMAEConfig(**TINY, image_size=16, patch_size=4)).save_pretrained(folder)
    with pytest.raises(EncoderError, match="another one each time"):
        build_encoder(bert(folder), "image", seed=3)


def test_a_model_with_a_decoder_is_refused(tmp_path):
    sizes = {"d_model": 16, "d_kv": 8, "d_ff": 24, "num_layers": 1, "num_heads": 2}
    model = T5Model(T5Config(vocab_size=14, **sizes))
    with pytest.raises(EncoderError, match="T5Model, an encoder with a decoder"):
        build_encoder(bert(save_text_model(tmp_path / "model", model)), "text", seed=3)


def test_a_model_without_a_limit_of_tokens_reads_as_many_as_asked_for(tmp_path):
    """XLNet says that it reads -1."""
    sizes = {"d_model": 16, "n_layer": 1, "n_head": 2, "d_inner": 24}
    model = XLNetModel(XLNetConfig(vocab_size=14, **sizes, pad_token_id=0, **TOKENS))
    config = bert(save_text_model(tmp_path / "model", model))
    assert build_encoder(config, "text", seed=3).max_tokens == 8


def tiny_distilbert():
    sizes = {"dim": 16, "n_layers": 2, "n_heads": 2, "hidden_dim": 24, "initializer_range": 0.3}
    return DistilBertModel(
        DistilBertConfig(vocab_size=14, max_position_embeddings=20, pad_token_id=0, **sizes)
    )


def tiny_modernbert():
    tokens = {**TOKENS, "cls_token_id": 2, "sep_token_id": 3}
    return ModernBertModel(ModernBertConfig(**TINY_TEXT, **tokens))


def tiny_gpt2():
    return GPT2Model(GPT2Config(vocab_size=14, n_positions=20, n_embd=16, n_layer=2, n_head=2))


def tiny_dinov3():
    return DINOv3ViTModel(DINOv3ViTConfig(**TINY, image_size=16, patch_size=8))


@pytest.mark.parametrize(
    ("make", "begins"),
    [
        (tiny_distilbert, ("model.transformer.layer.1.",)),
        (tiny_modernbert, ("model.layers.1.", "model.final_norm.")),
        (tiny_gpt2, ("model.h.1.", "model.ln_f.")),
        (tiny_dinov3, ("model.model.layer.1.", "model.norm.")),
    ],
)
def test_the_last_block_and_the_norm_behind_it_are_found(tmp_path, make, begins):
    torch.manual_seed(0)
    modality = "image" if make is tiny_dinov3 else "text"
    save = save_tiny_vit if modality == "image" else save_tiny_bert
    make().save_pretrained(save(tmp_path / "model"))
    encoder = build_encoder(bert(tmp_path / "model"), modality, seed=3)
    encoder.set_trained("last_block")
    names = set(encoder.trained_parameters())
    assert names == {name for name, _ in encoder.named_parameters() if name.startswith(begins)}
    assert all(any(name.startswith(begin) for name in names) for begin in begins)
