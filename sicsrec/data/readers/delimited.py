"""Delimited text, row by row, so that one broken row costs one row.

Column-wise readers stop at or silently repair ragged rows and quotes; here every row is either
whole or in the quarantine, and row numbers are those of the file.
"""

import csv
import re
from collections import Counter, deque
from collections.abc import Container, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

import polars as pl

from sicsrec.data.quarantine import QuarantineLog
from sicsrec.errors import DataError

_MANY_LINES = 200
_SEVERAL_LINES = 8
_MOST_CHARACTERS_PER_FIELD = 16 << 20
_ROWS_PER_CHUNK = 500_000
_END_MARK = "\0\x1a\0"
_UNDECODED_BYTE = re.compile("[\udc80-\udcff]")


_Fault = tuple[str, str]
"""Reason and detail."""


@dataclass(frozen=True)
class Dialect:
    """How a delimited text file is written."""

    delimiter: str = ","
    has_quotes: bool = True
    encoding: str = "utf-8-sig"
    columns: tuple[str, ...] | None = None
    """Names of the columns of a file without a header; None: the first row names them."""
    header_words: Mapping[str, frozenset[str]] | None = None
    """For files that may come with or without a header: the names, in lower case, that a header may
    give to each of ``columns``. A first row that begins with one of them is a header, and so is one
    of which the first word alone is unknown, unless it may be an item that is called so."""
    null: str | None = None
    """The field that stands for null; None: no field does."""


@dataclass(frozen=True)
class Table:
    """Columns of strings out of one file, or out of a folder of files that make one table."""

    file: str
    frame: pl.DataFrame
    """The wanted columns as strings or null, and ``row``, from 1 over the data rows of a file."""
    parts: pl.Series | None = None
    """Of a folder, the file of every row."""

    @property
    def files(self) -> pl.Series:
        """The file of every row."""
        if self.parts is not None:
            return self.parts
        return pl.Series([self.file]).new_from_index(0, self.frame.height)


@dataclass(frozen=True)
class _Record:
    line: int
    fields: list[str]
    reason: str = ""
    detail: str = ""


class _Lines:
    """Hands lines to a csv reader and takes back those that a broken record swallowed."""

    def __init__(self, stream: Iterable[str]) -> None:
        self._stream = iter(stream)
        self._returned: deque[str] = deque()
        self._has_ended = False
        self.taken: list[str] = []
        self.n_done = 0

    def __iter__(self) -> "_Lines":
        return self

    def __next__(self) -> str:
        if self._returned:
            line = self._returned.popleft()
        else:
            found = next(self._stream, None)
            if found is None and self._has_ended:
                raise StopIteration
            self._has_ended = found is None
            # The mark stands alone after the last record, or inside a quote that never closed.
            line = _END_MARK if found is None else found
        self.taken.append(line)
        return line

    def finish_record(self) -> None:
        self.n_done += len(self.taken)
        self.taken.clear()

    def keep_first(self) -> None:
        """Give back all lines of the record but the first."""
        self._returned.extendleft(reversed(self.taken[1:]))
        del self.taken[1:]


def _records(stream: Iterable[str], dialect: Dialect) -> Iterator[_Record]:
    """Yield every record; blank lines are none."""
    lines = _Lines(stream)
    n_fields = None if dialect.columns is None else len(dialect.columns)
    reader = _csv_reader(lines, dialect)
    while True:
        number = lines.n_done + 1
        fields, fault = _next_fields(reader, lines, n_fields, dialect)
        if fields == [_END_MARK] or (not lines.taken and not fault):
            return
        if fault:
            if fault[0] == "unclosed_quote":
                lines.keep_first()
            reader = _csv_reader(lines, dialect)
        else:
            fault = _find_fault(lines.taken, fields, dialect)
        lines.finish_record()
        if fields and n_fields is None and not fault:
            n_fields = len(fields)
        if fault:
            yield _Record(number, [], fault[0], f"line {number}: {fault[1]}")
        elif fields:
            yield _Record(number, fields)


