"""What a person sees: the steps while they run, tables, errors. Good on 80 columns."""

import logging
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Self

from rich import box
from rich.console import Console, Group
from rich.live import Live
from rich.logging import RichHandler
from rich.markup import escape
from rich.panel import Panel
from rich.progress import BarColumn, TaskProgressColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bars
from rich.table import Table
from rich.text import Text

from sicsrec.addresses import WithoutPasswords
from sicsrec.evaluation.names import metrics_of, title_of
from sicsrec.progress import Advance, LogProgress, Progress
from sicsrec.tuning.study import TrialRow
from tasks.outcome import StepOutcome

_WIDE = 80
"""Columns of a terminal from which on every table has its usual room."""
_COMPARED = ("hr_at_10", "ndcg_at_5", "ndcg_at_10")
_STATE_STYLES = {
    "ran": "green",
    "cached": "cyan",
    "fetched": "cyan",
    "running": "bold yellow",
    "failed": "bold red",
    "to do": "yellow",
}


def new_table(title: str | None = None, *, width: int = _WIDE) -> Table:
    """Return an empty table in the style that all tables share.

    Args:
        title: shown as it is: names in it may look like Rich's markup.
        width: columns of the terminal; in a narrow one the table's columns stand closer together.
    """
    shown = None if title is None else Text(title, style="bold")
    return Table(
        title=shown,
        title_justify="left",
        # A title is wrapped to the width of its table, however much room there is beside it.
        min_width=None if shown is None else shown.cell_len,
        box=box.SIMPLE_HEAD,
        pad_edge=False,
        padding=(0, 0 if is_narrow(width) else 1),
    )


def is_narrow(width: int) -> bool:
    """Whether a terminal of so many columns is too narrow for tables as they are elsewhere."""
    return width < _WIDE


class BarProgress:
    """Shows every open stage as a bar with an estimate of the time left."""

    def __init__(self, console: Console) -> None:
        self.bars = Bars(
            TextColumn("  {task.description}"),
            BarColumn(bar_width=24),
            TaskProgressColumn(),
            TimeRemainingColumn(compact=True),
            TextColumn("[dim]{task.fields[note]}"),
            console=console,
            # Epochs are minutes apart; over a short period there is nothing to estimate from.
            speed_estimate_period=3600,
        )

    @contextmanager
    def stage(self, description: str, total: int | None) -> Iterator[Advance]:
        """See :meth:`sicsrec.progress.Progress.stage`."""
        bar = self.bars.add_task(escape(description), total=total, note="")

        def advance(n: int = 1, note: str = "") -> None:
            self.bars.update(bar, advance=n, note=escape(note))

        try:
            yield advance
        finally:
            self.bars.remove_task(bar)


