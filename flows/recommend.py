"""The answers of ``sicsrec recommend`` as tables."""

from collections.abc import Iterator, Mapping
from typing import Any

from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from flows.terminal import new_table

_SHOWN_HISTORY = 10


def answer_tables(answer: Mapping[str, Any]) -> Iterator[RenderableType]:
    """Yield what a person sees of an answer of :func:`sicsrec.steps.answers.answer`."""
    if "history" in answer:
        yield _history_table(answer)
        rows = answer["recommendations"]
        yield _recommendations_table(rows, answer["ranks_by"])
        if not rows:
            yield Text("There is nothing left to recommend.")
        if rows and "parts" in rows[0]:
            yield _parts_table(rows)
    if "new_item" in answer:
        yield from _new_item(answer["new_item"])


def _history_table(answer: Mapping[str, Any]) -> Table:
    history = answer["history"]
    who = f"user {answer['user']}: " if answer.get("user") else ""
    latest = f", the last {_SHOWN_HISTORY}" if len(history) > _SHOWN_HISTORY else ""
    table = new_table(f"{who}{len(history)} items watched{latest}, oldest first")
    table.add_column("item", no_wrap=True)
    table.add_column("title")
    for row in history[-_SHOWN_HISTORY:]:
        title = row["title"] if row["known"] else "not known to the model, left out"
        table.add_row(Text(row["item_id"]), Text(title, style="" if row["known"] else "yellow"))
    return table


def _recommendations_table(rows: list[Mapping[str, Any]], ranks_by: str) -> Table:
    table = new_table(f"recommendations, ranked by {ranks_by}")
    table.add_column("", justify="right", no_wrap=True)
    # Ids as long as a UUID would leave the words no room.
    table.add_column("item", overflow="fold")
    table.add_column("title")
    table.add_column("score", justify="right", no_wrap=True)
    explained = bool(rows) and "spoke" in rows[0]
    if explained:
        table.add_column("spoke for it", no_wrap=True)
        table.add_column("nearest in the history")
    for row in rows:
        cells: list[str | Text] = [
            str(row["rank"]),
            Text(row["item_id"]),
            Text(row["title"]),
            f"{row['score']:.3f}",
        ]
        if explained:
            near = [
                f"{entry['title'] or entry['item_id']} {entry['similarity']:.2f}"
                for entry in row["nearest"]
            ]
            cells += [row["spoke"], Text("\n".join(near))]
        table.add_row(*cells)
    return table


def _parts_table(rows: list[Mapping[str, Any]]) -> Table:
    table = new_table("parts of the scores; they add up")
    # The names of all parts of a blend fit into 80 columns without, and not with one more; ids may
    # be long, so the places stand for them.
    table.padding = 0
    table.add_column("", justify="right", no_wrap=True)
    names = list(rows[0]["parts"])
    for name in names:
        table.add_column(name, justify="right", overflow="fold")
    table.add_column("score", justify="right", no_wrap=True)
    for row in rows:
        parts = [f"{row['parts'][name]:+.2f}" for name in names]
        table.add_row(str(row["rank"]), *parts, f"{row['score']:.2f}")
    return table


def _new_item(content: Mapping[str, Any]) -> Iterator[RenderableType]:
    near = new_table(f"nearest to the new item, by {' and '.join(content['made_of'])}")
    near.add_column("", justify="right", no_wrap=True)
    near.add_column("item", no_wrap=True)
    near.add_column("title")
    near.add_column("cosine", justify="right", no_wrap=True)
    for row in content["near"]:
        near.add_row(
            str(row["rank"]),
            Text(row["item_id"]),
            Text(row["title"]),
            f"{row['similarity']:.3f}",
        )
    yield near
    if "for_this_history" in content:
        place = content["for_this_history"]
        yield Text(
            f"After this history the new item comes {place['rank']:,}. of {place['of']:,}, "
            f"score {place['score']:.3f}."
        )
    if "audience" in content:
        audience = content["audience"]
        users = new_table("users for whom it stands highest")
        users.add_column("user", no_wrap=True)
        users.add_column("place", justify="right", no_wrap=True)
        users.add_column("score", justify="right", no_wrap=True)
        for row in audience["first"]:
            users.add_row(Text(row["user_id"]), f"{row['rank']:,}", f"{row['score']:.3f}")
        yield users
        yield Text(
            f"It is among the first {audience['k']} recommendations of {audience['in_top_k']:,} "
            f"of {audience['users']:,} users."
        )
    yield Text(f"Scores: {content['score_means']}.", style="dim")
