"""Tables about configuration, plan and steps, for the command line."""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path

from rich.table import Table
from rich.text import Text

from flows.configuration import ResolvedConfig
from flows.terminal import format_age, format_bytes, is_narrow, new_table
from sicsrec.artifacts import ArtifactStore
from sicsrec.config import PipelineConfig
from sicsrec.shared_store import SharedStore
from sicsrec.steps import STEPS, Input
from sicsrec.steps.plan import plan_steps

_STYLES = {"cached": "cyan", "shared": "cyan", "to do": "yellow", "not needed": "dim"}
_ORIGIN_COLUMN = 52
_SHORT_KEY = 7
"""Of a key, as much as finds it and fits into 60 columns beside all else."""


def status_table(
    config: PipelineConfig,
    store_root: Path,
    shared: SharedStore | None = None,
    *,
    width: int,
) -> Table:
    """Return the state of every step under ``config``.

    Args:
        config: the whole configuration.
        store_root: folder of the artifact store.
        shared: where finished steps may come from.
        width: columns of the terminal; a narrow one shows the beginning of keys.
    """
    table = new_table(config.dataset, width=width)
    if shared is not None:
        table.caption = Text(f"shared: not here yet, a run fetches it from {shared.url}")
        table.caption_justify = "left"
    table.add_column("step", no_wrap=True)
    table.add_column("state", no_wrap=True)
    table.add_column("rows", justify="right", no_wrap=True)
    table.add_column("size", justify="right", no_wrap=True)
    table.add_column("age", justify="right", no_wrap=True)
    table.add_column("key", no_wrap=True)
    key_length = _SHORT_KEY if is_narrow(width) else None
    for step in plan_steps(config, ArtifactStore(store_root), shared):
        state, key = Text(step.state, style=_STYLES[step.state]), (step.key or "")[:key_length]
        if step.manifest is None:
            table.add_row(step.name, state, "", "", "", key)
            continue
        table.add_row(
            step.name,
            state,
            f"{step.rows:,}",
            format_bytes(step.manifest.n_bytes),
            format_age(step.manifest.started),
            key,
        )
    return table


def asking_table(config: PipelineConfig, plan: Mapping[str, object]) -> Table:
    """Return what asking the language model of ``sample_pairs`` would take.

    Args:
        config: the whole configuration.
        plan: numbers by name, None where unknown.
    """
    table = new_table(f"{config.dataset}: {config.sample_pairs.judge.kind}")
    table.add_column("", no_wrap=True)
    table.add_column("", justify="right", no_wrap=True)
    for name, value in plan.items():
        words = f"{value:,}" if isinstance(value, int | float) else str(value or "unknown")
        table.add_row(name.replace("_", " "), words)
    return table


def steps_table() -> Table:
    """Return what every step reads and writes."""
    table = new_table()
    table.add_column("step", no_wrap=True)
    table.add_column("reads")
    table.add_column("writes: has seen of the log")
    for step in STEPS:
        table.add_row(
            step.name,
            "\n".join(_input_name(entry) for entry in step.inputs) or "raw data",
            "\n".join(
                f"{output.name}: "
                + ("as its inputs" if output.sees is None else ", ".join(sorted(output.sees)))
                if output.sees != frozenset()
                else f"{output.name}: nothing"
                for output in step.outputs
            ),
        )
        table.add_section()
    return table


def _input_name(entry: Input) -> str:
    return f"{entry.name}, if asked for" if entry.is_optional else entry.name


def config_lines(resolved: ResolvedConfig) -> Iterator[Text]:
    """Yield the configuration as YAML, the origin of every value as a comment at its end."""
    open_sections: list[str] = []
    for path, value, origin in resolved.rows():
        *sections, name = path.split(".")
        for depth, section in enumerate(sections):
            if open_sections[: depth + 1] != sections[: depth + 1]:
                yield Text(f"{'  ' * depth}{section}:", style="bold")
        open_sections = sections
        line = Text(f"{'  ' * len(sections)}{name}: ")
        # JSON is YAML; it keeps the type of a text that looks like a number visible.
        line.append(json.dumps(value, ensure_ascii=False), style="cyan")
        line.append(" " * max(_ORIGIN_COLUMN - line.cell_len, 1))
        line.append(f"# {origin}", style="dim" if origin == "default" else "yellow")
        yield line
