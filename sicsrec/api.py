"""Train on tables of your own without a pipeline: ten lines, no Prefect, no MLflow.

::

    import polars as pl, sicsrec

    recommender = sicsrec.train(
        interactions=pl.read_parquet("plays.parquet"),   # user_id, item_id, timestamp
        items=pl.read_csv("videos.csv"),                 # item_id, title
        vectors={"text": matrix},                        # row r belongs to row r of items
        folder="my-recommender",
    )
    recommender.recommend(["12", "7", "301"], k=10)
    recommender.save("model")

The steps are those of the pipeline, and so is the store below ``folder``: a second call with the
same tables and settings reuses what was made, and one that was cut off goes on.
"""

import os
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np
import polars as pl
import polars.selectors as cs
from numpy.typing import ArrayLike, NDArray
from pydantic import ValidationError

from sicsrec.artifacts import ArtifactRef, ArtifactStore
from sicsrec.config import PipelineConfig
from sicsrec.config.base import is_other_variant
from sicsrec.data.given_tables import Table, as_table, is_table
from sicsrec.data.readers.tables import read_ids
from sicsrec.data.vectors import MODALITIES
from sicsrec.errors import ConfigError, DataError
from sicsrec.linking import link_or_copy_folder
from sicsrec.paths import check_utf8
from sicsrec.progress import Progress
from sicsrec.recommender import Recommender
from sicsrec.steps import STEPS
from sicsrec.steps.runner import run_step

_WITH_A_TEXT = (
    pl.String, pl.Categorical, pl.Enum, pl.Null, pl.Boolean, pl.Date, pl.Datetime,
)  # fmt: skip
"""Types whose values a CSV file has a text for."""

Vectors = Mapping[str, NDArray[np.floating] | Sequence[Sequence[float]] | Table]
"""``text`` or ``image`` to a matrix [N, D], which may be nested lists, whose row r belongs to
row r of the items, or to a table with the columns item_id and vector."""


def train(
    interactions: Table,
    items: Table,
    vectors: Vectors | None = None,
    *,
    folder: str | os.PathLike[str],
    covers: str | os.PathLike[str] | None = None,
    config: Mapping[str, Any] | None = None,
    device: str = "auto",
    progress: Progress | None = None,
) -> Recommender:
    """Train SICSRec and its blend on tables and return a recommender.

    Tables may be of polars, eager or lazy, of pandas, or of another library that speaks Arrow.

    Args:
        interactions: columns user_id, item_id and, unless the rows are in time order, timestamp
            (integer seconds or milliseconds since 1970, or ISO 8601).
        items: columns item_id and title.
        vectors: what stands for the items' content; None: encoders that ``config`` names under
            ``align_encoders`` are fine-tuned and make them.
        folder: where the steps leave their outputs; created when needed.
        covers: folder of images named ``<item id>.<extension>``.
        config: sections of the configuration as in a YAML file, e.g.
            ``{"train_sicsrec": {"max_epochs": 20}}``.
        device: torch device; ``auto`` takes an accelerator where there is one.
        progress: shows how far it is.

    Raises:
        ConfigError: if a section or value of ``config`` is wrong, or there are neither vectors nor
            encoders.
        DataError: if the tables cannot be used.
    """
    root = Path(folder).resolve()
    resolved = _configure(interactions, items, vectors, root, covers, config or {})
    store = ArtifactStore(root / "artifacts")
    refs: dict[str, ArtifactRef] = {}
    for step in STEPS:
        if step.is_needed(resolved):
            result = run_step(step.name, resolved, refs, store, device=device, progress=progress)
            refs |= result.refs
    used = "cpu" if device == "auto" else device
    return Recommender.load(store.open(refs["export/model"]).path(), used)


def _configure(
    interactions: Table,
    items: Table,
    vectors: Vectors | None,
    root: Path,
    covers: str | os.PathLike[str] | None,
    config: Mapping[str, Any],
) -> PipelineConfig:
    """Write the tables where the steps read them, and return the configuration."""
    if not isinstance(config, Mapping):
        raise ConfigError(
            "config must be a mapping of sections, such as a YAML file holds, got "
            f"{type(config).__name__}"
        )
    check_utf8(str(root), "folder")
    tables = root / "tables"
    interactions, items = as_table(interactions, "interactions"), as_table(items, "items")
    _require(interactions, ("user_id", "item_id"), "interactions")
    _refuse_objects(interactions, ("timestamp",), "interactions")
    _require(items, ("item_id", "title"), "items")
    try:
        tables.mkdir(parents=True, exist_ok=True)
    except OSError as err:
        raise ConfigError(f"the folder {root} cannot be used: {err.strerror}") from err
    # Python objects have no place in Parquet; what needs none of them is not stopped by them.
    interactions.select(~cs.object()).write_parquet(tables / "interactions.parquet")
    items.select(~cs.object()).write_parquet(tables / "items.parquet")
    reader = {
        "kind": "tables",
        "items": "items.parquet",
        "interactions": "interactions.parquet",
        "timestamp": "timestamp" if "timestamp" in interactions.columns else None,
        "covers": None if covers is None else _place_covers(Path(covers), tables),
    }
    sections: dict[str, Any] = {
        "dataset": "own",
        "ingest": {"path": str(tables), "reader": reader},
        "export": {"score": "blend"},
    }
    if vectors is not None:
        # Not beside the tables: ingest would read all covers again whenever a vector changes.
        source = _write_vectors(vectors, items, root / "vectors")
        sections["encode_items"] = {"source": {"kind": "given", **source}}
    try:
        return PipelineConfig.model_validate(_merged(sections, config))
    except ValidationError as err:
        found = "; ".join(
            f"{'.'.join(map(str, error['loc'])) or 'configuration'}: {error['msg']}"
            for error in err.errors(include_url=False)
        )
        raise ConfigError(f"the configuration cannot be used: {found}") from err


