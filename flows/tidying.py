"""``sicsrec gc``: what the store could give up, and giving it up."""

from collections.abc import Sequence

from rich.console import Console
from rich.table import Table
from rich.text import Text

from flows.terminal import format_age, format_bytes, new_table
from sicsrec.artifacts import ArtifactStore
from sicsrec.retention import IN_USE, RetentionPolicy, StoredThing, list_things, remove_things
from tasks.record import mark_removed
from tasks.settings import Settings


def show_what_can_go(
    settings: Settings, policy: RetentionPolicy, datasets: Sequence[str], console: Console
) -> None:
    """Print everything in the store, what can be removed, and how much that frees."""
    things = list_things(ArtifactStore(settings.store_root), policy, datasets)
    for dataset in dict.fromkeys(thing.dataset for thing in things):
        console.print(_table(dataset, [thing for thing in things if thing.dataset == dataset]))
    going = [thing for thing in things if thing.verdict.is_removable]
    if not going:
        console.print("Nothing can be removed.")
        return
    console.print(
        f"{_count(going)} can be removed, {format_bytes(_size(going))} of "
        f"{format_bytes(_size(things))}. Nothing was removed; the same command with --delete does."
    )


def remove_what_can_go(
    settings: Settings, policy: RetentionPolicy, datasets: Sequence[str], console: Console
) -> None:
    """Remove what the policy does not keep; MLflow keeps its numbers and says what went."""

    def tell_in_use(dataset: str) -> None:
        console.print(Text(f"nothing of {dataset} is removed: {IN_USE}"))

    gone = []
    for thing in remove_things(
        ArtifactStore(settings.store_root), policy, datasets, when_in_use=tell_in_use
    ):
        gone.append(thing)
        console.print(
            Text(f"removed {thing.dataset}/{thing.step}/{thing.name}: {thing.verdict.reason}")
        )
    mark_removed([thing.tracked_as for thing in gone if thing.tracked_as])
    console.print(f"{_count(gone)} removed, {format_bytes(_size(gone))} freed.")


def _table(dataset: str, things: Sequence[StoredThing]) -> Table:
    table = new_table(dataset)
    table.add_column("step", no_wrap=True)
    table.add_column("key", no_wrap=True)
    table.add_column("", no_wrap=True)
    table.add_column("size", justify="right", no_wrap=True)
    table.add_column("age", justify="right", no_wrap=True)
    table.add_column("why")
    step = ""
    for thing in things:
        verdict = thing.verdict
        state, style = ("can go", "yellow") if verdict.is_removable else ("kept", "green")
        kind = "" if verdict.kind == "artifact" else f"{verdict.kind}: "
        table.add_row(
            "" if thing.step == step else thing.step,
            thing.name.removeprefix(".").split(".")[0][:8],
            Text(state, style=style),
            format_bytes(thing.n_bytes),
            format_age(thing.changed.isoformat()),
            Text(f"{kind}{verdict.reason}"),
        )
        step = thing.step
    return table


def _count(things: Sequence[StoredThing]) -> str:
    return "1 thing" if len(things) == 1 else f"{len(things)} things"


def _size(things: Sequence[StoredThing]) -> int:
    return sum(thing.n_bytes for thing in things)
