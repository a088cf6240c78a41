"""Answers questions about one user, one history or one new item, from a finished export."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl

from sicsrec.artifacts import ArtifactStore
from sicsrec.data.images import IMAGE_SUFFIXES
from sicsrec.errors import ConfigError, DataError
from sicsrec.models.new_items import NewItemVectors
from sicsrec.recommender import Recommender
from sicsrec.recommender.audience import find_audience
from sicsrec.recommender.explanations import explain
from sicsrec.steps.finished import FinishedExport, newest_export

NEW_ITEM = "new item"
"""Id under which the new item is ranked."""
TEXT_SUFFIXES = (".txt", ".md")
MAX_TEXT_BYTES = 1 << 20
SCORES = {
    "blend": "the blend's score; an item nobody has watched yet stands where the models' scores by "
    "id are those of the least watched items",
    "id_and_content": "the content part of the model's score",
    "content": "similarity of content alone, for all items: this model ranks by item ids, which a "
    "new item has not, so these scores are not those of recommendations",
}
"""What a new item's score means, by basis."""


@dataclass(frozen=True)
class Question:
    """What a person asks."""

    user: str | None = None
    history: tuple[str, ...] | None = None
    new_item: tuple[Path, ...] = ()
    """Files of a new item: one text, one cover, or both."""
    k: int = 10
    explain: bool = False

    def check(self) -> None:
        """Refuse what cannot be answered.

        Raises:
            ConfigError: saying what to ask instead.
        """
        if self.user is not None and self.history is not None:
            raise ConfigError("give a user or a history, not both")
        if self.user is None and self.history is None and not self.new_item:
            raise ConfigError("give a user, a history, or the files of a new item")
        if self.history is not None and not self.history:
            raise ConfigError("the history is empty; give item ids, oldest first")
        if self.k < 1:
            raise ConfigError(f"k must be at least 1, got {self.k}")


def answer(
    question: Question,
    store: ArtifactStore,
    *,
    dataset: str | None = None,
    key: str | None = None,
    model: Path | None = None,
    device: str = "cpu",
) -> dict[str, Any]:
    """Answer a question with the newest export of a dataset, a named one, or a model folder.

    Watched items are left out where the export leaves them out, and by a model folder always.

    Args:
        question: what is asked.
        store: where exports are looked for.
        dataset: of which dataset; None: the only one.
        key: the beginning of an export's key, for an older one.
        model: a model folder, in place of an export.
        device: torch device.

    Returns:
        JSON values: ``model``, ``ranks_by``, ``history`` and ``recommendations`` where there is a
        user or a history, ``new_item`` where there is one.

    Raises:
        ConfigError: if the question cannot be answered as it is asked.
        DataError: if a user, item or file is not known or cannot be used.
        ArtifactError: if there is no such export or model folder.
    """
    question.check()
    if model is not None and (dataset is not None or key is not None):
        raise ConfigError(
            "a model folder takes the place of an export; give --model, or --dataset and --export"
        )
    finished = None if model is not None else newest_export(store, dataset, key)
    folder = model if finished is None else finished.model_folder
    assert folder is not None  # noqa: S101 - one of the two is given
    history = question.history
    if question.user is not None:
        if finished is None:
            raise ConfigError("a model folder knows no users; give a history of item ids")
        history = tuple(finished.history_of(question.user))
    recommender = Recommender.load(folder, device)
    content: dict[str, Any] = {"model": str(folder), "ranks_by": recommender.ranks_by}
    if history is not None:
        content["user"] = question.user
        remove_seen = finished is None or finished.remove_seen
        content |= _recommend(recommender, list(history), question, remove_seen=remove_seen)
    if question.new_item:
        new = recommender.encode([NEW_ITEM], **_read_files(question.new_item))
        content["new_item"] = _place(recommender, new, question, history, finished)
    return content


def _recommend(
    recommender: Recommender, history: list[str], question: Question, *, remove_seen: bool
) -> dict[str, Any]:
    found = recommender.recommend(history, question.k, remove_seen=remove_seen)
    rows = [{**row, "title": recommender.title_of(row["item_id"])} for row in found.to_dicts()]
    if question.explain:
        known = [item_id for item_id in history if recommender.knows(item_id)]
        explained = explain(recommender, known, found["item_id"].to_list())
        for row, entry in zip(rows, explained, strict=True):
            row["parts"] = entry.parts
            row["spoke"] = entry.spoke
            row["nearest"] = [
                {
                    "item_id": item_id,
                    "title": recommender.title_of(item_id),
                    "similarity": similarity,
                }
                for item_id, similarity in entry.nearest
            ]
    return {"history": _named(recommender, history), "recommendations": rows}


def _named(recommender: Recommender, item_ids: Sequence[str]) -> list[dict[str, Any]]:
    return [
        {"item_id": item, "title": recommender.title_of(item), "known": recommender.knows(item)}
        for item in item_ids
    ]


def _place(
    recommender: Recommender,
    new: NewItemVectors,
    question: Question,
    history: tuple[str, ...] | None,
    finished: FinishedExport | None,
) -> dict[str, Any]:
    """Return what the new item is near, and for whom it would be recommended."""
    near = recommender.neighbours_of_new(new, question.k).drop("new_item_id").to_dicts()
    basis = recommender.scorer_with(new).basis
    content: dict[str, Any] = {
        "made_of": sorted(new.matrices),
        "near": [{**row, "title": recommender.title_of(row["item_id"])} for row in near],
        "scored_by": basis,
        "score_means": SCORES[basis],
    }
    if history is not None:
        ranked = recommender.recommend(history, recommender.model.n_items + 1, new=new)
        own = ranked.filter(pl.col("item_id") == NEW_ITEM).to_dicts()[0]
        content["for_this_history"] = {
            "rank": own["rank"],
            "of": ranked.height,
            "score": own["score"],
        }
    elif finished is not None:
        table = finished.interactions().sort("user_id", "position").collect()
        histories = recommender.histories(table)
        audience = find_audience(recommender, new, histories, k=question.k)
        content["audience"] = {
            "users": audience.n_users,
            "in_top_k": audience.n_in_top_k,
            "k": question.k,
            "first": audience.users.to_dicts(),
        }
    return content


def _read_files(files: Sequence[Path]) -> dict[str, Any]:
    """Return texts and covers for :meth:`Recommender.encode`.

    Raises:
        DataError: if a file is missing, of another kind, or there are two of a kind.
    """
    given: dict[str, Any] = {}
    for path in files:
        suffix = path.suffix.lower()
        if not path.is_file():
            raise DataError(f"there is no file {path}")
        if suffix in TEXT_SUFFIXES:
            name = "texts"
        elif suffix in IMAGE_SUFFIXES:
            name = "covers"
        else:
            raise DataError(
                f"{path} is neither a text ({', '.join(TEXT_SUFFIXES)}) nor a cover "
                f"({', '.join(sorted(IMAGE_SUFFIXES))})"
            )
        if name in given:
            raise DataError(f"a new item has one text and one cover at most; {path} is a second")
        given[name] = [_read_text(path) if name == "texts" else path]
    return given


def _read_text(path: Path) -> str:
    if path.stat().st_size > MAX_TEXT_BYTES:
        raise DataError(f"{path} has more than {MAX_TEXT_BYTES} bytes; give the item's text alone")
    try:
        # Windows begins texts with a mark of their encoding, which is no part of a title.
        return " ".join(path.read_text(encoding="utf-8-sig").split())
    except UnicodeDecodeError as err:
        raise DataError(f"{path} is not a text in UTF-8: {err}") from err
