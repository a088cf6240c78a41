"""MovieLens 100K, with plot texts and posters where they are present."""

from collections import Counter
from pathlib import Path

import polars as pl

from sicsrec.config import MovieLensReaderConfig
from sicsrec.data.quarantine import QuarantineLog
from sicsrec.data.readers.base import RawData
from sicsrec.data.readers.delimited import Dialect, read_delimited
from sicsrec.data.readers.folders import find_one, find_optional, list_covers
from sicsrec.data.readers.rows import interaction_rows, item_rows

_GENRES = (
    "Action", "Adventure", "Animation", "Children", "Comedy", "Crime", "Documentary", "Drama",
    "Fantasy", "FilmNoir", "Horror", "Musical", "Mystery", "Romance", "SciFi", "Thriller", "War",
    "Western",
)  # fmt: skip

_RATINGS = Dialect("\t", has_quotes=False, columns=("user", "item", "rating", "time"))

_MOVIE_COLUMNS = (
    "movie_id", "title", "released", "video_released", "url", "genre_unknown", *_GENRES,
)  # fmt: skip


def read_movielens_100k(root: Path, config: MovieLensReaderConfig) -> RawData:  # noqa: ARG001
    """Read ``u.data``, the items of ``items.csv`` or else ``u.item``, and ``posters/<id>.jpg``.

    Raises:
        DataError: if a file is missing or lacks a column.
    """
    quarantine = QuarantineLog()
    n_rows: Counter[str] = Counter()
    ratings = read_delimited(
        find_one(root, ("u.data",), "file of ratings"),
        "u.data",
        _RATINGS,
        ("user", "item", "rating", "time"),
        "interaction",
        n_rows,
        quarantine,
    )
    path = find_one(root, ("items.csv", "u.item"), "file of movies")
    has_plots = path.name == "items.csv"
    further = ("overview", "original_language") if has_plots else ()
    movies = read_delimited(
        path,
        path.name,
        Dialect() if has_plots else _movies_dialect(path),
        ("movie_id", "title", *_GENRES, *further),
        "item",
        n_rows,
        quarantine,
    )
    flags = [pl.when(pl.col(name) == "1").then(pl.lit(name)) for name in _GENRES]
    posters = find_optional(root, ("posters",), "folder of posters")
    covers, n_ignored = list_covers(posters, root, quarantine) if posters else ([], 0)
    return RawData(
        items=item_rows(
            movies,
            quarantine,
            item_id="movie_id",
            title="title",
            description="overview" if has_plots else None,
            language="original_language" if has_plots else None,
            topics=pl.concat_list(flags).list.drop_nulls(),
        ),
        interactions=interaction_rows(
            ratings, quarantine, user_id="user", item_id="item", timestamp="time", rating="rating"
        ),
        root=root,
        covers_root=posters,
        covers=covers,
        n_rows=n_rows,
        quarantine=quarantine,
        counts={"cover_files_ignored": n_ignored},
    )


def _movies_dialect(path: Path) -> Dialect:
    """Return how ``u.item`` is written: in Latin-1 as it was released, unless it is valid UTF-8."""
    try:
        path.read_text(encoding="utf-8")
        encoding = "utf-8-sig"
    except UnicodeDecodeError:
        encoding = "latin-1"
    return Dialect("|", has_quotes=False, encoding=encoding, columns=_MOVIE_COLUMNS)
