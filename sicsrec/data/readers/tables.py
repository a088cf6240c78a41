"""Any CSV, TSV, JSONL or Parquet tables, with a mapping of their columns."""

import json
import math
import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import polars as pl

from sicsrec.artifacts import visible_paths
from sicsrec.config import TablesReaderConfig
from sicsrec.data.covers import CoverFile
from sicsrec.data.ids import written_ids
from sicsrec.data.quarantine import QuarantineLog
from sicsrec.data.readers.base import RawData
from sicsrec.data.readers.delimited import Dialect, Table, read_delimited
from sicsrec.data.readers.folders import NamesOnDisk, check_folder, inside, list_covers
from sicsrec.data.readers.rows import interaction_rows, item_rows, split_topics
from sicsrec.data.schema import Schema
from sicsrec.errors import DataError
from sicsrec.paths import printable

_DELIMITERS = {".csv": ",", ".tsv": "\t", ".tab": "\t"}
_UNQUOTED_NULL = r"\N"
"""How Hive and MySQL write null."""
_JSON_LINES = (".jsonl", ".ndjson")
# A backslash before it would make it text that only looks like one.
_ESCAPED_NULL = re.compile(r"(?<!\\)(?:\\\\)*\\u0000")
_HALF_CHARACTER = re.compile("[\ud800-\udfff]")
_WHOLE_NUMBERS = 2.0**63
_NO_PARTITION = "__HIVE_DEFAULT_PARTITION__"
"""How Hive and Spark write null in the name of a folder."""


def read_tables(root: Path, config: TablesReaderConfig) -> RawData:
    """Read items and interactions with the columns that the configuration names.

    Raises:
        DataError: if a file or column is missing or the extension is unknown.
    """
    quarantine = QuarantineLog()
    n_rows: Counter[str] = Counter()
    items = _read_table(
        root,
        config.items,
        "ingest.reader.items",
        [
            config.item_id,
            config.title,
            config.description,
            config.language,
            config.topics,
            config.image,
        ],
        "item",
        config.quotes,
        n_rows,
        quarantine,
    )
    interactions = _read_table(
        root,
        config.interactions,
        "ingest.reader.interactions",
        [config.interaction_user, config.interaction_item, config.timestamp, config.rating],
        "interaction",
        config.quotes,
        n_rows,
        quarantine,
    )
    covers_root, covers, n_ignored = _find_covers(root, items, config, quarantine)
    return RawData(
        items=item_rows(
            items,
            quarantine,
            item_id=config.item_id,
            title=config.title,
            description=config.description,
            language=config.language,
            topics=None if config.topics is None else split_topics(config.topics),
            image=config.image,
        ),
        interactions=interaction_rows(
            interactions,
            quarantine,
            user_id=config.interaction_user,
            item_id=config.interaction_item,
            timestamp=config.timestamp,
            rating=config.rating,
        ),
        root=root,
        covers_root=covers_root,
        covers=covers,
        n_rows=n_rows,
        quarantine=quarantine,
        counts={"cover_files_ignored": n_ignored},
    )


def _find_covers(
    root: Path, items: Table, config: TablesReaderConfig, quarantine: QuarantineLog
) -> tuple[Path | None, list[CoverFile], int]:
    """Return the folder of the covers, the covers by column or by name, and how many files are none
    of them.
    """
    folder = None
    if config.covers is not None:
        folder = inside(root, config.covers, "ingest.reader.covers")
    if config.image is not None:
        folder = folder or root
        check_folder(folder)
        named = _covers_by_column(root, items, config.item_id, config.image, config.covers)
        return folder, named, 0
    if folder is None:
        return None, [], 0
    return folder, *list_covers(folder, root, quarantine)


def _covers_by_column(
    root: Path, items: Table, item_id: str, image: str, folder: str | None
) -> list[CoverFile]:
    prefix = "" if folder is None else f"{folder}/"
    paths = items.frame.select(
        item=written_ids(items.frame[item_id]), path=pl.col(image).str.strip_chars()
    )
    # Of a doubled id the first row is kept, with its cover or without one.
    kept = paths.unique("item", keep="first", maintain_order=True)
    named = kept.filter((pl.col("path") != "") & (pl.col("item") != ""))
    on_disk = NamesOnDisk(root)
    return [CoverFile(item, on_disk.find(prefix + path)) for item, path in named.iter_rows()]


def _read_table(
    root: Path,
    relative: str,
    key: str,
    columns: Sequence[str | None],
    kind: str,
    has_quotes: bool,
    n_rows: Counter[str],
    quarantine: QuarantineLog,
) -> Table:
    path = inside(root, relative, key)
    wanted = list(dict.fromkeys(column for column in columns if column is not None))
    if "row" in wanted:
        raise DataError(
            f"{key}: the column 'row' of {relative} cannot be read, since readers count rows under "
            "that name; rename it there and in the configuration"
        )
    suffix = path.suffix.lower()
    if suffix in _DELIMITERS:
        null = None if has_quotes else _UNQUOTED_NULL
        dialect = Dialect(_DELIMITERS[suffix], has_quotes=has_quotes, null=null)
        return read_delimited(path, relative, dialect, wanted, kind, n_rows, quarantine)
    if suffix in _JSON_LINES:
        return _read_json_lines(path, relative, wanted, kind, n_rows, quarantine)
    if suffix == ".parquet":
        return _read_parquet(path, relative, wanted, n_rows)
    known = ", ".join([*_DELIMITERS, *_JSON_LINES, ".parquet"])
    raise DataError(f"{key}: {relative!r} has an unknown extension; known: {known}")


