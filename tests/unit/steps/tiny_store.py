"""A store in which everything before ``evaluate`` is committed: 12 items, 40 users, tiny models."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import torch
from matplotlib.figure import Figure

from sicsrec.artifacts import ArtifactRef, ArtifactStore, Manifest
from sicsrec.config import (
    EncodeItemsConfig,
    EvaluateConfig,
    ExportConfig,
    GivenSourceConfig,
    IngestConfig,
    NineRecReaderConfig,
    PipelineConfig,
)
from sicsrec.data.catalog import ItemCatalog
from sicsrec.data.sequences import Histories
from sicsrec.data.split import leave_one_out
from sicsrec.data.vectors import write_vectors
from sicsrec.models.blend import Blend, HistoryFacts
from sicsrec.models.blend_storage import save_blend
from sicsrec.models.id_encoder import IdEncoder
from sicsrec.models.sicsrec import SICSRec
from sicsrec.models.storage import save_model
from sicsrec.steps import Step

N_ITEMS, N_USERS = 12, 40
TOWER = {
    "n_items": N_ITEMS,
    "width": 8,
    "inner_width": 8,
    "n_layers": 1,
    "n_heads": 2,
    "dropout": 0.0,
    "max_history_length": 6,
}
COLD_ITEM = "v12"
"""Only ever the test target of the first user."""


def make_config(**sections: Any) -> PipelineConfig:
    return PipelineConfig(
        dataset="tiny",
        seed=sections.get("seed", 5),
        refit=sections.get("refit", True),
        ingest=IngestConfig(path="/nowhere", reader=NineRecReaderConfig()),
        encode_items=EncodeItemsConfig(source=GivenSourceConfig(text="given.npy")),
        evaluate=sections.get("evaluate", EvaluateConfig(n_bootstrap=50)),
        export=sections.get("export", ExportConfig(top_k=5)),
    )


def make_catalog() -> ItemCatalog:
    ids = [f"v{number:02d}" for number in range(1, N_ITEMS + 1)]
    nothing = pl.Series([None] * N_ITEMS, dtype=pl.String)
    return ItemCatalog(
        pl.DataFrame(
            {
                "item_id": ids,
                "item_index": pl.Series(range(1, N_ITEMS + 1), dtype=pl.Int32),
                "title": ids,
                "description": nothing,
                "text": ids,
                "language": nothing,
                "topics": pl.Series([None] * N_ITEMS, dtype=pl.List(pl.String)),
                "image_path": nothing,
                "image_status": ["missing"] * N_ITEMS,
            }
        )
    )


def make_interactions() -> pl.DataFrame:
    """Users go round in the catalogue by ones; user 0 ends at the cold item, user 1 is short."""
    rows = []
    for user in range(N_USERS):
        length = 2 if user == 1 else 3 + user % 6
        items = [(user + position) % (N_ITEMS - 1) + 1 for position in range(length)]
        if user == 0:
            items[-1] = N_ITEMS
        rows += [(f"u{user:02d}", f"v{item:02d}", place) for place, item in enumerate(items)]
    frame = pl.DataFrame(rows, schema=["user_id", "item_id", "position"], orient="row")
    return frame.select(
        "user_id",
        "item_id",
        pl.lit(None, dtype=pl.Int64).alias("timestamp"),
        pl.col("position").cast(pl.Int32),
    )


def make_sicsrec(seed: int = 3) -> SICSRec:
    torch.manual_seed(seed)
    model = SICSRec(
        **TOWER,
        vector_widths={"text": 4},
        fusion_dropout=0.0,
        adapter_rank=2,
        alpha=0.2,
        temperature=0.05,
        table_penalty=0.01,
        item_dropout=0.0,
        scoring="normalised",
    )
    model.content_embedding.load_vectors(
        "text", torch.randn(N_ITEMS, 4), torch.ones(N_ITEMS, dtype=torch.bool)
    )
    return model


def write_blends(folder: Path, encoder: IdEncoder, sicsrec: SICSRec, train: Histories) -> None:
    text = np.random.default_rng(0).normal(size=(N_ITEMS, 4)).astype(np.float32)
    facts = HistoryFacts.from_training(train, N_ITEMS, {"text": text})
    blends = {
        "id_encoder": ([encoder], {"id_encoder": 1.0, "popularity": 2.0}),
        "sicsrec": ([encoder, sicsrec], {"id_encoder": 1.0, "watched": -3.0, "next_1": 0.5}),
    }
    for name, (models, weights) in blends.items():
        (folder / name).mkdir()
        save_blend(Blend(models, facts, weights), folder / name)


@dataclass
class TinyStore:
    store: ArtifactStore
    refs: dict[str, ArtifactRef] = field(default_factory=dict)

    def commit(
        self, step: str, outputs: Mapping[str, tuple[tuple[str, ...], Callable[[Path], None]]]
    ) -> None:
        """Commit outputs, each given as what it has seen and a function that writes a folder."""
        key = f"{len(self.refs):016x}"
        pending = self.store.begin("tiny", step, key)
        for name, (_, write) in outputs.items():
            write(pending.output(name))
        manifest = Manifest(
            dataset="tiny",
            step=step,
            step_version=1,
            key=key,
            config={},
            seed=None,
            inputs={},
            external_inputs={},
            outputs=pending.describe({name: sees for name, (sees, _) in outputs.items()}),
            started="2026-01-01T00:00:00.000+00:00",
            seconds=0.0,
            code={},
            environment={},
        )
        self.store.commit(pending, manifest, {"rows": 0, "rows_of": "rows", "content": {}})
        self.refs |= manifest.refs()


def make_tiny_store(root: Path, model_sees: tuple[str, ...] = ("train", "valid")) -> TinyStore:
    tiny = TinyStore(ArtifactStore(root))
    interactions = make_interactions()
    split = leave_one_out(interactions)
    everything = ("test", "train", "valid")
    tiny.commit(
        "ingest",
        {
            "catalog": ((), make_catalog().write),
            "interactions": (
                everything,
                lambda folder: interactions.write_parquet(folder / "interactions.parquet"),
            ),
        },
    )
    tiny.commit(
        "split",
        {
            "train": (("train",), split.train.write),
            "valid": (("train", "valid"), split.valid.write),
            "test": (everything, split.test.write),
        },
    )
    text = np.random.default_rng(0).normal(size=(N_ITEMS, 4)).astype(np.float32)
    everyone = np.arange(1, N_ITEMS + 1)
    tiny.commit(
        "encode_items",
        {
            "vectors": (
                ("train",),
                lambda folder: write_vectors(folder, "text", make_catalog(), everyone, text),
            )
        },
    )
    torch.manual_seed(2)
    encoder, refit_encoder = IdEncoder(**TOWER), IdEncoder(**TOWER)
    sicsrec, refit_sicsrec = make_sicsrec(), make_sicsrec(seed=4)
    tiny.commit(
        "pretrain_id",
        {
            "model": (("train", "valid"), lambda folder: save_model(encoder, folder)),
            "refit": (("train", "valid"), lambda folder: save_model(refit_encoder, folder)),
        },
    )
    catalog = make_catalog()
    train = Histories.from_interactions(split.train.interactions, catalog)
    both = train.followed_by(Histories.from_interactions(split.valid.interactions, catalog))
    tiny.commit(
        "train_sicsrec",
        {
            "model": (model_sees, lambda folder: save_model(sicsrec, folder)),
            "blend": (model_sees, lambda folder: write_blends(folder, encoder, sicsrec, train)),
            "refit": (model_sees, lambda folder: save_model(refit_sicsrec, folder)),
            "refit_blend": (
                model_sees,
                lambda folder: write_blends(folder, refit_encoder, refit_sicsrec, both),
            ),
        },
    )
    return tiny


@dataclass
class MemoryTracker:
    """Keeps what a step records."""

    metrics: dict[str, float] = field(default_factory=dict)
    tables: dict[str, pl.DataFrame] = field(default_factory=dict)
    figures: dict[str, Figure] = field(default_factory=dict)

    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        self.metrics |= metrics

    def log_table(self, name: str, frame: pl.DataFrame) -> None:
        self.tables[name] = frame

    def log_figure(self, name: str, figure: Figure) -> None:
        self.figures[name] = figure

    def set_tags(self, tags: Mapping[str, str]) -> None: ...

    def identity(self) -> dict[str, str]:
        return {}

    @contextmanager
    def open(self, step: Step, key: str) -> Iterator["MemoryTracker"]:
        yield self


@dataclass
class MemoryProgress:
    """Keeps how far every stage got."""

    stages: dict[str, tuple[int, int | None]] = field(default_factory=dict)

    @contextmanager
    def stage(self, description: str, total: int | None) -> Iterator[Callable[..., None]]:
        self.stages[description] = (0, total)

        def advance(n: int = 1, note: str = "") -> None:
            done, _ = self.stages[description]
            self.stages[description] = (done + n, total)

        yield advance


def folder_of(store: ArtifactStore, ref: ArtifactRef) -> Path:
    return store.open(ref).path()


def histories_by_user() -> dict[str, list[str]]:
    frame = make_interactions().group_by("user_id", maintain_order=True).agg("item_id")
    return dict(zip(frame["user_id"], frame["item_id"].to_list(), strict=True))


def expected_rank(scores: np.ndarray, target: int, seen: set[int]) -> int:
    """Rank of item index ``target`` among all items but ``seen``, by a loop."""
    rivals = [item for item in range(1, len(scores) + 1) if item != target and item not in seen]
    return 1 + sum(bool(scores[item - 1] >= scores[target - 1]) for item in rivals)
