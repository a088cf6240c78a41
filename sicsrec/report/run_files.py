"""Reading what a pipeline run left in the store, by reference."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from sicsrec.artifacts import ArtifactRef, ArtifactStore, Manifest
from sicsrec.data.catalog import ItemCatalog
from sicsrec.data.covers import CoverStore
from sicsrec.data.sequences import Histories, item_counts
from sicsrec.data.split import HeldOut, TrainLog
from sicsrec.errors import ArtifactMissingError
from sicsrec.evaluation.ranking import RankingSet
from sicsrec.report.parts import ShownItem
from sicsrec.steps import STEP_NAMES


@dataclass(frozen=True)
class RunFiles:
    """The finished steps of one run.

    Args:
        store: where they lie.
        refs: references of their outputs, keyed by ``step/output``.
    """

    store: ArtifactStore
    refs: Mapping[str, ArtifactRef]

    def has(self, *names: str) -> bool:
        """Return whether the run made all these outputs, each ``step/output``."""
        return all(name in self.refs for name in names)

    def path(self, name: str, file: str = ".") -> Path:
        """Return the path of a file or of the folder of an output.

        Raises:
            ArtifactMissingError: if the run did not make it, or it is not in the store any more.
        """
        if name not in self.refs:
            raise ArtifactMissingError(f"this run made no {name}")
        return self.store.open(self.refs[name]).path(file)

    @cached_property
    def manifests(self) -> dict[str, Manifest]:
        """Manifests of the steps, in order.

        Raises:
            ArtifactMissingError: if a step is not in the store any more.
        """
        places = {ref.step: (ref.dataset, ref.step, ref.key) for ref in self.refs.values()}
        found = {}
        for step in (name for name in STEP_NAMES if name in places):
            manifest = self.store.find(*places[step])
            if manifest is None:
                raise ArtifactMissingError(f"{step} {places[step][2]} is not in the store any more")
            found[step] = manifest
        return found

    def report(self, step: str) -> dict[str, Any]:
        """Return the content of a step's report; empty for a step that is not part of the run."""
        if step not in self.manifests:
            return {}
        manifest = self.manifests[step]
        report = self.store.report(manifest.dataset, step, manifest.key)
        content: dict[str, Any] = report["content"]
        return content

    def rows(self, step: str) -> tuple[int, str]:
        """Return the count that tells the size of a step's work, and what was counted."""
        manifest = self.manifests[step]
        report = self.store.report(manifest.dataset, step, manifest.key)
        return int(report["rows"]), str(report["rows_of"])

    @cached_property
    def catalog(self) -> ItemCatalog:
        """All items."""
        return ItemCatalog.read(self.path("ingest/catalog"))

    @cached_property
    def covers(self) -> CoverStore | None:
        """The covers; None where the run has none."""
        return CoverStore(self.path("ingest/covers")) if self.has("ingest/covers") else None

    @cached_property
    def interactions(self) -> pl.DataFrame:
        """The whole log."""
        return pl.read_parquet(self.path("ingest/interactions", "interactions.parquet"), glob=False)

    @cached_property
    def train(self) -> Histories:
        """Training histories."""
        log = TrainLog.read(self.path("split/train"))
        return Histories.from_interactions(log.interactions, self.catalog)

    @cached_property
    def train_counts(self) -> NDArray[np.int64]:
        """How often each item was watched in training, [N]."""
        return item_counts(self.train, self.catalog.n_items)

    @cached_property
    def _titles(self) -> dict[str, str | None]:
        return dict(self.catalog.frame.select("item_id", "title").iter_rows())

    def title(self, item_id: str) -> str:
        """Return an item's title, its id where it has none."""
        return self._titles[item_id] or item_id

    def name_items(self, rows: NDArray[np.integer]) -> pl.DataFrame:
        """Return ``item_id``, ``title`` and ``watched``, in training, of rows of the catalog."""
        ids = [self.catalog.item_ids[int(row)] for row in rows]
        titles = [self.title(item_id) for item_id in ids]
        return pl.DataFrame(
            {"item_id": ids, "title": titles, "watched": self.train_counts[rows]},
            schema_overrides={"item_id": pl.String, "title": pl.String},
        )

    def show(self, item_id: str, note: str = "") -> ShownItem:
        """Return an item as a reader sees it."""
        return ShownItem(item_id, self.title(item_id), note)

    def held_out(self, split: str) -> RankingSet:
        """Return users with context and target of ``valid`` or ``test``."""
        return RankingSet.from_held_out(HeldOut.read(self.path(f"split/{split}")), self.catalog)
