import io
import logging
import re
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from rich.console import Console
from rich.table import Table

from flows import tidying, views
from flows.configuration import resolve_config
from flows.terminal import (
    RunView,
    error_panel,
    format_age,
    format_bytes,
    format_seconds,
    logging_to,
    results_tables,
)
from sicsrec.retention import StoredThing, Verdict
from sicsrec.steps import STEP_NAMES
from sicsrec.steps.plan import PlannedStep
from tasks.outcome import StepOutcome

RESULTS = [
    {
        "model": model,
        "split": split,
        "users": 2000,
        "hr_at_5": 0.1 * rank,
        "hr_at_10": 0.2 * rank,
        "ndcg_at_5": 0.05 * rank,
        "ndcg_at_10": 0.07 * rank,
        "mrr": 0.06 * rank,
        "ndcg_at_10_low": 0.06 * rank,
        "ndcg_at_10_high": 0.08 * rank,
    }
    for split in ("valid", "test")
    for rank, model in enumerate(("popularity", "transitions", "ID encoder", "SICSRec"), start=1)
]


def outcome(name: str, was_reused: bool) -> StepOutcome:
    return StepOutcome(name, was_reused, 18069, "interactions", 7.25, "0" * 16, 1_500_000, {}, "/x")


def console(*, is_terminal: bool) -> Console:
    return Console(file=io.StringIO(), width=80, force_terminal=is_terminal)


def text_of(shown: Console) -> str:
    assert isinstance(shown.file, io.StringIO)
    return shown.file.getvalue()


def test_results_fit_80_columns_and_put_test_first() -> None:
    shown = console(is_terminal=False)
    for table in results_tables(RESULTS):
        shown.print(table)
    text = text_of(shown)
    assert text.index("test, 2,000 users") < text.index("valid, 2,000 users")
    assert ".2800" in text
    assert max(len(line.rstrip()) for line in text.splitlines()) <= 80
    assert "…" not in text


def test_missing_numbers_leave_cells_empty() -> None:
    row = {"model": "popularity", "split": "test", "users": 1, "hr_at_10": 0.5}
    shown = console(is_terminal=False)
    shown.print(results_tables([row])[0])
    assert ".5000" in text_of(shown)


def test_results_have_the_cut_offs_that_were_asked_for() -> None:
    numbers = {"hr_at_10": 0.5, "hr_at_20": 0.6, "ndcg_at_10": 0.3, "ndcg_at_20": 0.4, "mrr": 0.2}
    row = {"model": "popularity", "split": "test", "users": 1, **numbers, "hr_at_20_low": 0.55}
    shown = console(is_terminal=False)
    shown.print(results_tables([row])[0])
    (head,) = [line for line in text_of(shown).splitlines() if "model" in line]
    assert head.split()[1:6] == ["HR@10", "HR@20", "NDCG@10", "NDCG@20", "MRR"]
    assert ".6000" in text_of(shown)


@pytest.mark.parametrize("is_terminal", [True, False])
def test_run_view_says_where_a_step_was_fetched_from(is_terminal: bool) -> None:
    shown = console(is_terminal=is_terminal)
    with RunView(shown, ["ingest", "split"]) as view:
        view.ended(replace(outcome("ingest", was_reused=True), fetched_from="s3://b[0]/prefix"))
        view.ended(outcome("split", was_reused=True))
    text = text_of(shown)
    assert "s3://b[0]/prefix" in text
    lines = {line.split()[0]: line for line in text.splitlines()[-8:] if line.split()}
    assert "fetched" in lines["ingest"]
    assert "cached" in lines["split"]
    if not is_terminal:
        assert "ingest: cached, fetched from s3://b[0]/prefix, 18,069 interactions, 7.2 s" in text


@pytest.mark.parametrize("is_terminal", [True, False])
def test_run_view_leaves_a_table_of_steps(is_terminal: bool) -> None:
    shown = console(is_terminal=is_terminal)
    with RunView(shown, ["ingest", "split", "export"]) as view:
        view.started("ingest")
        with view.progress.stage("open covers", 3) as advance:
            advance()
            advance(2, note="two [broken]")
        view.ended(outcome("ingest", was_reused=False))
        view.started("split")
        view.ended(outcome("split", was_reused=True))
        view.started("export")
        view.mark_failed()
    lines = text_of(shown).splitlines()
    last = [line for line in lines if "export" in line][-1]
    assert "failed" in last
    assert any("split" in line and "cached" in line for line in lines)
    assert any("ingest" in line and "7.2 s" in line and "1.5 MB" in line for line in lines)