def _read_json_lines(
    path: Path,
    file: str,
    wanted: Sequence[str],
    kind: str,
    n_rows: Counter[str],
    quarantine: QuarantineLog,
) -> Table:
    values: dict[str, list[str | None]] = {name: [] for name in wanted}
    seen: set[str] = set()
    rows: list[int] = []
    row, first_fault = 0, ""
    try:
        with path.open("rb") as stream:
            for number, line in enumerate(stream, start=1):
                if not line.strip():
                    continue
                row += 1
                try:
                    content = _parse_json_line(line)
                    seen.update(content)
                    texts = [_json_text(name, content.get(name)) for name in wanted]
                except _LineError as fault:
                    detail = f"line {number}: {fault.detail}"
                    first_fault = first_fault or detail
                    quarantine.add(kind, file, row, None, fault.reason, detail)
                    continue
                rows.append(row)
                for column, text in zip(values.values(), texts, strict=True):
                    column.append(text)
    except OSError as err:
        raise DataError(f"{path} cannot be read: {err}") from err
    if not row:
        raise DataError(f"{file} is empty")
    if not seen:
        raise DataError(
            f"{file}: none of its {row} lines is a JSON object with fields; {first_fault}. "
            'Expected one object per line, such as {"item_id": "7", "title": "A title"}'
        )
    missing = [name for name in wanted if name not in seen]
    if missing:
        raise DataError(f"{file} has no column {missing}; it has {sorted(seen)}")
    n_rows[file] += row
    columns = {name: pl.Series(name, column, dtype=pl.String) for name, column in values.items()}
    return Table(file, pl.DataFrame({**columns, "row": pl.Series("row", rows, dtype=pl.Int64)}))


class _LineError(Exception):
    """A line cannot be used; carries a reason word and a detail for the quarantine."""

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(f"{reason}: {detail}")
        self.reason = reason
        self.detail = detail


def _parse_json_line(line: bytes) -> dict[str, object]:
    try:
        text = line.decode("utf-8-sig")
        content = json.loads(text)
    except UnicodeDecodeError as err:
        raise _LineError("invalid_utf8", str(err)) from err
    except (ValueError, RecursionError) as err:
        raise _LineError("invalid_json", str(err)) from err
    if not isinstance(content, dict):
        raise _LineError("invalid_json", "not a JSON object")
    if _ESCAPED_NULL.search(text):
        raise _LineError("null_byte", "the row holds a null byte")
    return content


def _json_text(name: str, value: object) -> str | None:
    """Return the text that a Parquet column of such values would give."""
    if isinstance(value, list):
        texts = [_json_text(name, entry) for entry in value]
        return "|".join(text for text in texts if text is not None)
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return None
    if isinstance(value, str):
        if not value.isascii() and _HALF_CHARACTER.search(value):
            raise _LineError("invalid_utf8", f"{name!r} holds half a character: {value[:40]!r}")
        return value
    if isinstance(value, bool) or not isinstance(value, int | float):
        shown = json.dumps(value)[:40]
        raise _LineError("not_a_text", f"{name!r} is neither text nor number: {shown}")
    is_whole = isinstance(value, float) and abs(value) < _WHOLE_NUMBERS and value.is_integer()
    text = str(int(value) if is_whole else value)
    # Polars writes 0.00001 and 1e-7 where Python has 1e-05 and 1e-07.
    return text if "e-" not in text else pl.Series([value]).cast(pl.String).item()


def _read_parquet(path: Path, file: str, wanted: Sequence[str], n_rows: Counter[str]) -> Table:
    parts = _parquet_parts(path) if path.is_dir() else [path]
    if not parts:
        raise DataError(f"the folder {file} holds no Parquet file")
    number = pl.int_range(1, pl.len() + 1, dtype=pl.Int64)
    # One by one: the plan of a table of thousands of files takes minutes.
    frames = [_read_part(part, path, wanted).with_columns(row=number) for part in parts]
    n_rows[file] += sum(frame.height for frame in frames)
    if not path.is_dir():
        return Table(file, frames[0])
    names = [f"{file}/{part.relative_to(path).as_posix()}" for part in parts]
    files = [
        pl.Series([name]).new_from_index(0, frame.height)
        for name, frame in zip(names, frames, strict=True)
    ]
    return Table(file, pl.concat(frames), pl.concat(files))


