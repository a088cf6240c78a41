"""Answers questions about one user, one history or one new item, from a finished export."""

from collections.abc import Sequence
from typing import Any

import polars as pl

from sicsrec.models.new_items import NewItemVectors
from sicsrec.recommender import Recommender
from sicsrec.recommender.audience import find_audience
from sicsrec.recommender.explanations import explain
from sicsrec.steps.finished import FinishedExport
from sicsrec.steps.questions import Asked, Question

NEW_ITEM = "new item"
"""Id under which the new item is ranked."""
SCORES = {
    "blend": "the blend's score; an item nobody has watched yet stands where the models' scores by "
    "id are those of the least watched items",
    "id_and_content": "the content part of the model's score",
    "content": "similarity of content alone, for all items: this model ranks by item ids, which a "
    "new item has not, so these scores are not those of recommendations",
}
"""What a new item's score means, by basis."""


def answer(asked: Asked, device: str = "cpu") -> dict[str, Any]:
    """Answer a question that was looked into.

    Watched items are left out where the export leaves them out, and by a model folder always.

    Args:
        asked: what is asked, and of which model.
        device: torch device.

    Returns:
        JSON values: ``model``, ``ranks_by``, ``history`` and ``recommendations`` where there is a
        user or a history, ``new_item`` where there is one.

    Raises:
        DataError: if an item is not known or a file cannot be used.
        ArtifactError: if the model folder is none.
    """
    question, history, finished = asked.question, asked.history, asked.finished
    recommender = Recommender.load(asked.model_folder, device)
    content: dict[str, Any] = {
        "model": str(asked.model_folder),
        "ranks_by": recommender.ranks_by,
    }
    if history is not None:
        content["user"] = question.user
        remove_seen = finished is None or finished.remove_seen
        content |= _recommend(recommender, list(history), question, remove_seen=remove_seen)
    if question.new_item:
        new = recommender.encode([NEW_ITEM], **asked.content)
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
