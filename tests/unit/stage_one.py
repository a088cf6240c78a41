"""A small catalogue with texts and covers, and small real encoders made on the spot."""

# ruff: noqa: S106 - the tokens are not secrets

import hashlib
import io
import json
from pathlib import Path

import numpy as np
import polars as pl
import torch
from PIL import Image
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import (
    BertConfig,
    BertModel,
    CLIPConfig,
    CLIPModel,
    PreTrainedTokenizerFast,
    SiglipConfig,
    SiglipModel,
    SwinConfig,
    SwinModel,
    ViTConfig,
    ViTImageProcessor,
    ViTModel,
)

from sicsrec.config.encoders import (
    OpenClipArchitectureConfig,
    OpenClipEncoderConfig,
    TransformersEncoderConfig,
)
from sicsrec.data.catalog import ItemCatalog
from sicsrec.data.covers import CoverStore, CoverWriter
from sicsrec.data.images import StoredCover
from sicsrec.data.split import TrainLog

SMALL_CLIP = OpenClipEncoderConfig(
    architecture=OpenClipArchitectureConfig(
        width=16, n_layers=2, n_heads=2, image_size=16, patch_size=8, context_length=12
    )
)
WORDS = ("cat", "dog", "sea", "sun", "red", "blue", "news", "film", "song", "game")
TEXTS = [
    "red cat film", "red cat film two", "blue sea song", "blue sea song live", "dog game",
    "dog game news", "sun", None, "news film", "song song song sun sea",
]  # fmt: skip
WITHOUT_COVER = (3, 8)
"""Rows of the catalogue whose item has no cover."""


def make_catalog(texts=TEXTS, statuses=None) -> ItemCatalog:
    n = len(texts)
    nothing = pl.Series([None] * n, dtype=pl.String)
    statuses = statuses or ["missing" if row in WITHOUT_COVER else "ok" for row in range(n)]
    return ItemCatalog(
        pl.DataFrame(
            {
                "item_id": [f"i{row}" for row in range(n)],
                "item_index": pl.Series(range(1, n + 1), dtype=pl.Int32),
                "title": pl.Series(texts, dtype=pl.String),
                "description": nothing,
                "text": pl.Series(texts, dtype=pl.String),
                "language": nothing,
                "topics": pl.Series([None] * n, dtype=pl.List(pl.String)),
                "image_path": nothing,
                "image_status": statuses,
            }
        )
    )


def write_covers(folder: Path, catalog: ItemCatalog) -> CoverStore:
    folder.mkdir(parents=True, exist_ok=True)
    writer = CoverWriter(folder)
    for item_id, status in catalog.frame.select("item_id", "image_status").rows():
        if status == "ok":
            rng = np.random.default_rng(int(item_id[1:]))
            pixels = rng.integers(0, 256, (18, 20, 3), dtype=np.uint8)
            buffer = io.BytesIO()
            Image.fromarray(pixels).save(buffer, "PNG")
            digest = hashlib.sha256(buffer.getvalue()).hexdigest()
            writer.add(item_id, StoredCover(buffer.getvalue(), digest, ()))
    writer.close()
    return CoverStore(folder)


def make_log(histories: dict[str, list[str]]) -> TrainLog:
    rows = [
        (user, item, None, position)
        for user, items in sorted(histories.items())
        for position, item in enumerate(items)
    ]
    return TrainLog(
        pl.DataFrame(
            rows,
            schema={
                "user_id": pl.String,
                "item_id": pl.String,
                "timestamp": pl.Int64,
                "position": pl.Int32,
            },
            orient="row",
        )
    )


def save_tiny_bert(folder: Path) -> Path:
    """Write a two-layer BERT with its tokenizer, as a hub would hold them."""
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]"]
    vocabulary = {word: number for number, word in enumerate([*special, *WORDS])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="[PAD]",
        unk_token="[UNK]",
        cls_token="[CLS]",
        sep_token="[SEP]",
    ).save_pretrained(folder)
    torch.manual_seed(0)
    BertModel(
        BertConfig(
            vocab_size=len(vocabulary),
            hidden_size=16,
            num_hidden_layers=2,
            num_attention_heads=2,
            intermediate_size=24,
            max_position_embeddings=20,
            initializer_range=0.3,
        )
    ).save_pretrained(folder)
    return folder


def save_tiny_vit(folder: Path) -> Path:
    torch.manual_seed(0)
    ViTModel(
        ViTConfig(
            hidden_size=16,
            num_hidden_layers=2,
            num_attention_heads=2,
            intermediate_size=24,
            image_size=16,
            patch_size=8,
            initializer_range=0.3,
        )
    ).save_pretrained(folder)
    ViTImageProcessor(size={"height": 16, "width": 16}).save_pretrained(folder)
    return folder


def save_tiny_two_towers(folder: Path) -> Path:
    """Write a CLIP of the transformers library, with a tokenizer and an image processor."""
    save_tiny_bert(folder)
    tower = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2}
    tower |= {"num_attention_heads": 2, "initializer_range": 0.3}
    text = {**tower, "vocab_size": 14, "max_position_embeddings": 20, "eos_token_id": 3}
    vision = {**tower, "image_size": 16, "patch_size": 8}
    torch.manual_seed(0)
    CLIPModel(
        CLIPConfig(text_config=text, vision_config=vision, projection_dim=12)
    ).save_pretrained(folder)
    ViTImageProcessor(size={"height": 16, "width": 16}).save_pretrained(folder)
    return folder


def save_tiny_siglip(folder: Path) -> Path:
    """Write a SigLIP, whose tokenizer gives no attention mask, and an image processor."""
    save_tiny_bert(folder)
    settings = json.loads((folder / "tokenizer_config.json").read_text())
    settings["model_input_names"] = ["input_ids"]
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    tower = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2}
    tower |= {"num_attention_heads": 2}
    text = {**tower, "vocab_size": 14, "max_position_embeddings": 20, "pad_token_id": 0}
    vision = {**tower, "image_size": 16, "patch_size": 8}
    torch.manual_seed(0)
    model = SiglipModel(SiglipConfig(text_config=text, vision_config=vision))
    for weight in model.parameters():
        torch.nn.init.normal_(weight, std=0.3)
    model.save_pretrained(folder)
    ViTImageProcessor(size={"height": 16, "width": 16}).save_pretrained(folder)
    return folder


def save_tiny_swin(folder: Path) -> Path:
    torch.manual_seed(0)
    SwinModel(
        SwinConfig(
            image_size=16,
            patch_size=2,
            embed_dim=8,
            depths=[1, 2],
            num_heads=[1, 2],
            window_size=4,
        )
    ).save_pretrained(folder)
    ViTImageProcessor(size={"height": 16, "width": 16}).save_pretrained(folder)
    return folder


def bert(folder: Path, **values) -> TransformersEncoderConfig:
    return TransformersEncoderConfig(model=str(folder), **{"max_tokens": 8, **values})