def test_error_message_is_shown_as_it_is() -> None:
    shown = console(is_terminal=False)
    shown.print(error_panel("The data [bold]", "row 3: 'a' [red] is no number", None))
    assert "row 3: 'a' [red] is no number" in text_of(shown)


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.04, "0.0 s"), (59.4, "59.4 s"), (75, "1:15 min"), (7384, "2:03 h")]
)
def test_seconds(seconds: float, text: str) -> None:
    assert format_seconds(seconds) == text


@pytest.mark.parametrize(
    ("size", "text"), [(0, "0 B"), (999, "999 B"), (1000, "1.0 kB"), (5_400_000_000, "5.4 GB")]
)
def test_bytes(size: int, text: str) -> None:
    assert format_bytes(size) == text


def test_age() -> None:
    now = datetime.now(UTC)
    assert format_age((now - timedelta(minutes=61)).isoformat()) == "1 h"
    assert format_age((now - timedelta(days=3)).isoformat()) == "3 d"


@pytest.mark.parametrize("is_terminal", [True, False])
def test_neither_log_nor_terminal_shows_the_password_of_a_server(
    is_terminal: bool, tmp_path: Path
) -> None:
    shown, log = console(is_terminal=is_terminal), tmp_path / "logs" / "run.log"
    with logging_to(log, shown):
        error = ValueError("a bug")
        error.__cause__ = ConnectionError("no answer from http://alice:s3cret@host/api")
        logging.getLogger("sicsrec.steps").error("the run ended", exc_info=error)
    for written in (log.read_text(), text_of(shown)):
        text = re.sub(r"\x1b\[[\d;]*m", "", written)
        assert "the run ended" in text
        assert "no answer from http://host/api" in text
        assert "s3cret" not in text


def shown_on(width: int, table: Table) -> str:
    console = Console(file=io.StringIO(), width=width)
    console.print(table)
    return console.file.getvalue()


MONTHS_AGO = datetime.now(UTC) - timedelta(days=123)


@pytest.mark.parametrize("width", [60, 80])
def test_status_is_whole_in_a_narrow_terminal(width: int, monkeypatch: pytest.MonkeyPatch) -> None:
    key = "0123456789abcdef"
    manifest = SimpleNamespace(n_bytes=123_456_789, started=MONTHS_AGO.isoformat())
    cached = {"state": "cached", "key": key, "manifest": manifest, "rows": 1_234_567}
    steps: list[Any] = [SimpleNamespace(name=name, **cached) for name in STEP_NAMES]
    steps += [PlannedStep("export", "not needed"), PlannedStep("export", "to do", key)]
    monkeypatch.setattr(views, "plan_steps", lambda *_: steps)
    config = resolve_config("demo").config
    text = shown_on(width, views.status_table(config, Path(), width=width))
    assert max(map(len, text.splitlines())) <= width
    assert "…" not in text
    for word in (*STEP_NAMES, "not needed", "1,234,567", "123.5 MB", "123 d", key[:7]):
        assert word in text
    assert (key in text) == (width == 80)


def test_what_can_go_is_whole_in_a_narrow_terminal() -> None:
    verdicts = [
        Verdict("unfinished", False, "cut off not long ago; the next run goes on with it"),
        Verdict("artifact", True, "no kept run is made of it"),
        Verdict("cache", False, "serves all runs; goes with --caches only"),
    ]
    things = [
        StoredThing("demo", name, "0123456789ab", 123_456_789, MONTHS_AGO, verdict, Path())
        for name in STEP_NAMES
        for verdict in verdicts
    ]
    text = shown_on(60, tidying._table("demo", things, 60))
    assert "…" not in text
    words = {word for verdict in verdicts for word in verdict.reason.split()}
    assert {*words, *STEP_NAMES, "unfinished:", "01234567"} <= set(text.split())
