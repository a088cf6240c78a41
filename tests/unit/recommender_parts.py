"""A recommender of the tiny store's models, ranked by the model alone or by a blend."""

from pathlib import Path

import numpy as np

from sicsrec.config import ExportConfig
from sicsrec.models.new_items import NewItemVectors
from sicsrec.recommender import Recommender
from sicsrec.steps.finished import FinishedExport, newest_export
from sicsrec.steps.runner import run_step
from tests.unit.steps.tiny_store import TinyStore, make_config, make_tiny_store

HISTORY = ["v03", "v04", "v05"]


def export_tiny(root: Path, score: str) -> tuple[TinyStore, FinishedExport]:
    tiny = make_tiny_store(root)
    config = make_config(export=ExportConfig(top_k=5, score=score))
    tiny.refs |= run_step("export", config, tiny.refs, tiny.store).refs
    return tiny, newest_export(tiny.store)


def load_tiny(root: Path, score: str) -> Recommender:
    return Recommender.load(export_tiny(root, score)[1].model_folder)


def new_items(n: int = 2, width: int = 4) -> NewItemVectors:
    matrix = np.random.default_rng(9).normal(size=(n, width)).astype(np.float32)
    names = tuple(f"new-{row}" for row in range(n))
    return NewItemVectors(names, {"text": matrix}, {"text": np.ones(n, dtype=np.bool_)})