class RunView:
    """Watches a run: a growing table with bars below it, or log lines when nobody looks.

    Args:
        console: where to show it.
        steps: names of the steps of the run.
        heading: title of the table.
        leaves_table: whether the table stays when the run ended well.
    """

    def __init__(
        self,
        console: Console,
        steps: Sequence[str],
        *,
        heading: str | None = None,
        leaves_table: bool = True,
    ) -> None:
        self.console = console
        self._heading = heading
        self._leaves_table = leaves_table
        self._states = dict.fromkeys(steps, "")
        self._outcomes: dict[str, StepOutcome] = {}
        self._bar_progress = BarProgress(console)
        self._live = Live(
            console=console,
            get_renderable=self._render,
            refresh_per_second=5,
            transient=True,
            redirect_stdout=False,
        )
        self.progress: Progress = self._bar_progress if console.is_terminal else LogProgress()

    def __enter__(self) -> Self:
        """Start showing."""
        if self.console.is_terminal:
            self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Stop, and leave the table of steps behind."""
        self._live.stop()
        if self._leaves_table and (self._outcomes or "failed" in self._states.values()):
            self.console.print(self._table())

    def started(self, step: str) -> None:
        """See :meth:`tasks.outcome.Observer.started`."""
        self._states[step] = "running"

    def ended(self, outcome: StepOutcome) -> None:
        """See :meth:`tasks.outcome.Observer.ended`."""
        reused = "fetched" if outcome.fetched_from else "cached"
        self._states[outcome.name] = reused if outcome.was_reused else "ran"
        self._outcomes[outcome.name] = outcome
        if not self.console.is_terminal:
            how = "cached" if outcome.was_reused else "ran"
            how += f", fetched from {outcome.fetched_from}" if outcome.fetched_from else ""
            self.console.print(
                f"{outcome.name}: {how}, {outcome.rows:,} {outcome.rows_of}, "
                f"{format_seconds(outcome.seconds)}",
                soft_wrap=True,
                markup=False,
            )

    def mark_failed(self) -> None:
        """Say of the step that was running that it failed."""
        for step, state in self._states.items():
            if state == "running":
                self._states[step] = "failed"

    def _render(self) -> Group:
        return Group(self._table(), self._bar_progress.bars)

    def _table(self) -> Table:
        table = new_table(self._heading)
        places = {outcome.fetched_from for outcome in self._outcomes.values()} - {""}
        if places:
            table.caption = Text(f"fetched: made elsewhere, from {', '.join(sorted(places))}")
            table.caption_justify = "left"
        table.add_column("step", no_wrap=True)
        table.add_column("", no_wrap=True, min_width=7)
        table.add_column("rows", justify="right", no_wrap=True)
        table.add_column("", no_wrap=True, overflow="ellipsis")
        table.add_column("time", justify="right", no_wrap=True)
        table.add_column("size", justify="right", no_wrap=True)
        for step, state in self._states.items():
            outcome = self._outcomes.get(step)
            styled = Text(state, style=_STATE_STYLES.get(state, ""))
            if outcome is None:
                table.add_row(step, styled, "", "", "", "", style="" if state else "dim")
                continue
            table.add_row(
                step,
                styled,
                f"{outcome.rows:,}",
                outcome.rows_of,
                format_seconds(outcome.seconds),
                format_bytes(outcome.n_bytes),
            )
        return table


def results_tables(results: Sequence[Mapping[str, Any]]) -> list[Table]:
    """Return one table per split, test first, models in the order of the report."""
    tables = []
    for split in sorted({str(row["split"]) for row in results}):
        rows = [row for row in results if row["split"] == split]
        shown = metrics_of(rows[0])
        # Models that were told the validation targets have an advantage; they stand apart.
        rows.sort(key=_was_told_valid)
        n_equal = [_was_told_valid(row) for row in rows].count(False)
        best = {
            name: max(
                (row[name] for row in rows[:n_equal] if row.get(name) is not None), default=None
            )
            for name in shown
        }
        table = new_table(f"{split}, {rows[0].get('users', 0):,} users")
        table.add_column("model", overflow="fold")
        for name in shown:
            label = title_of(name)
            table.add_column(label, justify="right", no_wrap=True)
        table.add_column("NDCG@10 interval", justify="right", no_wrap=True)
        for number, row in enumerate(rows, start=1):
            table.add_row(
                str(row["model"]),
                *(_cell(row.get(name), best[name]) for name in shown),
                _interval(row.get("ndcg_at_10_low"), row.get("ndcg_at_10_high")),
                end_section=number == n_equal,
            )
        tables.append(table)
    return tables


def _was_told_valid(row: Mapping[str, Any]) -> bool:
    return str(row["model"]).endswith("(train + valid)")


def difference_tables(rows: Sequence[Mapping[str, Any]]) -> list[Table]:
    """Return one table per model: every variant's means and differences to the first variant."""
    tables = []
    for model in dict.fromkeys(str(row["model"]) for row in rows):
        of_model = [row for row in rows if row["model"] == model]
        users, seeds = (max(row[name] for row in of_model) for name in ("users", "seeds"))
        times = "1 seed" if seeds == 1 else f"{seeds} seeds"
        table = new_table(f"{model}, test, {users:,} users, {times}")
        if any(row[f"{_COMPARED[0]}_difference"] is not None for row in of_model):
            table.caption = (
                "Difference to the first line, its interval below; coloured where that excludes 0."
            )
            table.caption_justify = "left"
        table.add_column("variant", overflow="fold")
        for name in _COMPARED:
            label = title_of(name)
            table.add_column(label, justify="right", no_wrap=True)
        for row in of_model:
            lacking = f"\n({row['seeds']} of {seeds} seeds)" if row["seeds"] < seeds else ""
            table.add_row(
                Text(f"{row['variant']}{lacking}"), *(_compared(row, name) for name in _COMPARED)
            )
        tables.append(table)
    return tables