def _read_part(part: Path, table: Path, wanted: Sequence[str]) -> pl.DataFrame:
    """Return the wanted columns of one file of a table as text, whatever types other files have.

    What it lacks may be in the names of its folders below that of the table, ``year=2021``.
    """
    if (shown := printable(str(part))) != str(part):
        raise DataError(
            f"{shown}: the path is not in UTF-8, and Parquet files are not read from such paths; "
            "rename the folder or file"
        )
    named = _partition_values(part.relative_to(table).parts[:-1])
    try:
        # Not polars' own reading of such names: it takes those above the table too, lets them
        # count in place of the file's columns, and makes numbers and dates of ids.
        lazy = pl.scan_parquet(part, glob=False, hive_partitioning=False)
        schema = lazy.collect_schema()
        missing = [name for name in wanted if name not in schema and name not in named]
        if missing:
            raise DataError(f"{part} has no column {missing}; it has {[*schema, *named]}")
        _check_types(part, {name: schema[name] for name in wanted if name in schema})
        # Columns beside those of the file, and then chosen, are as long as these.
        of_folders = [
            pl.lit(named[name], dtype=pl.String).alias(name)
            for name in wanted
            if name not in schema
        ]
        texts = [as_text(name, schema) if name in schema else pl.col(name) for name in wanted]
        return lazy.with_columns(of_folders).select(texts).collect()
    except (OSError, pl.exceptions.PolarsError) as err:
        raise DataError(f"{part} cannot be read as Parquet: {err}") from err


def _check_types(part: Path, types: Schema) -> None:
    """Refuse what has no text; written as one, an object would be taken for a title or an id.

    Raises:
        DataError: naming column and type.
    """
    for name, dtype in types.items():
        inner = dtype
        while isinstance(inner, pl.List | pl.Array):
            inner = inner.inner
        if isinstance(inner, pl.Struct | pl.Boolean | pl.Duration):
            raise DataError(
                f"{part}: the column {name!r} has the type {dtype}, and a text, a number or a time "
                "is read from it; write such a column, or name another one in the configuration"
            )


def _partition_values(folders: Sequence[str]) -> dict[str, str | None]:
    """Return the columns that names of folders hold, as Hive and Spark write them.

    Example:
        >>> _partition_values(("year=2021", "user_id=a%2Fb", "raw"))
        {'year': '2021', 'user_id': 'a/b'}
    """
    pairs = (folder.split("=", 1) for folder in folders if "=" in folder)
    return {
        unquote(name): None if value == _NO_PARTITION else unquote(value) for name, value in pairs
    }


def _parquet_parts(folder: Path) -> list[Path]:
    """Return the files of a table that is a folder, without what Spark and others put beside them:
    ``.part-0.parquet.crc``, ``_SUCCESS``, ``_delta_log``. Some write parts without an extension.
    ``_day=1`` is a value of the column ``_day``, as for Spark.

    Raises:
        DataError: if a link leads to no file.
    """
    paths = sorted(
        path
        for path in visible_paths(folder)
        if not any(
            part.startswith("_") and "=" not in part for part in path.relative_to(folder).parts
        )
    )
    if (link := next((path for path in paths if not path.is_file()), None)) is not None:
        target = "a folder, and these are not followed" if link.is_dir() else "nothing"
        raise DataError(
            f"{printable(str(link))} is a link to {target}; put the folder or file itself in its "
            "place, or remove it"
        )
    return [path for path in paths if path.suffix.lower() in ("", ".parquet")]


def read_ids(frame: pl.DataFrame) -> pl.Series:
    """Return the column ``item_id`` of a typed table as ids of items are read.

    12.0 is item 12, and spaces around an id are no part of it.
    """
    return written_ids(frame.select(as_text("item_id", frame.schema)).to_series())


def as_text(name: str, schema: Schema) -> pl.Expr:
    """Return a column of a typed table as the text that a CSV file of it would hold.

    Args:
        name: the column.
        schema: of the table.
    """
    return _text_of(pl.col(name), schema[name]).alias(name)


def _text_of(column: pl.Expr, dtype: Any) -> pl.Expr:
    """Return values of a polars type as text; entries of a list are written as values alone are."""
    if isinstance(dtype, pl.Array):
        return _text_of(column.arr.to_list(), pl.List(dtype.inner))
    if isinstance(dtype, pl.List):
        entries = column.list.eval(_text_of(pl.element(), dtype.inner))
        return entries.cast(pl.List(pl.String)).list.join("|")
    if isinstance(dtype, pl.Datetime):
        utc = column if dtype.time_zone is None else column.dt.convert_time_zone("UTC")
        return utc.dt.strftime("%Y-%m-%dT%H:%M:%S%.6f+00:00")
    if isinstance(dtype, pl.Date):
        return column.dt.strftime("%Y-%m-%d")
    if dtype.is_float():
        # Whole numbers beside nulls often come as floats: id 12 must not become "12.0".
        whole = column.cast(pl.Int64, strict=False)
        text = pl.when(whole.cast(dtype) == column).then(whole.cast(pl.String))
        # NaN is how pandas writes that there is nothing.
        other = pl.when(column.is_not_nan()).then(column.cast(pl.String))
        return text.otherwise(other)
    if dtype.is_decimal():
        # The scale is the column's: id 12 is "12", however many places it is written with.
        return column.cast(pl.String).str.replace(r"\.0*$|(\.\d*[1-9])0+$", "$1")
    return column.cast(pl.String)