def _find_fault(taken: Sequence[str], fields: Sequence[str], dialect: Dialect) -> _Fault | None:
    """Return what is wrong with a record that has the right number of fields."""
    text = "".join(taken)
    if not text.isascii() and _UNDECODED_BYTE.search(text):
        return "invalid_utf8", f"not {dialect.encoding.removesuffix('-sig')}"
    if "\0" in text:
        return "null_byte", "the row holds a null byte"
    if _may_be_rows(taken, len(fields), dialect, _MANY_LINES):
        return "doubtful_quote", f"a quote opens here and closes {len(taken) - 1} lines below"
    return None


def _may_be_rows(taken: Sequence[str], n_fields: int, dialect: Dialect, most_lines: int) -> bool:
    """Return whether one record of more than ``most_lines`` lines may as well be as many rows.

    Either a long text with delimiters in every line, or a quote that never closes and meets a stray
    one far below. Nothing tells which, so that neither may be believed. A wrong number of fields
    speaks for the stray quote, so fewer lines are enough then.
    """
    if len(taken) <= most_lines:
        return False
    between = _csv_reader(taken[1:-1], dialect, is_strict=False)
    return {len(row) for row in between if row} == {n_fields}


def _csv_reader(
    lines: Iterable[str], dialect: Dialect, *, is_strict: bool = True
) -> Iterator[list[str]]:
    if dialect.has_quotes:
        return csv.reader(lines, delimiter=dialect.delimiter, strict=is_strict)
    return csv.reader(lines, delimiter=dialect.delimiter, quoting=csv.QUOTE_NONE)


def _next_fields(
    reader: Iterator[list[str]], lines: _Lines, n_fields: int | None, dialect: Dialect
) -> tuple[list[str], _Fault | None]:
    """Return the fields of the next record, or what is wrong with it."""
    # A quote that never closes is followed for as long as a field may be, which the reader checks.
    try:
        fields = next(reader, [])
    except csv.Error as err:
        # Text after a closing quote: forgiven within a line (`"A" Team`), but over several lines it
        # means that an unclosed quote has met the next opening one.
        if len(lines.taken) > 1:
            return [], ("unclosed_quote", f"a quote opens here and does not close: {err}")
        try:
            fields = next(_csv_reader([lines.taken[0], _END_MARK], dialect, is_strict=False), [])
        except csv.Error as fault:
            return [], ("field_too_long", str(fault))
    if fields == [_END_MARK]:
        return fields, None
    if fields and fields[-1].endswith(_END_MARK):
        return [], ("unclosed_quote", "a quote opens here and does not close")
    if fields and n_fields is not None and len(fields) != n_fields:
        return [], _wrong_count(lines.taken, fields, n_fields, dialect)
    return fields, None


def _wrong_count(
    taken: Sequence[str], fields: Sequence[str], n_fields: int, dialect: Dialect
) -> _Fault:
    if _may_be_rows(taken, n_fields, dialect, _SEVERAL_LINES):
        detail = f"a quote opens here, and {len(taken) - 2} lines that may be rows follow"
        return "unclosed_quote", detail
    where = f" in {len(taken)} lines" if len(taken) > 1 else ""
    return "wrong_field_count", f"expected {n_fields} fields, found {len(fields)}{where}"


def read_delimited(
    path: Path,
    file: str,
    dialect: Dialect,
    wanted: Sequence[str],
    kind: str,
    n_rows: Counter[str],
    quarantine: QuarantineLog,
) -> Table:
    """Read some columns of a delimited text file.

    Args:
        path: the file.
        file: its name in reports and in the quarantine.
        dialect: how it is written.
        wanted: columns to read.
        kind: ``item`` or ``interaction``, for the quarantine.
        n_rows: told how many rows the file has.
        quarantine: receives broken rows.

    Raises:
        DataError: if the file cannot be opened, is empty, or lacks a column.
    """
    chunks: list[pl.DataFrame] = []
    try:
        with (
            path.open(encoding=dialect.encoding, errors="surrogateescape", newline="") as stream,
            _long_fields(),
        ):
            records = _records(stream, dialect)
            first = next(records, None)
            if first is None:
                raise DataError(f"{file} is empty")
            header, columns = _read_header(first, file, dialect)
            places = _find_columns(columns, wanted, file)
            values: list[list[str]] = [[] for _ in wanted]
            rows: list[int] = []
            row = 0
            for record in records if header else chain([first], records):
                row += 1
                if record.reason:
                    quarantine.add(kind, file, row, None, record.reason, record.detail)
                    continue
                # The first of the two answers for nearly all rows, at hardly any cost.
                if record.fields[-1:] == header[-1:] and _is_same_header(record.fields, header):
                    detail = f"line {record.line}: the header stands here again"
                    quarantine.add(kind, file, row, None, "repeated_header", detail)
                    continue
                rows.append(row)
                for column, place in zip(values, places, strict=True):
                    column.append(record.fields[place])
                if len(rows) >= _ROWS_PER_CHUNK:
                    chunks.append(_to_frame(wanted, values, rows))
                    values, rows = [[] for _ in wanted], []
    except OSError as err:
        raise DataError(f"{path} cannot be read: {err}") from err
    chunks.append(_to_frame(wanted, values, rows))
    n_rows[file] += row
    frame = pl.concat(chunks)
    if dialect.null is not None:
        frame = frame.with_columns(pl.col(wanted).replace(dialect.null, None))
    return Table(file, frame)


