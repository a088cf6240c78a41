"""A recommender of the tiny store's models, ranked by the model alone or by a blend."""

from pathlib import Path

import numpy as np

from sicsrec.config import EncodeItemsConfig, ExportConfig, PipelineConfig
from sicsrec.config.encoders import OpenClipArchitectureConfig, OpenClipEncoderConfig
from sicsrec.encoders.builder import build_encoder, save_encoder
from sicsrec.models.new_items import NewItemVectors
from sicsrec.recommender import Recommender
from sicsrec.steps.finished import FinishedExport, newest_export
from sicsrec.steps.runner import run_step
from tests.unit.steps.tiny_store import TinyStore, make_config, make_tiny_store

HISTORY = ["v03", "v04", "v05"]


def export_tiny(
    root: Path, score: str, *, remove_seen: bool = True
) -> tuple[TinyStore, FinishedExport]:
    tiny = make_tiny_store(root)
    section = ExportConfig(top_k=5, score=score, remove_seen=remove_seen)
    config = make_config(export=section)
    tiny.refs |= run_step("export", config, tiny.refs, tiny.store).refs
    return tiny, newest_export(tiny.store)


def with_encoders(tiny: TinyStore, config: PipelineConfig) -> PipelineConfig:
    """Commit a text encoder whose vectors the models read, and an image encoder."""
    shape = OpenClipArchitectureConfig(width=4, n_layers=1, n_heads=1, image_size=32)
    encoder = OpenClipEncoderConfig(architecture=shape)

    def write(folder: Path) -> None:
        save_encoder(build_encoder(encoder, "text", seed=0), folder / "text")
        save_encoder(build_encoder(encoder, "image", seed=0), folder / "image")

    tiny.commit("align_encoders", {"encoders": (("train",), write)})
    both = {"text_encoder": encoder, "image_encoder": encoder}
    sections = {
        "encode_items": EncodeItemsConfig(),
        "align_encoders": config.align_encoders.model_copy(update=both),
    }
    return config.model_copy(update=sections)


def load_tiny(root: Path, score: str) -> Recommender:
    return Recommender.load(export_tiny(root, score)[1].model_folder)


def new_items(n: int = 2, width: int = 4) -> NewItemVectors:
    matrix = np.random.default_rng(9).normal(size=(n, width)).astype(np.float32)
    names = tuple(f"new-{row}" for row in range(n))
    return NewItemVectors(names, {"text": matrix}, {"text": np.ones(n, dtype=np.bool_)})