def trial_table(rows: Sequence[TrialRow], metric: str, n_shown: int = 10) -> Table:
    """Return the best trials of a search, best first, with what differs between them."""
    done = sorted(
        (row for row in rows if row.value is not None),
        key=lambda row: (-(row.value or 0.0), row.number),
    )
    n_failed = len(rows) - len(done)
    failed = f", {n_failed} of them failed" if n_failed else ""
    table = new_table(f"{len(rows)} trials{failed}, best by validation")
    table.add_column("trial", justify="right", no_wrap=True)
    table.add_column(title_of(metric), justify="right", no_wrap=True)
    table.add_column("values", overflow="fold")
    for row in done[:n_shown]:
        values = ", ".join(f"{path} {value}" for path, value in row.values.items())
        table.add_row(str(row.number), _share(row.value), Text(values))
    return table


def _compared(row: Mapping[str, Any], name: str) -> Text:
    difference, low, high = (row[f"{name}_{end}"] for end in ("difference", "low", "high"))
    if difference is None:
        return Text(f"{_share(row[name])}{'':>7}")
    style = "green" if low > 0 else "red" if high < 0 else ""
    cell = Text(f"{_share(row[name])} ").append(_signed(difference), style=style)
    return cell.append(f"\n{_signed(low)} {_signed(high)}", style="dim")


def _signed(value: float) -> str:
    return f"{value:+.4f}".replace("0.", ".", 1)


def _cell(value: float | None, best: float | None) -> Text:
    return Text(_share(value), style="bold" if value is not None and value == best else "")


def _interval(low: float | None, high: float | None) -> str:
    return "" if low is None or high is None else f"{_share(low)} - {_share(high)}"


def _share(value: float | None) -> str:
    return "" if value is None else f"{value:.4f}".removeprefix("0")


def error_panel(title: str, message: str, log: Path | None) -> Panel:
    """Return what is shown in place of a traceback."""
    body = Text(message)
    if log is not None:
        body.append("\n\nThe whole story is in ", style="dim")
        body.append(str(log), style="dim")
    return Panel(body, title=escape(title), border_style="red", title_align="left", expand=True)


def format_seconds(seconds: float) -> str:
    """Return a duration for people.

    Example:
        >>> format_seconds(0.31), format_seconds(75), format_seconds(7200)
        ('0.3 s', '1:15 min', '2:00 h')
    """
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes}:{rest:02d} min"
    return f"{minutes // 60}:{minutes % 60:02d} h"


def format_bytes(n_bytes: float) -> str:
    """Return a size for people.

    Example:
        >>> format_bytes(512), format_bytes(2_400_000)
        ('512 B', '2.4 MB')
    """
    if n_bytes < 1000:
        return f"{n_bytes:.0f} B"
    for exponent, unit in enumerate(("kB", "MB"), start=1):
        if n_bytes < 1000 ** (exponent + 1):
            return f"{n_bytes / 1000**exponent:.1f} {unit}"
    return f"{n_bytes / 1000**3:.1f} GB"


def format_age(moment: str) -> str:
    """Return how long ago an ISO 8601 time was, in its largest unit."""
    seconds = (datetime.now(UTC) - datetime.fromisoformat(moment)).total_seconds()
    for unit, length in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= length:
            return f"{seconds // length:.0f} {unit}"
    return f"{max(seconds, 0):.0f} s"


class LogFile(logging.FileHandler):
    """A file that a full disk does not turn into a traceback per line on the terminal.

    Prefect takes handlers away that were there before it, unless one looks like a user's: its name
    must not begin with an underscore.
    """

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802 - logging's name
        """Pass over lines that cannot be written; the run itself says that the disk is full."""
        if not isinstance(sys.exc_info()[1], OSError):
            super().handleError(record)


@contextmanager
def logging_to(log: Path, console: Console) -> Iterator[None]:
    """Send everything to a file; to the terminal only the library's own lines.

    On a terminal these are warnings, as the bars show the rest; elsewhere progress as well.
    """
    log.parent.mkdir(parents=True, exist_ok=True)
    to_file = LogFile(log, encoding="utf-8")
    layout = "%(asctime)s %(levelname)s %(name)s: %(message)s"
    to_file.setFormatter(WithoutPasswords(logging.Formatter(layout, "%Y-%m-%d %H:%M:%S")))
    to_terminal = RichHandler(
        logging.WARNING if console.is_terminal else logging.INFO,
        console=console,
        show_time=False,
        show_path=False,
        show_level=console.is_terminal,
    )
    to_terminal.setFormatter(WithoutPasswords())
    root, library = logging.getLogger(), logging.getLogger("sicsrec")
    root.addHandler(to_file)
    library.addHandler(to_terminal)
    logging.captureWarnings(True)
    try:
        yield
    finally:
        logging.captureWarnings(False)
        root.removeHandler(to_file)
        library.removeHandler(to_terminal)
        to_file.close()
