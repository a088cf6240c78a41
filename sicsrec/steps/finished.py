"""Finds finished exports in a store, with the users' histories they were made from."""

import logging
from dataclasses import dataclass
from pathlib import Path

import polars as pl

from sicsrec.artifacts import ArtifactStore, Manifest
from sicsrec.data.ids import text_id
from sicsrec.errors import ArtifactMissingError, DataError
from sicsrec.steps.lineage import by_last_use

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class FinishedExport:
    """One commit of the step ``export``."""

    store: ArtifactStore
    manifest: Manifest

    @property
    def model_folder(self) -> Path:
        """The model folder."""
        return self.store.open(self.manifest.refs()["export/model"]).path()

    @property
    def top_k(self) -> int:
        """Recommendations per user, as the export was configured."""
        return int(self.manifest.config["top_k"])

    @property
    def remove_seen(self) -> bool:
        """Whether the export leaves out what a user has watched."""
        return bool(self.manifest.config["remove_seen"])

    @property
    def interactions_file(self) -> Path:
        """The log that the export read, sorted by user_id and position.

        Raises:
            ArtifactMissingError: if the log is no longer in the store.
        """
        entry = self.manifest.inputs["ingest/interactions"]
        folder = self.store.folder(self.manifest.dataset, entry["step"], entry["key"])
        path: Path = folder / "data" / entry["output"] / "interactions.parquet"
        if not path.is_file():
            raise ArtifactMissingError(
                f"the interactions {entry['key']} that export {self.manifest.key} read are no "
                "longer in the store; run the pipeline again, or give a history"
            )
        return path

    def interactions(self) -> pl.LazyFrame:
        """Return user_id, item_id and position of :attr:`interactions_file`."""
        return pl.scan_parquet(self.interactions_file, glob=False).select(
            "user_id", "item_id", "position"
        )

    def history_of(self, user_id: str) -> list[str]:
        """Return the items of a user in time order.

        Raises:
            DataError: if the log does not know the user.
        """
        of_user = self.interactions().filter(pl.col("user_id") == text_id(user_id))
        rows = of_user.sort("position").collect()
        if rows.is_empty():
            some = self.interactions().select("user_id").unique().sort("user_id").head(3).collect()
            raise DataError(
                f"dataset {self.manifest.dataset} has no user {user_id!r}; ids look like "
                f"{', '.join(map(repr, some['user_id']))}. For somebody new give "
                "item ids as history"
            )
        return rows["item_id"].to_list()


def newest_export(
    store: ArtifactStore, dataset: str | None = None, key: str | None = None
) -> FinishedExport:
    """Return the export that was made last, or reused last by a run that ended well.

    Args:
        store: where to look.
        dataset: of which dataset; None: of the only one there is.
        key: the beginning of the export's key, for an older one.

    Raises:
        ArtifactMissingError: if there is none, or several datasets and none named.
    """
    datasets = store.datasets("export")
    if dataset is None:
        if len(datasets) > 1:
            raise ArtifactMissingError(
                f"there are exports of several datasets; name one of {', '.join(datasets)}"
            )
        dataset = datasets[0] if datasets else ""
    found = store.manifests(dataset, "export") if dataset in datasets else []
    if key:
        found = [manifest for manifest in found if manifest.key.startswith(key)]
    if not found:
        what = f"of dataset {dataset!r}" if dataset else "of any dataset"
        named = f" with the key {key!r}" if key else ""
        have = f"; there are exports of {', '.join(datasets)}" if datasets else ""
        raise ArtifactMissingError(
            f"there is no finished export {what}{named} in {store.root}{have}; run the pipeline "
            "first, or name a model folder"
        )
    return FinishedExport(store, by_last_use(store, found)[-1])
