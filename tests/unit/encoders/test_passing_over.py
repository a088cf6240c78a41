"""The split below the last block of models whose end no other head reproduces."""

import copy

import pytest
import torch
from PIL import Image
from transformers import (
    BeitConfig,
    BeitModel,
    ConvNextConfig,
    ConvNextModel,
    DebertaV2Config,
    DebertaV2Model,
    DINOv3ViTConfig,
    DINOv3ViTModel,
    Gemma3TextConfig,
    Gemma3TextModel,
    GPT2Config,
    GPT2Model,
    LlamaConfig,
    LlamaModel,
    ModernBertConfig,
    ModernBertModel,
    MPNetConfig,
    MPNetModel,
    SwinConfig,
    SwinModel,
    XLNetConfig,
    XLNetModel,
)

from sicsrec.encoders.base import EncoderInputs
from sicsrec.encoders.builder import build_encoder
from sicsrec.encoders.precision import computing_in
from tests.unit.encoders.tiny_models import TINY, TINY_TEXT, TOKENS
from tests.unit.stage_one import bert, save_tiny_bert, save_tiny_two_towers, save_tiny_vit

# More than one block is passed over.
DEEP = {"num_hidden_layers": 3}
TEXT = {**TINY_TEXT, **DEEP}
HEADS = {"num_key_value_heads": 1, "head_dim": 8}
IMAGE = {**TINY, **DEEP, "image_size": 16, "patch_size": 4}


def mpnet():
    return MPNetModel(MPNetConfig(**TEXT | {"pad_token_id": 1}))


def modernbert():
    """Its blocks see the whole text and a window of it by turns; the last one sees the window."""
    tokens = {**TOKENS, "cls_token_id": 2, "sep_token_id": 3}
    kinds = ["full_attention", "full_attention", "sliding_attention"]
    config = ModernBertConfig(**TEXT, **tokens, local_attention=4, layer_types=kinds)
    return ModernBertModel(config)


def llama():
    return LlamaModel(LlamaConfig(**TEXT, **TOKENS, **HEADS))


def gemma():
    return Gemma3TextModel(Gemma3TextConfig(**TEXT, **TOKENS, **HEADS, sliding_window=4))


def gpt2():
    sizes = {"n_positions": 20, "n_embd": 16, "n_layer": 3, "n_head": 2}
    return GPT2Model(GPT2Config(vocab_size=14, **sizes, initializer_range=0.3))


def deberta():
    relative = {"relative_attention": True, "pos_att_type": ["p2c", "c2p"]}
    return DebertaV2Model(DebertaV2Config(**TEXT, **relative))


def swin(**values):
    sizes = {"depths": [1, 1, 2], "num_heads": [1, 2, 2], "embed_dim": 8, "window_size": 4}
    config = SwinConfig(image_size=16, patch_size=1, **sizes, initializer_range=0.3, **values)
    return SwinModel(config)


def convnext():
    sizes = {"hidden_sizes": [8, 8, 16], "depths": [1, 1, 2], "num_stages": 3}
    return ConvNextModel(ConvNextConfig(**sizes, patch_size=2, initializer_range=0.3))


def dinov3():
    return DINOv3ViTModel(DINOv3ViTConfig(**IMAGE))


def beit():
    """Its blocks share a bias of relative positions, which is new at zero."""
    sizes = {**IMAGE, "use_shared_relative_position_bias": True, "drop_path_rate": 0.0}
    model = BeitModel(BeitConfig(**sizes))
    for bias in model.shared_position_bias.parameters():
        torch.nn.init.normal_(bias)
    return model


FAMILIES = {
    "mpnet": (mpnet, "mean"),
    "mpnet_pooler": (mpnet, "pooler"),
    "modernbert": (modernbert, "mean"),
    "llama": (llama, "mean"),
    "gemma": (gemma, "mean"),
    "gpt2": (gpt2, "mean"),
    "deberta": (deberta, "mean"),
    "swin": (swin, "pooler"),
    "swin_mean": (swin, "mean"),
    "convnext": (convnext, "pooler"),
    "dinov3": (dinov3, "cls"),
    "beit": (beit, "mean"),
    "clip_text": (None, "model"),
    "clip_image": (None, "model"),
}
IMAGES = {"swin", "swin_mean", "convnext", "dinov3", "beit", "clip_image"}


def build(folder, model, pooling, modality):
    """Write a model beside a tokenizer or an image processor, and load it as an encoder."""
    if model is None:
        save_tiny_two_towers(folder)
    elif modality == "image":
        save_tiny_vit(folder)
    else:
        save_tiny_bert(folder)
    if model is not None:
        model.save_pretrained(folder)
    return build_encoder(bert(folder, pooling=pooling, max_tokens=12), modality, seed=3)


@pytest.fixture(scope="module", params=FAMILIES)
def built(request, tmp_path_factory):
    make, pooling = FAMILIES[request.param]
    torch.manual_seed(0)
    modality = "image" if request.param in IMAGES else "text"
    return build(tmp_path_factory.mktemp("model"), make and make(), pooling, modality)


@pytest.fixture
def encoder(built):
    return copy.deepcopy(built)


@pytest.fixture
def batches(encoder):
    """Batches of other sizes and lengths than those the split was tried on."""
    if encoder.modality == "text":
        lists = [
            ["sun", "red cat film two", "blue sea song live film", "news", "sea sea sun"],
            ["game", "dog"],
            ["red " * 9, "cat", "", "song sun " * 4],
        ]
    else:
        torch.manual_seed(1)
        noise = torch.randint(0, 256, (5, 20, 20, 3), dtype=torch.uint8).numpy()
        images = [Image.fromarray(pixels) for pixels in noise]
        lists = [images, images[:1], images[1:4]]
    return [encoder.prepare(items) for items in lists]


