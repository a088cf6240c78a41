"""What holds for every encoder: transformers text and vision models, both towers of open_clip."""

import json

import pytest
import torch
from safetensors.torch import load_file, save_file

from sicsrec.encoders import ENCODERS
from sicsrec.encoders.base import EncoderInputs, ItemEncoder
from sicsrec.encoders.builder import build_encoder, load_encoder, save_encoder
from sicsrec.errors import EncoderError
from tests.unit.stage_one import bert, save_tiny_bert, save_tiny_siglip

LAST_BLOCK = {
    "bert_mean": ("model.encoder.layer.1.",),
    "bert_cls": ("model.encoder.layer.1.",),
    "bert_pooler": ("model.encoder.layer.1.", "model.pooler."),
    "vit_cls": ("model.layers.1.", "model.layernorm."),
    "vit_pooler": ("model.layers.1.", "model.layernorm.", "model.pooler."),
    "swin_mean": ("model.encoder.layers.1.blocks.1.", "model.layernorm."),
    "swin_pooler": ("model.encoder.layers.1.blocks.1.", "model.layernorm."),
    "bert_model": ("model.encoder.layer.1.", "model.pooler."),
    "towers_text": (
        "model.text_model.encoder.layers.1.",
        "model.text_model.final_layer_norm.",
        "model.text_projection.",
    ),
    "towers_image": (
        "model.vision_model.encoder.layers.1.",
        "model.vision_model.post_layernorm.",
        "model.visual_projection.",
    ),
    "siglip_text": (
        "model.text_model.encoder.layers.1.",
        "model.text_model.final_layer_norm.",
        "model.text_model.head.",
    ),
    "siglip_image": (
        "model.vision_model.encoder.layers.1.",
        "model.vision_model.post_layernorm.",
        "model.vision_model.head.",
    ),
    "clip_text": ("tower.transformer.resblocks.1.", "tower.ln_final.", "tower.text_projection"),
    "clip_image": ("tower.transformer.resblocks.1.", "tower.ln_post.", "tower.proj"),
}
WHOLE = {
    "towers_text": ("model.text_model.", "model.text_projection."),
    "towers_image": ("model.vision_model.", "model.visual_projection."),
    "siglip_text": ("model.text_model.",),
    "siglip_image": ("model.vision_model.",),
}
"""Of two towers in one model only one is used."""


def encode(encoder, items):
    with torch.no_grad():
        return encoder.encode(encoder.prepare(items))


def test_every_entry_of_the_table_is_an_encoder():
    for name in ENCODERS.names():
        kind = ENCODERS.get(name)
        assert issubclass(kind, ItemEncoder)
        assert kind.kind == name


def test_vectors_are_finite_differ_and_keep_the_order(encoder, items):
    vectors = encode(encoder, items)
    assert vectors.shape == (3, encoder.dim)
    assert torch.isfinite(vectors).all()
    assert not torch.allclose(vectors[0], vectors[1], atol=1e-3)
    turned = encode(encoder, items[::-1])
    torch.testing.assert_close(turned.flip(0), vectors, rtol=1e-4, atol=1e-5)


