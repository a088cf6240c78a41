import builtins

import pytest
import torch
from PIL import Image

from sicsrec.config.encoders import LoraConfig
from sicsrec.encoders.builder import build_encoder, load_encoder, save_encoder
from sicsrec.encoders.lora import add_lora, merge_lora
from sicsrec.errors import EncoderError
from tests.unit.stage_one import SMALL_CLIP, bert, save_tiny_bert, save_tiny_vit


def make(root, modality):
    save = save_tiny_bert if modality == "text" else save_tiny_vit
    return build_encoder(bert(save(root / "model"), pooling="cls"), modality, seed=0)


def inputs_of(encoder):
    if encoder.modality == "text":
        return encoder.prepare(["red cat film", "sun"])
    return encoder.prepare([Image.radial_gradient("L").convert("RGB")])


@pytest.mark.parametrize("modality", ["text", "image"])
def test_merged_weights_give_the_same_vectors_and_load_like_any_other(tmp_path, modality):
    encoder = make(tmp_path, modality)
    inputs, names = inputs_of(encoder), set(encoder.state_dict())
    with torch.no_grad():
        before = encoder.encode(inputs)
        add_lora(encoder, LoraConfig(rank=2))
        encoder.set_trained("lora")
        # B starts at zero, so nothing has changed yet.
        torch.testing.assert_close(encoder.encode(inputs), before)
        for weight in encoder.trained_parameters().values():
            weight.add_(0.1 * torch.randn_like(weight))
        tuned = encoder.encode(inputs)
        assert not torch.allclose(tuned, before, atol=1e-2)
        merge_lora(encoder)
        torch.testing.assert_close(encoder.encode(inputs), tuned, rtol=1e-4, atol=1e-5)
        assert set(encoder.state_dict()) == names
        assert not encoder.trained_parameters()
        save_encoder(encoder, tmp_path / "saved")
        loaded = load_encoder(tmp_path / "saved")
        assert torch.equal(loaded.encode(inputs), encoder.encode(inputs))


def test_only_low_rank_weights_and_their_dropout_move(tmp_path):
    encoder = make(tmp_path, "text")
    add_lora(encoder, LoraConfig(rank=2, dropout=0.5))
    encoder.set_trained("lora")
    encoder.train()
    assert not encoder.trunk_is_constant
    weights = encoder.trained_parameters()
    # Query, key, value, output and two feed-forward layers in two blocks, A and B of each.
    assert len(weights) == 2 * 6 * 2
    assert {len(weight) for name, weight in weights.items() if "lora_A" in name} == {2}
    training = {name for name, module in encoder.named_modules() if module.training and name}
    assert training
    assert all(".lora_dropout" in name for name in training)


def test_fused_attention_is_refused():
    with pytest.raises(EncoderError, match=r"in_proj_weight.*last_block or full"):
        add_lora(build_encoder(SMALL_CLIP, "image", seed=0), LoraConfig())


def test_without_peft_the_error_names_the_extra(tmp_path, monkeypatch):
    encoder, original = make(tmp_path, "text"), builtins.__import__

    def without_peft(name, *arguments):
        if name == "peft":
            raise ImportError(name)
        return original(name, *arguments)

    monkeypatch.setattr(builtins, "__import__", without_peft)
    with pytest.raises(EncoderError, match=r"sicsrec\[lora\]"):
        add_lora(encoder, LoraConfig())