def close(ours, whole):
    torch.testing.assert_close(ours, whole, rtol=1e-4, atol=1e-5)


def test_the_model_itself_ends_what_its_trunk_began(encoder, batches):
    assert encoder._head == encoder._pass_over
    with torch.no_grad():
        states = [encoder.trunk(inputs) for inputs in batches]
        for inputs, some in zip(batches, states, strict=True):
            assert some.values.is_floating_point()
            close(encoder.head(some), encoder._whole(inputs))


def test_the_earlier_blocks_compute_nothing(encoder, batches):
    states = encoder.trunk(batches[0])
    *below, last = encoder._blocks()
    counts = dict.fromkeys(encoder._blocks(), 0)

    def count(module, _):
        counts[module.owner] += 1

    handles = []
    for block in counts:
        leaf = next(m for m in block.modules() if not list(m.children()) and list(m.parameters()))
        object.__setattr__(leaf, "owner", block)
        handles.append(leaf.register_forward_pre_hook(count))
    encoder.head(states)
    assert counts == {**dict.fromkeys(below, 0), last: 1}


@pytest.mark.parametrize("trained", ["last_block", "full"])
def test_gradients_are_those_of_the_whole_model(encoder, batches, trained):
    encoder.set_trained(trained)
    weights = torch.linspace(-1.0, 1.0, encoder.dim)
    gradients = []
    for encode in (encoder._whole, encoder.encode):
        encoder.zero_grad(set_to_none=True)
        sum((encode(inputs) @ weights).square().sum() for inputs in batches).backward()
        reached = {n: w.grad for n, w in encoder.named_parameters() if w.grad is not None}
        assert set(reached) <= set(encoder.trained_parameters())
        gradients.append(reached)
    whole, ours = gradients
    assert set(ours) == set(whole)
    for name, gradient in whole.items():
        scale = gradient.norm() + 1e-3
        torch.testing.assert_close(ours[name] / scale, gradient / scale, rtol=0, atol=2e-4)


@torch.no_grad()
def test_nothing_is_left_on_the_model(encoder, batches, tmp_path):
    """Not after an error either; copies and saved models work as the first."""
    states = encoder.trunk(batches[0])
    hooks = [(len(m._forward_hooks), len(m._forward_pre_hooks)) for m in encoder.modules()]
    expected = encoder.head(states)
    failing = encoder._last_layer().register_forward_hook(lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        encoder.head(states)
    failing.remove()
    assert not any("forward" in vars(module) for module in encoder.modules())
    assert hooks == [(len(m._forward_hooks), len(m._forward_pre_hooks)) for m in encoder.modules()]
    assert torch.equal(encoder.head(states), expected)
    twin = copy.deepcopy(encoder)
    next(encoder.last_block().modules[0].parameters()).add_(1.0)
    assert torch.equal(twin.head(states), expected)
    twin.save(tmp_path / "saved")
    again = type(twin).load(tmp_path / "saved", twin.describe())
    assert torch.equal(again.head(states), expected)


def test_a_forward_of_a_blocks_own_comes_back(encoder, batches):
    states = encoder.trunk(batches[0])
    block = encoder._blocks()[0]
    own = block.forward = block.forward
    encoder.head(states)
    assert block.forward is own


def test_bfloat16_is_as_the_whole_model_has_it(encoder, batches):
    with torch.no_grad(), computing_in("bfloat16", torch.device("cpu")):
        whole = encoder._whole(batches[0]).float()
        states = encoder.trunk(batches[0])
        # As they are kept: in float16, and given back in float32.
        kept = EncoderInputs(states.values.to(torch.float16).float(), states.lengths)
        ours = encoder.head(kept).float()
    torch.testing.assert_close(ours, whole, rtol=0.05, atol=0.05 * float(whole.abs().max()))


def shares_a_weight(make):
    model = make()
    model.layers[2].mlp = model.layers[0].mlp
    return model


def hands_on_states(make):
    """A model whose last block reads what an earlier one has found, beside its own states."""
    model = make()
    seen = []
    model.layers[0].register_forward_hook(lambda _, args, output: seen.append(output))
    model.layers[2].register_forward_hook(lambda _, args, output: output + seen[-1])
    return model


@pytest.mark.parametrize("alter", [shares_a_weight, hands_on_states])
def test_a_split_that_would_be_wrong_is_not_made(tmp_path, monkeypatch, alter):
    torch.manual_seed(0)
    save_tiny_bert(tmp_path)
    llama().save_pretrained(tmp_path)
    model = alter(lambda: LlamaModel.from_pretrained(tmp_path))
    monkeypatch.setattr(
        "sicsrec.encoders.text_transformer.load_pretrained_model",
        lambda config: (model, {"model": "m", "revision": None, "source_digest": ""}),
    )
    encoder = build_encoder(bert(tmp_path), "text", seed=3)
    assert encoder._head == encoder._whole


def test_a_model_that_keeps_texts_along_another_axis_is_not_split(tmp_path):
    """XLNet's states are [length, batch, width]."""
    sizes = {"d_model": 16, "n_layer": 2, "n_head": 2, "d_inner": 24}
    model = XLNetModel(XLNetConfig(vocab_size=14, **sizes, pad_token_id=0, **TOKENS))
    encoder = build(tmp_path, model, "mean", "text")
    assert encoder._head == encoder._whole
