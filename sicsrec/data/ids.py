"""Ids as callers give them, to the strings they are everywhere inside.

The same letters can be written in several ways in Unicode, and systems differ in which they choose:
macOS takes "é" apart in names of files. Inside, ids are in NFC, whatever form they came in.
"""

import unicodedata
from collections.abc import Iterable, Mapping, Set
from numbers import Integral

import polars as pl

from sicsrec.errors import DataError


def text_id(value: object) -> str:
    """Return an id as the string it is known by.

    Args:
        value: a string or a whole number; tables with numbers as ids are read to strings as well.

    Raises:
        DataError: if it is anything else.

    Example:
        >>> text_id(12), text_id("12"), text_id("cafe\N{COMBINING ACUTE ACCENT}")
        ('12', '12', 'café')
    """
    # bool is a kind of int, yet True is nobody's id.
    if isinstance(value, bool) or not isinstance(value, str | Integral):
        raise DataError(f"ids are strings or whole numbers; found {value!r}")
    text = str(value)
    return text if text.isascii() else unicodedata.normalize("NFC", text)


def text_ids(values: object, what: str) -> list[str]:
    """Return a sequence of ids as strings.

    Args:
        values: the ids.
        what: their name in messages.

    Raises:
        DataError: if they are a single string or no sequence, or see :func:`text_id`.
    """
    if isinstance(values, str):
        raise DataError(f"{what} must be a sequence of item ids, got the string {values!r}")
    if isinstance(values, bytes) or not isinstance(values, Iterable):
        raise DataError(f"{what} must be a sequence of item ids, got {values!r}")
    return [value if type(value) is str and value.isascii() else text_id(value) for value in values]


def text_ids_in_order(values: object, what: str) -> list[str]:
    """Return a sequence of ids whose order counts as strings.

    Args:
        values: the ids, in time order.
        what: their name in messages.

    Raises:
        DataError: if they have no order, or see :func:`text_ids`.
    """
    if isinstance(values, Set | Mapping):
        raise DataError(
            f"{what} must be a sequence of item ids in time order; a {type(values).__name__} has "
            "no such order"
        )
    return text_ids(values, what)


def text_id_column(column: pl.Series) -> pl.Series:
    """Return a column of ids as strings.

    Raises:
        DataError: if it holds neither strings nor whole numbers, or a null.
    """
    dtype = column.dtype
    if column.null_count():
        raise DataError(f"ids are strings or whole numbers; found null in the column {column.name}")
    if not (dtype.is_integer() or dtype in (pl.String, pl.Categorical, pl.Enum, pl.Null)):
        raise DataError(
            f"ids are strings or whole numbers; found {dtype} in the column {column.name}"
        )
    return composed_ids(column.cast(pl.String))


def written_ids(column: pl.Series) -> pl.Series:
    """Return ids as they stand in files, as the strings they are known by; nulls stay.

    Spaces around an id are no part of it.
    """
    return composed_ids(column.str.strip_chars())


def composed_ids(column: pl.Series) -> pl.Series:
    """Return strings in NFC."""
    # Millions of ids are ASCII nearly always, and counting is far faster than normalising.
    if column.str.len_bytes().sum() == column.str.len_chars().sum():
        return column
    return column.str.normalize("NFC")
