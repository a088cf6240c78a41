"""The items of a dataset: ids, texts, and whether they have a cover."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import polars as pl
from numpy.typing import NDArray

from sicsrec.data.schema import IMAGE_STATUSES, ITEMS, check_schema
from sicsrec.errors import DataError

FILE_NAME = "items.parquet"


class ItemCatalog:
    """All items in the order of their index 1..N.

    Args:
        frame: a table of the schema :data:`sicsrec.data.schema.ITEMS`.

    Raises:
        SchemaError: if columns or types differ.
        DataError: if an id is null or doubled, an index is not 1..N, or a status is unknown.
    """

    def __init__(self, frame: pl.DataFrame) -> None:
        frame = check_schema(frame, ITEMS, "item catalogue").sort("item_index")
        if frame["item_id"].null_count() or frame["item_id"].n_unique() != frame.height:
            raise DataError("item catalogue: item ids must be unique and not null")
        if not np.array_equal(frame["item_index"].to_numpy(), np.arange(1, frame.height + 1)):
            raise DataError("item catalogue: item_index must count 1..N")
        unknown = set(frame["image_status"].unique()) - set(IMAGE_STATUSES)
        if unknown:
            raise DataError(f"item catalogue: unknown image_status {sorted(map(str, unknown))}")
        self.frame = frame

    @classmethod
    def read(cls, folder: Path) -> "ItemCatalog":
        """Read the catalogue that :meth:`write` left in ``folder``."""
        return cls(pl.read_parquet(folder / FILE_NAME, glob=False))

    def write(self, folder: Path) -> None:
        """Write the catalogue into ``folder``."""
        self.frame.write_parquet(folder / FILE_NAME)

    @property
    def n_items(self) -> int:
        """Number of items N; indices run from 1 to N."""
        return self.frame.height

    @property
    def item_ids(self) -> pl.Series:
        """Item ids; row r belongs to index r + 1."""
        return self.frame["item_id"]

    @property
    def texts(self) -> list[str | None]:
        """Texts; entry r belongs to index r + 1, None where the item has none."""
        return self.frame["text"].to_list()

    def check_has(self, modality: str) -> None:
        """Refuse a catalogue of which no item has a modality that is to be encoded.

        Raises:
            DataError: naming the encoder that has nothing to encode.
        """
        has = {
            "text": self.frame["text"].is_not_null(),
            "image": self.frame["image_status"] == "ok",
        }
        if not has[modality].any():
            raise nothing_to_encode(modality)

    def indices_of(self, item_ids: pl.Series | Sequence[str]) -> NDArray[np.int32]:
        """Return the index of every id.

        Raises:
            DataError: if an id is not in the catalogue.
        """
        wanted = pl.DataFrame({"item_id": pl.Series(item_ids, dtype=pl.String)})
        found = wanted.join(
            self.frame.select("item_id", "item_index"),
            on="item_id",
            how="left",
            maintain_order="left",
        )
        unknown = found.filter(pl.col("item_index").is_null())["item_id"]
        if len(unknown):
            raise DataError(
                f"{len(unknown)} item ids are not in the catalogue, "
                f"e.g. {unknown.head(3).to_list()}"
            )
        return found["item_index"].to_numpy()

    def ids_of(self, item_indices: NDArray[np.integer]) -> pl.Series:
        """Return the id of every index.

        Raises:
            DataError: if an index lies outside 1..N.
        """
        if len(item_indices) and (item_indices.min() < 1 or item_indices.max() > self.n_items):
            raise DataError(f"item indices must lie in 1..{self.n_items}")
        return self.item_ids.gather(item_indices.astype(np.int64) - 1)


def nothing_to_encode(modality: str) -> DataError:
    """Return the error of an encoder that no item has anything for."""
    wanted = {"text": "texts (ingest.text_fields)", "image": "covers"}[modality]
    return DataError(
        f"align_encoders.{modality}_encoder is set but no item has a usable {modality}; give the "
        f"items {wanted}, or set it to null"
    )
