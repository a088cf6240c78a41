import pytest
from PIL import Image

from sicsrec.encoders.builder import build_encoder
from tests.unit.stage_one import (
    SMALL_CLIP,
    bert,
    save_tiny_bert,
    save_tiny_siglip,
    save_tiny_swin,
    save_tiny_two_towers,
    save_tiny_vit,
)

KINDS = {
    "bert_mean": ("text", lambda root: bert(save_tiny_bert(root))),
    "bert_cls": ("text", lambda root: bert(save_tiny_bert(root), pooling="cls")),
    "bert_pooler": ("text", lambda root: bert(save_tiny_bert(root), pooling="pooler")),
    "vit_cls": ("image", lambda root: bert(save_tiny_vit(root), pooling="cls")),
    "vit_pooler": ("image", lambda root: bert(save_tiny_vit(root), pooling="pooler")),
    "swin_mean": ("image", lambda root: bert(save_tiny_swin(root), pooling="mean")),
    "swin_pooler": ("image", lambda root: bert(save_tiny_swin(root), pooling="pooler")),
    "bert_model": ("text", lambda root: bert(save_tiny_bert(root), pooling="model")),
    "towers_text": ("text", lambda root: bert(save_tiny_two_towers(root), pooling="model")),
    "towers_image": ("image", lambda root: bert(save_tiny_two_towers(root), pooling="model")),
    "siglip_text": ("text", lambda root: bert(save_tiny_siglip(root), pooling="model")),
    "siglip_image": ("image", lambda root: bert(save_tiny_siglip(root), pooling="model")),
    "clip_text": ("text", lambda root: SMALL_CLIP),
    "clip_image": ("image", lambda root: SMALL_CLIP),
}


@pytest.fixture(params=KINDS)
def encoder(request, tmp_path):
    modality, configure = KINDS[request.param]
    built = build_encoder(configure(tmp_path / "model"), modality, seed=3)
    built.test_name = request.param
    return built


@pytest.fixture
def items(encoder):
    if encoder.modality == "text":
        return ["red cat", "blue sea song live film news", "sun"]
    gradient = Image.radial_gradient("L").convert("RGB")
    return [gradient, gradient.rotate(90).crop((0, 30, 90, 200)), Image.new("RGB", (9, 30), "red")]
