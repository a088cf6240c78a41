"""Rows and covers that are left out, each with a reason, its file and its row."""

from collections import Counter

import polars as pl

from sicsrec.data.schema import QUARANTINE
from sicsrec.paths import printable

REASONS: dict[str, str] = {
    "wrong_field_count": "the row has more or fewer fields than the file's header or layout",
    "repeated_header": "the row is the file's header once more, as in files joined end to end",
    "unclosed_quote": "a quote is opened and not closed",
    "doubtful_quote": "a quoted text of many lines, each of which could be a row of its own",
    "field_too_long": "a field has more than 16,777,216 characters",
    "invalid_utf8": "some bytes are not text in the file's encoding",
    "null_byte": "the row holds a null byte",
    "invalid_json": "the line is not a JSON object",
    "not_a_text": "a field of a JSON line holds an object, true or false where a text belongs",
    "empty_id": "the item or user id is empty",
    "duplicate_id": "an earlier row has the same id; that one is kept",
    "bad_timestamp": "the time is empty or cannot be read",
    "bad_rating": "the rating is empty or not a finite number",
    "item_not_in_catalog": "the item of the interaction is not among the items",
    "duplicate_cover": "an item has more than one cover file; the first by name is kept",
    "no_such_file": "the cover that the item's row names is not there",
    "empty_file": "the file has no bytes",
    "not_an_image": "the content is no image of a known format",
    "truncated": "the image ends before its last pixel",
    "undecodable": "the image is damaged",
    "undecodable_video": "the video is damaged or of an unknown format",
    "no_video": "the file holds no pictures",
    "too_many_pixels": "more pixels than ingest.max_cover_pixels",
    "too_elongated": "one side is more than 100 times as long as the other",
    "too_many_bytes": "more bytes than ingest.max_cover_bytes",
    "outside_folder": "a link or path leads out of the covers folder",
    "hidden_file": "files and folders whose names begin with a dot count for nothing",
    "not_a_file": "the path is a folder or a device",
    "unreadable_file": "the operating system refuses to read it",
}
"""Every reason word and what it means."""


class QuarantineLog:
    """Collects what is left out."""

    def __init__(self) -> None:
        self._frames: list[pl.DataFrame] = []
        self._rows: list[tuple[str, str, int | None, str | None, str, str]] = []

    def add(
        self, kind: str, file: str, row: int | None, key: str | None, reason: str, detail: str
    ) -> None:
        """Record one row or cover; the arguments are the columns of the schema QUARANTINE.

        Names of files may hold bytes that are no UTF-8.

        Raises:
            ValueError: if the reason is not one of :data:`REASONS`.
        """
        _check_reasons({reason})
        key = None if key is None else printable(key)
        self._rows.append((kind, printable(file), row, key, reason, printable(detail)))

    def extend(self, frame: pl.DataFrame) -> None:
        """Record a table of the schema QUARANTINE.

        Raises:
            ValueError: if a reason is not one of :data:`REASONS`.
        """
        if frame.height:
            _check_reasons(set(frame["reason"]))
            self._frames.append(
                frame.select(pl.col(name).cast(t) for name, t in QUARANTINE.items())
            )

    def frame(self) -> pl.DataFrame:
        """Return everything recorded, sorted, so that equal input gives an equal table."""
        rows = pl.DataFrame(self._rows, schema=dict(QUARANTINE), orient="row")
        whole = pl.concat([*self._frames, rows])
        return whole.sort("kind", "file", "row", "key", "reason", "detail", nulls_last=True)

    def counts(self) -> dict[str, dict[str, int]]:
        """Return how often each reason occurs, by kind."""
        counted: dict[str, Counter[str]] = {}
        for kind, reason in self.frame().select("kind", "reason").iter_rows():
            counted.setdefault(kind, Counter())[reason] += 1
        return {kind: dict(sorted(reasons.items())) for kind, reasons in sorted(counted.items())}


def _check_reasons(reasons: set[str]) -> None:
    unknown = reasons - set(REASONS)
    if unknown:
        raise ValueError(f"REASONS does not explain {sorted(unknown)}")
