"""Answers requests: user ids or histories in, ranked items out. Knows no server.

A request is a mapping with these entries, all optional but one of the first two:

``user_id``
    A user of the log that was exported. Beside a history it is a label and nothing more.
``history``
    Item ids in time order, oldest first.
``new_items``
    Videos that came after training, each with ``item_id`` and ``text``; ranked among the others by
    their content (:mod:`sicsrec.models.new_items`).

An answer has ``user_id``, ``item_ids``, ``scores``, ``ranked_by``, ``unknown_items`` (ids of the
history that the model does not know and that were left out) and ``error``. A request that is well
formed and cannot be answered, such as that of an unknown user, has an error and no items, so that a
batch is not lost to one of its rows. A malformed request raises.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from sicsrec.data.ids import composed_ids, text_id
from sicsrec.data.sequences import Histories, offsets_of
from sicsrec.errors import ArtifactError, DataError
from sicsrec.recommender.model import Recommender, require_at_least_one

MODEL_FOLDER = "model"
HISTORIES_FILE = "histories.parquet"
MAX_REQUESTS = 10_000
"""Most requests of one call; scores of 256 are held at once, answers of all."""

Row = dict[str, Any]


def write_histories(interactions: pl.LazyFrame, item_ids: Sequence[str], path: Path) -> None:
    """Write what every user watched, for a service that answers for users.

    Args:
        interactions: columns user_id, item_id and position.
        item_ids: ids of the model's items in the order of their index; others are left out.
        path: a Parquet file: user_id, and items, a list of item indices in time order.
    """
    items = pl.LazyFrame(
        {
            "item_id": pl.Series(item_ids, dtype=pl.String),
            "item_index": pl.Series(range(1, len(item_ids) + 1), dtype=pl.Int32),
        }
    )
    (
        interactions.join(items, on="item_id")
        .sort("user_id", "position")
        .group_by("user_id", maintain_order=True)
        .agg(pl.col("item_index").alias("items"))
        .collect()
        .write_parquet(path)
    )


def read_histories(path: Path) -> Histories:
    """Read what :func:`write_histories` wrote.

    Raises:
        ArtifactError: if the file is missing or another.
    """
    try:
        frame = pl.read_parquet(path, columns=["user_id", "items"], glob=False)
        lengths = frame["items"].list.len().to_numpy()
        items = frame["items"].explode().to_numpy()
    except (OSError, pl.exceptions.PolarsError) as err:
        raise ArtifactError(f"{path} is no readable table of histories: {err}") from err
    return Histories(frame["user_id"], offsets_of(lengths), items.astype(np.int32))


@dataclass(frozen=True)
class _Request:
    user_id: str | None
    history: list[str] | None
    new_items: list[dict[str, str]]

    @classmethod
    def read(cls, row: object, number: int) -> "_Request":
        """Check one request.

        Raises:
            DataError: naming the request and what is wrong with it.
        """
        where = f"request {number}"
        if not isinstance(row, Mapping):
            raise DataError(f"{where} must be a mapping with user_id or history, got {row!r}")
        unknown = sorted(set(row) - {"user_id", "history", "new_items"})
        if unknown:
            raise DataError(
                f"{where} has {unknown}; a request has user_id or history, and new_items"
            )
        user_id = row.get("user_id")
        if user_id is not None and not isinstance(user_id, str):
            raise DataError(f"{where}: user_id must be a string, got {user_id!r}")
        history = row.get("history")
        if history is not None:
            if not _is_list(history) or not all(isinstance(i, str) for i in history):
                raise DataError(f"{where}: history must be a list of item ids, got {history!r}")
            history = list(history)
        if user_id is None and history is None:
            raise DataError(f"{where} has neither user_id nor history")
        return cls(user_id, history, _read_new_items(row.get("new_items"), where))


def _is_list(given: object) -> bool:
    return isinstance(given, Iterable) and not isinstance(given, str | bytes | Mapping)


def _read_new_items(given: Any, where: str) -> list[dict[str, str]]:
    if given is not None and not _is_list(given):
        raise DataError(f"{where}: new_items must be a list of items, got {given!r}")
    found = [] if given is None else list(given)
    for entry in found:
        texts = [entry.get("item_id"), entry.get("text")] if isinstance(entry, Mapping) else [None]
        if not all(isinstance(text, str) and text.strip() for text in texts):
            raise DataError(f"{where}: every new item has an item_id and a text, got {entry!r}")
    return [{"item_id": entry["item_id"], "text": entry["text"]} for entry in found]


class RankingService:
    """Answers requests with one model.

    Args:
        recommender: the model.
        histories: what users of the log watched; None: no user is known.
    """

    def __init__(self, recommender: Recommender, histories: Histories | None = None) -> None:
        self.recommender = recommender
        self._histories = histories
        ids = [] if histories is None else composed_ids(histories.user_ids).to_list()
        self._row_of = {user_id: row for row, user_id in enumerate(ids)}
        self._item_ids = recommender.item_ids

    @classmethod
    def load(cls, folder: Path) -> "RankingService":
        """Read a folder that holds ``model/`` and, if users are known, ``histories.parquet``.

        Raises:
            ArtifactError: if a file is missing or the files do not belong together.
        """
        path = folder / HISTORIES_FILE
        histories = read_histories(path) if path.exists() else None
        return cls(Recommender.load(folder / MODEL_FOLDER), histories)

    def answer(
        self, requests: Sequence[Mapping[str, Any]], k: int = 10, *, remove_seen: bool = True
    ) -> list[Row]:
        """Return one answer per request, in their order.

        Args:
            requests: see the module; at most :data:`MAX_REQUESTS`.
            k: most items per answer.
            remove_seen: leave out the items of the history.

        Raises:
            DataError: if a request is malformed, there are too many, or k is below 1.
        """
        require_at_least_one(k, "k")
        if len(requests) > MAX_REQUESTS:
            raise DataError(f"{len(requests)} requests at once; at most {MAX_REQUESTS}")
        read = [_Request.read(row, number) for number, row in enumerate(requests)]
        answers = [self._open(request) for request in read]
        plain = [
            row
            for row, request in enumerate(read)
            if not (request.new_items or answers[row]["error"])
        ]
        if plain:
            pairs = [(str(row), answers[row]["history"]) for row in plain]
            for table in self.recommender.recommend_many(pairs, k, remove_seen=remove_seen):
                grouped = table.group_by("user_id", maintain_order=True).agg("item_id", "score")
                for name, items, scores in grouped.iter_rows():
                    answers[int(name)] |= {"item_ids": items, "scores": scores}
        for row, request in enumerate(read):
            if request.new_items and not answers[row]["error"]:
                answers[row] |= self._rank_new(request, answers[row]["history"], k, remove_seen)
        for entry in answers:
            del entry["history"]
        return answers

    def _open(self, request: _Request) -> Row:
        """Return the answer as far as it can be said without ranking, with the history to read."""
        history, error = request.history, None
        if history is None:
            user_id = str(request.user_id)
            row = self._row_of.get(text_id(user_id))
            if row is None or self._histories is None:
                error = f"user {user_id!r} is not known; give the item ids of a history"
                history = []
            else:
                indices = self._histories.of_user(row)
                history = [self._item_ids[index - 1] for index in indices]
        unknown = [item for item in history if not self.recommender.knows(item)]
        if error is None and len(unknown) == len(history):
            error = (
                "the history is empty; recommend popular items to such a user instead"
                if not history
                else f"none of the {len(history)} items of the history is known to the model"
            )
        return {
            "user_id": request.user_id,
            "item_ids": [],
            "scores": [],
            "ranked_by": self.recommender.ranks_by,
            "unknown_items": unknown,
            "error": error,
            "history": history,
        }

    def _rank_new(
        self,
        request: _Request,
        history: list[str],
        k: int,
        remove_seen: bool,
    ) -> Row:
        known = [item for item in history if self.recommender.knows(item)]
        try:
            new = self.recommender.encode(
                [entry["item_id"] for entry in request.new_items],
                [entry["text"] for entry in request.new_items],
            )
            basis = self.recommender.scorer_with(new).basis
            found = self.recommender.recommend(known, k, remove_seen=remove_seen, new=new)
        except DataError as err:
            return {"error": f"new_items: {err}"}
        return {
            "item_ids": found["item_id"].to_list(),
            "scores": found["score"].to_list(),
            "ranked_by": basis,
        }
