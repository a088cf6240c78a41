"""``sicsrec gc``: what the store could give up, and giving it up."""

import shutil
from collections.abc import Container, Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Table
from rich.text import Text

from flows.terminal import format_age, format_bytes, new_table
from sicsrec.artifacts import ArtifactStore
from sicsrec.retention import IN_USE, RetentionPolicy, StoredThing, list_things, remove_things
from sicsrec.runs import RunRegister
from tasks.record import mark_removed
from tasks.report import reports_on_removed_steps
from tasks.settings import Settings


def show_what_can_go(
    settings: Settings, policy: RetentionPolicy, datasets: Sequence[str], console: Console
) -> None:
    """Print everything in the store, what can be removed, and how much that frees."""
    things = list_things(ArtifactStore(settings.store_root), policy, datasets)
    for dataset in dict.fromkeys(thing.dataset for thing in things):
        of_dataset = [thing for thing in things if thing.dataset == dataset]
        console.print(_table(dataset, of_dataset, console.width))
    going = [thing for thing in things if thing.verdict.is_removable]
    gone = {(thing.dataset, thing.step, thing.name) for thing in going}
    reports = _reports(settings, datasets, gone)
    if reports:
        console.print(
            f"Reports on artifacts that are gone, or go with these: {len(reports)}, "
            f"{format_bytes(sum(map(_bytes_of, reports)))}."
        )
    if not going:
        console.print(
            "Nothing else can be removed; the same command with --delete removes the reports."
            if reports
            else "Nothing can be removed."
        )
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
    freed = _size(gone)
    reports = _reports(settings, datasets)
    for report in reports:
        freed += _bytes_of(report)
        shutil.rmtree(report)
        console.print(Text(f"removed {report}: it shows artifacts that are gone"))
    further = f" and {len(reports)} of their reports" if reports else ""
    console.print(f"{_count(gone)}{further} removed, {format_bytes(freed)} freed.")


def _reports(
    settings: Settings,
    datasets: Sequence[str],
    going: Container[tuple[str, str, str]] = (),
) -> list[Path]:
    """Return the folders of reports on what is not in the store, or about to go from it."""
    store = ArtifactStore(settings.store_root)
    folders = settings.report_folder.glob("*/")
    found = []
    for dataset in sorted(folder.name for folder in folders):
        if datasets and dataset not in datasets:
            continue
        if RunRegister(store.root, dataset).is_in_use():
            continue

        def is_there(step: str, key: str, dataset: str = dataset) -> bool:
            if (dataset, step, key) in going:
                return False
            return store.folder(dataset, step, key).is_dir()

        found += reports_on_removed_steps(settings, dataset, is_there)
    return found


def _bytes_of(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.iterdir())


def _table(dataset: str, things: Sequence[StoredThing], width: int) -> Table:
    table = new_table(dataset, width=width)
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