def test_a_vector_does_not_depend_on_its_batch(encoder, items):
    alone = torch.cat([encode(encoder, [item]) for item in items])
    torch.testing.assert_close(alone, encode(encoder, items), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("max_tokens", [4, 20])
def test_siglip_reads_texts_of_full_width_without_a_mask(tmp_path, max_tokens):
    """As the library's documentation has it called, and as it was trained."""
    config = bert(save_tiny_siglip(tmp_path), pooling="model", max_tokens=max_tokens)
    encoder = build_encoder(config, "text", seed=0)
    texts = ["sun", "blue sea song live film news"]
    ids = encoder.tokenizer(texts, padding="max_length", max_length=20)["input_ids"]
    if max_tokens == 4:
        ids[1] = [*ids[1][:3], 3] + [0] * 16
    with torch.no_grad():
        own = encoder.model.get_text_features(input_ids=torch.tensor(ids)).pooler_output
    assert not torch.allclose(own[0], own[1], atol=1e-3)
    for items, expected in ((texts, own), (texts[:1], own[:1])):
        torch.testing.assert_close(encode(encoder, items), expected, rtol=1e-4, atol=1e-5)


def test_trunk_and_head_make_the_whole(encoder, items):
    """The split gives what the library's own forward pass gives."""
    inputs = encoder.prepare(items)
    with torch.no_grad():
        states = encoder.trunk(inputs)
        torch.testing.assert_close(
            encoder.head(states), encoder._whole(inputs), rtol=1e-4, atol=1e-5
        )
    assert not torch.equal(states.values, inputs.values)


def test_states_padded_further_give_the_same_vectors(encoder, items):
    with torch.no_grad():
        # SigLIP's texts are all of full width.
        if encoder.modality == "image" or encoder.test_name == "siglip_text":
            return
        states = encoder.trunk(encoder.prepare(items))
        extra = torch.full((3, 1, states.values.shape[2]), 7.0)
        longer = EncoderInputs(torch.cat([states.values, extra], dim=1), states.lengths)
        torch.testing.assert_close(encoder.head(longer), encoder.head(states))


def test_a_saved_encoder_loads_without_its_source(encoder, items, tmp_path):
    expected = encode(encoder, items)
    save_encoder(encoder, tmp_path / "saved")
    model = tmp_path / "model"
    if model.exists():
        model.rename(tmp_path / "gone")
    loaded = load_encoder(tmp_path / "saved")
    assert torch.equal(encode(loaded, items), expected)
    assert loaded.describe() == encoder.describe()
    assert not list((tmp_path / "saved").rglob("*.bin"))
    description = json.loads((tmp_path / "saved/encoder.json").read_text())
    assert description["dim"] == encoder.dim
    assert description["library"] in ("transformers", "open_clip")


def test_saving_twice_gives_the_same_bytes(encoder, tmp_path):
    for name in ("one", "two"):
        save_encoder(encoder, tmp_path / name)
    files = sorted(path.name for path in (tmp_path / "one").iterdir())
    assert files == sorted(path.name for path in (tmp_path / "two").iterdir())
    for name in files:
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()


@pytest.mark.parametrize("trained", ["last_block", "full", "none"])
def test_exactly_the_named_weights_move(encoder, items, trained):
    encoder.set_trained(trained)
    encoder.train()
    before = {name: weight.detach().clone() for name, weight in encoder.named_parameters()}
    expected = {
        name
        for name in before
        if (trained == "full" and name.startswith(WHOLE.get(encoder.test_name, "")))
        or (trained == "last_block" and name.startswith(LAST_BLOCK[encoder.test_name]))
    }
    assert set(encoder.trained_parameters()) == expected
    if not expected:
        return
    weights = list(encoder.trained_parameters().values())
    optimizer = torch.optim.SGD(weights, lr=0.1)
    vectors = encoder.encode(encoder.prepare(items))
    (vectors * torch.randn_like(vectors)).sum().backward()
    optimizer.step()
    moved = {name for name, now in encoder.named_parameters() if not torch.equal(now, before[name])}
    assert moved <= expected
    # Weights that no gradient reaches: unused poolers and scales, biases that cancel in softmax.
    silent = {name for name in expected - moved if not _may_be_silent(name)}
    assert silent == set()


def _may_be_silent(name):
    parts = (
        *("pooler", "logit_scale", "mask_token", "position", "token_type", "relative"),
        *("key.bias", "k_proj.bias", "in_proj_bias", "word_embeddings", "token_embedding"),
    )
    return any(part in name for part in parts)


def test_dropout_is_active_in_moving_parts_only(tmp_path):
    encoder = build_encoder(bert(save_tiny_bert(tmp_path)), "text", seed=0)
    encoder.set_trained("last_block")
    encoder.train()
    inputs = encoder.prepare(["red cat", "sun"])
    first, second = encoder.trunk(inputs), encoder.trunk(inputs)
    assert torch.equal(first.values, second.values)
    assert not torch.equal(encoder.head(first), encoder.head(first))
    encoder.eval()
    assert torch.equal(encoder.head(first), encoder.head(first))
    encoder.set_trained("none")
    encoder.train()
    assert torch.equal(encoder.encode(inputs), encoder.encode(inputs))


def test_a_damaged_folder_is_named(encoder, tmp_path):
    folder = tmp_path / "saved"
    save_encoder(encoder, folder)
    description = json.loads((folder / "encoder.json").read_text())
    (folder / "encoder.json").write_text(json.dumps({**description, "dim": 999}))
    with pytest.raises(EncoderError, match="999"):
        load_encoder(folder)
    (folder / "encoder.json").write_text(json.dumps({**description, "format": 0}))
    with pytest.raises(EncoderError, match="format"):
        load_encoder(folder)
    (folder / "encoder.json").unlink()
    with pytest.raises(EncoderError, match=r"encoder\.json"):
        load_encoder(folder)


def test_weights_that_do_not_fit_are_refused(encoder, tmp_path):
    folder = tmp_path / "saved"
    save_encoder(encoder, folder)
    (path,) = folder.glob("*.safetensors")
    weights = load_file(path)
    lost = next(name for name in weights if "ln" in name or "norm" in name.lower())
    del weights[lost]
    save_file(weights, path, metadata={"format": "pt"})
    with pytest.raises(EncoderError, match="fit"):
        load_encoder(folder)


READS_ONE_POSITION = {
    *("bert_cls", "bert_pooler", "bert_model", "vit_cls", "vit_pooler", "clip_text", "clip_image")
}


def test_the_last_block_is_computed_where_it_is_read_only(encoder, items):
    """And with the same gradients as when it is computed everywhere."""
    is_pooled = encoder._head == getattr(encoder, "_finish_pooled", None)
    assert is_pooled == (encoder.test_name in READS_ONE_POSITION)
    if not is_pooled:
        return
    encoder.set_trained("last_block")
    states = encoder.trunk(encoder.prepare(items))
    weights = torch.linspace(-1.0, 1.0, encoder.dim)
    gradients = []
    for head in (encoder._finish_pooled, encoder._finish):
        encoder.zero_grad()
        (head(states) @ weights).sum().backward()
        gradients.append(
            {name: weight.grad.clone() for name, weight in encoder.trained_parameters().items()}
        )
    for name, gradient in gradients[1].items():
        torch.testing.assert_close(gradients[0][name], gradient, rtol=1e-3, atol=1e-4, msg=name)