def _merged(known: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """Put changes over sections, as a file does that extends another: key by key, at any depth."""
    merged = dict(known)
    for name, value in changes.items():
        old = merged.get(name)
        if isinstance(old, Mapping) and isinstance(value, Mapping):
            merged[name] = value if is_other_variant(old, value) else _merged(old, value)
        else:
            merged[name] = value
    return merged


def _place_covers(covers: Path, tables: Path) -> str:
    """Put covers where the reader, which leaves its folder for nothing, finds them."""
    if not covers.is_dir():
        raise DataError(f"covers: there is no folder {covers}")
    place = tables / "covers"
    if covers.resolve() != place:
        shutil.rmtree(place, ignore_errors=True)
        place.mkdir()
        link_or_copy_folder(covers, place)
    return place.name


def _require(frame: pl.DataFrame, columns: tuple[str, ...], what: str) -> None:
    missing = [name for name in columns if name not in frame.columns]
    if missing:
        raise DataError(f"{what} lack the columns {missing}; found {frame.columns}")
    _refuse_objects(frame, columns, what)


def _refuse_objects(frame: pl.DataFrame, columns: tuple[str, ...], what: str) -> None:
    for name in columns:
        dtype = frame.schema.get(name, pl.Null())
        if dtype == pl.Object:
            raise DataError(f"{what}: [{name!r}] hold Python objects; make them text or numbers")
        # UUIDs of pandas come as bytes.
        if not (dtype.is_numeric() or dtype in _WITH_A_TEXT or dtype.is_nested()):
            raise DataError(f"{what}: {name!r} holds values of the type {dtype}; make them text")


def _write_vectors(vectors: object, items: pl.DataFrame, folder: Path) -> dict[str, str]:
    """Write vectors keyed by item id and return their files by modality.

    Raises:
        DataError: if they are no mapping of modalities, or do not fit the items.
    """
    if not isinstance(vectors, Mapping):
        raise DataError(
            f"vectors must be a mapping from {' or '.join(MODALITIES)} to a matrix or table, such "
            f'as {{"text": matrix}}, got {type(vectors).__name__}'
        )
    unknown = sorted(set(vectors) - set(MODALITIES))
    if unknown or not vectors:
        raise DataError(f"vectors must be of {' or '.join(MODALITIES)}, got {sorted(vectors)}")
    files = {}
    for modality, values in vectors.items():
        if is_table(values):
            frame = as_table(values, f"vectors[{modality!r}]")
            _refuse_objects(frame, ("item_id", "vector"), f"vectors[{modality!r}]")
            frame = frame.select(~cs.object())
        else:
            matrix = _as_matrix(values, modality)
            if matrix.ndim != 2 or len(matrix) != items.height:
                raise DataError(
                    f"vectors[{modality!r}] has the shape {list(matrix.shape)}; expected one row "
                    f"for each of the {items.height} items"
                )
            frame = items.select("item_id").with_columns(
                vector=pl.Series(matrix, dtype=pl.Array(pl.Float32, matrix.shape[1]))
            )
        if "item_id" in frame.columns:
            frame = frame.with_columns(read_ids(frame))
        if not is_table(values):
            # Ingest keeps the first of several rows of an item, and none without an id.
            frame = frame.filter(pl.col("item_id").str.len_bytes() > 0)
            frame = frame.unique("item_id", keep="first", maintain_order=True)
        folder.mkdir(exist_ok=True)
        path = folder / f"{modality}.parquet"
        frame.write_parquet(path)
        files[modality] = str(path)
    return files


def _as_matrix(values: object, modality: str) -> NDArray[np.float32]:
    try:
        return np.ascontiguousarray(cast(ArrayLike, values), dtype=np.float32)
    except (ValueError, TypeError, RuntimeError) as err:
        raise DataError(
            f"vectors[{modality!r}] is no matrix of numbers, one row per item: {err}"
        ) from err
