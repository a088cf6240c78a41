"""Tables as callers have them: polars, or anything that speaks Arrow, such as pandas."""

from typing import Any, Protocol, runtime_checkable

import polars as pl

from sicsrec.errors import DataError


@runtime_checkable
class ArrowTable(Protocol):
    """A table of any library that hands out its columns as Arrow, e.g. pandas from 2.2 on."""

    def __arrow_c_stream__(self, requested_schema: Any = None) -> Any:
        """Return the capsule that the Arrow PyCapsule interface describes."""
        ...


Table = pl.DataFrame | pl.LazyFrame | ArrowTable


def is_table(given: object) -> bool:
    """Whether :func:`as_table` reads it."""
    return isinstance(given, pl.DataFrame | pl.LazyFrame | ArrowTable) and not isinstance(
        given, pl.Series
    )


def as_table(given: object, what: str) -> pl.DataFrame:
    """Return a table of whatever library as one of polars; imports no other library.

    Args:
        given: the table.
        what: its name in messages.

    Raises:
        DataError: naming its type, if it is no table or cannot be read.
    """
    if isinstance(given, pl.DataFrame):
        return given
    kind = f"{type(given).__module__}.{type(given).__qualname__}"
    if not is_table(given):
        raise DataError(
            f"{what} must be a table of polars or pandas, or one with __arrow_c_stream__; "
            f"found {kind}"
        )
    table: Any = given
    try:
        return table.collect() if isinstance(given, pl.LazyFrame) else pl.DataFrame(table)
    except (pl.exceptions.PolarsError, OSError, TypeError, ValueError) as err:
        culprit = _unreadable_column(table)
        where = f"the column {culprit!r} of the {kind}" if culprit else f"the {kind}"
        raise DataError(f"{what}: {where} cannot be read: {err}") from err


def _unreadable_column(table: Any) -> str | None:
    """Return the first column of a table, such as one of pandas, that stops it from being read."""
    for name in getattr(table, "columns", ()):
        try:
            pl.DataFrame(table[[name]])
        except (pl.exceptions.PolarsError, OSError, TypeError, ValueError, KeyError):
            return str(name)
    return None