@contextmanager
def _long_fields() -> Iterator[None]:
    """Let fields be as long as those of the other formats; the limit is one of the process."""
    before = csv.field_size_limit(_MOST_CHARACTERS_PER_FIELD)
    try:
        yield
    finally:
        csv.field_size_limit(before)


def _read_header(first: _Record, file: str, dialect: Dialect) -> tuple[list[str], Sequence[str]]:
    """Return the fields of the header, none if the first record is data, and the columns' names."""
    if dialect.columns is not None:
        named = _name_columns(first.fields, dialect.columns, dialect.header_words or {}, file)
        return ([], dialect.columns) if named is None else (first.fields, named)
    if first.reason:
        raise DataError(f"{file}: the header cannot be read: {first.detail}")
    return first.fields, [name.strip() for name in first.fields]


def _is_same_header(fields: Sequence[str], header: Sequence[str]) -> bool:
    """Return whether a row is the header once more, as where files were joined end to end."""
    # The mark that some programs begin a file with is then in its midst.
    return [fields[0].removeprefix("\ufeff"), *fields[1:]] == header


def _name_columns(
    fields: Sequence[str],
    columns: Sequence[str],
    words: Mapping[str, frozenset[str]],
    file: str,
) -> Sequence[str] | None:
    """Return the columns in the order of a header, or None if the fields are no header."""
    column_of = {word: column for column in columns for word in words.get(column, ())}
    names = [field.strip().lower() for field in fields]
    if not _is_header(names, column_of):
        return None
    found = [column_of.get(name) for name in names]
    # Names that nobody foresaw are believed to stand where the layout has them.
    if all(name in (None, column) for name, column in zip(found, columns, strict=True)):
        return columns
    named = [name for name in found if name is not None]
    if sorted(named) != sorted(columns):
        raise DataError(
            f"{file}: the header {list(fields)} is not in the expected order {list(columns)} and "
            "cannot be read by its names; write it with these names, or the columns in this order"
        )
    return named


def _is_header(names: Sequence[str], known: Container[str]) -> bool:
    """Return whether words in lower case are the names of columns.

    A row of two may be an item whose title is "title", so there an unknown first word must at
    least read as the name of an id.
    """
    if not names or names[0] in known:
        return bool(names)
    if len(names) == 1 or not all(name in known for name in names[1:]):
        return False
    return len(names) > 2 or names[0].endswith("id")


def _find_columns(columns: Sequence[str], wanted: Sequence[str], file: str) -> list[int]:
    missing = [name for name in wanted if name not in columns]
    if missing:
        raise DataError(f"{file} has no column {missing}; it has {list(columns)}")
    # Others may stand twice, such as the empty names of columns beside a spreadsheet's table.
    twice = [name for name in wanted if list(columns).count(name) > 1]
    if twice:
        raise DataError(f"{file}: the header names a column twice: {twice} in {list(columns)}")
    return [list(columns).index(name) for name in wanted]


def _to_frame(wanted: Sequence[str], values: list[list[str]], rows: list[int]) -> pl.DataFrame:
    columns = {
        name: pl.Series(name, column, dtype=pl.String)
        for name, column in zip(wanted, values, strict=True)
    }
    return pl.DataFrame({**columns, "row": pl.Series("row", rows, dtype=pl.Int64)})
