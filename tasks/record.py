"""The MLflow record of a pipeline run and of its steps."""

import hashlib
import re
import socket
import subprocess
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from prefect.runtime import flow_run, task_run

from sicsrec.artifacts import canonical_json, flatten
from sicsrec.config import PipelineConfig
from sicsrec.evaluation.names import MAIN, MAIN_BLENDED, metrics_of, title_of, tracked_metrics
from sicsrec.liveness import is_abandoned
from sicsrec.report.place import Report
from sicsrec.runs import RunRegister, killed_processes, registers
from sicsrec.steps import Step, inputs_of
from sicsrec.steps.runner import OpenTracker, StepResult
from sicsrec.tracking import Tracker
from sicsrec.tracking.mlflow_store import MlflowStore, PipelineRun, UsedData
from tasks.outcome import Refs
from tasks.page import prefect_links
from tasks.process_end import sign_flow_run
from tasks.settings import Settings

_CONTEXTS = {
    "ingest/interactions": "whole log",
    "split/train": "training",
    "split/valid": "validation",
    "split/test": "test",
}
"""What the parts of the log are used for."""
_TRAINING_STEPS = ("align_encoders", "pretrain_id", "train_sicsrec")
_RECORDED_APART = {"align_encoders": ("before", "after")}
"""Parts of a step's report that the step records itself, under names such as ``after/...``."""
KEEP_TAG = "sicsrec.keep"
"""Set to ``true`` on an MLflow run, of a pipeline or a step: ``sicsrec gc`` keeps its artifacts."""
_MAX_REPORT_METRICS = 200
_NOT_IN_NAMES = re.compile(r"[^\w ./-]", re.ASCII)
"""What MLflow does not take in the name of a metric."""


@dataclass(frozen=True)
class RunRecord:
    """What every task of one pipeline run is told beside configuration and references."""

    mlflow_run_id: str
    """The parent run; handed down, because nothing global says which run is meant."""
    mlflow_experiment_id: str
    """The experiment it belongs to."""
    steps: tuple[str, ...]
    """Names of the steps to run or reuse."""
    refresh: tuple[str, ...] = ()
    """Names of the steps that run even when they could be reused."""


@contextmanager
def recorded_run(
    name: str,
    config: PipelineConfig,
    steps: tuple[str, ...],
    refresh: tuple[str, ...],
    further_tags: Mapping[str, str] | None = None,
    preset: str = "",
) -> Iterator[RunRecord]:
    """Open the parent run of a pipeline run and end it with the block."""
    settings = Settings.from_environment()
    sign_flow_run()
    tags = {
        **describing_tags(config),
        "config_digest": config_digest(config),
        "prefect.flow_run_id": str(flow_run.id or ""),
        **prefect_links(),
        **(further_tags or {}),
    }
    gone = killed_processes(settings.store_root)
    params = flatten(config.model_dump(mode="json"))
    run = open_store().begin(config.dataset, name, params, tags, gone)
    _note_killed(settings.store_root, gone)
    register = RunRegister(settings.store_root, config.dataset)
    with run.closing(), register.recording(run.run_id, preset, steps[-1]):
        run.describe(describe_run(tags, config.seed, steps))
        yield RunRecord(run.run_id, run.experiment_id, steps, refresh)


def describing_tags(config: PipelineConfig) -> dict[str, str]:
    """Return what a person searches, filters and groups runs by."""
    return {
        "dataset": config.dataset,
        # Runs of one configuration differ in nothing but the seed: MLflow can group by it.
        "configuration": config_digest(config.model_copy(update={"seed": 0})),
        "git.commit": git_commit(),
        "judge": config.sample_pairs.judge.kind if config.has_stage_one else "none",
        "text_encoder": _encoder_name(config, "text"),
        "image_encoder": _encoder_name(config, "image"),
        "protocol": f"{config.split.strategy}, "
        + ("seen items removed" if config.evaluate.remove_seen else "seen items kept"),
    }


def describe_run(
    tags: Mapping[str, str],
    seed: int,
    steps: Sequence[str],
    results: Sequence[Mapping[str, Any]] = (),
) -> str:
    """Return the description of a pipeline run in Markdown.

    Args:
        tags: of the run.
        seed: of the run.
        steps: names of its steps.
        results: rows of the result table, once there are any.
    """
    lines = [
        f"SICSRec on **{tags['dataset']}**, seed {seed}, {tags['protocol']}; as far as "
        f"`{steps[-1]}`.{_in_short(results)}",
        "",
        f"Judge {tags['judge']}, texts by {tags['text_encoder']}, covers by "
        f"{tags['image_encoder']}; configuration `{tags['configuration']}`"
        + (f", commit `{tags['git.commit'][:12]}`." if tags["git.commit"] else "."),
    ]
    if results:
        names = [name for name in metrics_of(results[0]) if results[0][name] is not None]
        names = [name for name in names if name != "mrr"]
        titles = [title_of(name) for name in names]
        rows = [
            [
                row["model"],
                *(f"{row[name]:.4f}" for name in names),
                f"{row['ndcg_at_10_low']:.4f} to {row['ndcg_at_10_high']:.4f}",
            ]
            for row in results
        ]
        head = [f"test, {results[0]['users']:,} users", *titles, "NDCG@10 interval"]
        lines += ["", *markdown_table(head, rows)]
    return "\n".join(lines)


def _in_short(results: Sequence[Mapping[str, Any]]) -> str:
    """Return the figures that matter most: MLflow's page shows the first lines and folds the rest.

    Of models that were told the validation targets there is none.
    """
    ours = [row for row in results if row["model"] in (MAIN, MAIN_BLENDED)]
    if not ours:
        return ""
    figures = "; ".join(f"{row['model']} **{row['ndcg_at_10']:.4f}**" for row in ours)
    return f" Test NDCG@10: {figures}."


def markdown_table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """Return the lines of a table for the description of a run."""
    return [_row(head), "|" + "---|" * len(head), *(_row(row) for row in rows)]


def _row(cells: Sequence[str]) -> str:
    # MLflow's page leaves no room between columns: numbers would run into each other.
    return f"| {' | &nbsp; '.join(cell.replace('|', '&#124;') for cell in cells)} |"


def open_step_record(config: PipelineConfig, refs: Refs, run: RunRecord) -> OpenTracker:
    """Return what opens the child run of a step that really runs."""

    def open_tracker(step: Step, key: str) -> AbstractContextManager[Tracker]:
        section = getattr(config, step.name).model_dump(mode="json")
        params = flatten(section) | ({"seed": config.seed} if step.is_seeded else {})
        used = [
            UsedData(
                entry.name,
                refs[entry.name].digest,
                _CONTEXTS.get(entry.name, entry.name.split("/")[1]),
                {"dataset": config.dataset, "output": entry.name, "key": refs[entry.name].key},
            )
            for entry in inputs_of(step, config)
        ]
        tags = {
            **describing_tags(config),
            "step": step.name,
            "step_version": str(step.version),
            "key": key,
            "prefect.task_run_id": str(task_run.id or ""),
            **prefect_links(),
        }
        return attach(run).step(
            step.name, params, tags, used, watches_system=step.name in _TRAINING_STEPS
        )

    return open_tracker


def record_step(result: StepResult, config: PipelineConfig, run: RunRecord) -> None:
    """Record a step's numbers: a reused step is linked, the final results go to the parent."""
    step = result.manifest.step
    root = Settings.from_environment().store_root
    RunRegister(root, result.manifest.dataset).note_step(
        run.mlflow_run_id, step, result.manifest.key
    )
    parent = attach(run)
    made_by = result.manifest.tracking.get("mlflow_run_id", "")
    if result.was_reused:
        parent.link_reused(step, made_by)
        if result.fetched_from:
            parent.set_tags({f"fetched.{step}": result.fetched_from})
    else:
        apart = _RECORDED_APART.get(step, ())
        content = {k: v for k, v in result.report.content.items() if k not in apart}
        parent.log_report(step, report_metrics(content))
    parent.log_inputs(_parts_of_the_log(result))
    if step == "evaluate":
        content = result.report.content
        results = content.get("results", [])
        parent.log_metrics(tracked_metrics(results, content.get("cohorts", [])))
        test = [row for row in results if row["split"] == "test"]
        parent.describe(describe_run(describing_tags(config), config.seed, run.steps, test))


def record_report(page: Report, run: RunRecord) -> None:
    """Record a page, its pictures and its tables on the parent run; one that was there is named."""
    parent = attach(run)
    if page.was_reused:
        parent.set_tags({"reused.report": page.key})
        return
    parent.set_tags({"report": page.key})
    tracker = parent.tracker()
    for section in page.sections:
        for plot in section.plots:
            tracker.log_svg(plot.name, plot.svg)
        for table in section.tables:
            tracker.log_table(table.name, table.frame)
    tracker.log_file(page.path)
    if page.explorer is not None:
        tracker.log_file(page.explorer)


def _parts_of_the_log(result: StepResult) -> list[UsedData]:
    """Return what a step made that is data a person would look for: the parts of the log."""
    return [
        UsedData(
            name,
            ref.digest,
            _CONTEXTS[name],
            {"dataset": ref.dataset, "output": name, "key": ref.key},
        )
        for name, ref in result.refs.items()
        if name in _CONTEXTS
    ]


def report_metrics(content: Mapping[str, Any]) -> dict[str, float]:
    """Return the numbers of a report under ``report/``; lists are left to the tables."""
    numbers = {
        f"report/{_NOT_IN_NAMES.sub('_', name)}": float(value)
        for name, value in flatten(content).items()
        if isinstance(value, int | float) and not isinstance(value, bool)
    }
    return dict(list(numbers.items())[:_MAX_REPORT_METRICS])


def config_digest(config: PipelineConfig) -> str:
    """Return 16 hex digits that name a configuration."""
    content = canonical_json(config.model_dump(mode="json"))
    return hashlib.sha256(content.encode()).hexdigest()[:16]


def _encoder_name(config: PipelineConfig, modality: str) -> str:
    source = config.encode_items.source
    if source.kind == "given":
        return "given" if getattr(source, modality) is not None else "none"
    encoder = getattr(config.align_encoders, f"{modality}_encoder")
    if encoder is None:
        return "none"
    return f"{encoder.library}:{encoder.model or 'architecture from the configuration'}"


def close_abandoned_records(gone: Collection[Mapping[str, str]]) -> None:
    """Close what killed runs left open in MLflow, and note it in the register.

    Args:
        gone: tags of processes known to be dead, see :func:`sicsrec.runs.killed_processes`.
    """
    open_store().close_abandoned(gone)
    _note_killed(Settings.from_environment().store_root, gone)


def _note_killed(root: Path, gone: Collection[Mapping[str, str]]) -> None:
    for register in registers(root).values():
        for entry in register.killed():
            if is_abandoned(entry.process, gone):
                register.note_failure(entry.id)


def runs_to_keep() -> set[str]:
    """Return the ids of the runs that somebody marked in MLflow as to be kept."""
    return open_store().marked_runs(KEEP_TAG)


def mark_removed(run_ids: Sequence[str]) -> None:
    """Note on the runs of steps that their artifacts are no longer in the store."""
    store = open_store()
    for run_id in run_ids:
        # Of a step that was fetched the run is another machine's, which may have it still.
        store.mark(run_id, {"artifact": f"removed by sicsrec gc on {socket.gethostname()}"})


def warm_up() -> None:
    """Open the store of the records, which takes seconds the first time."""
    open_store()


def open_store() -> MlflowStore:
    """Return the store of the records that the settings name."""
    settings = Settings.from_environment()
    return _store(settings.home, settings.mlflow_uri)


@lru_cache(maxsize=4)
def _store(home: Path, uri: str | None) -> MlflowStore:
    return MlflowStore(home, uri)


def attach(run: RunRecord) -> PipelineRun:
    """Return the MLflow record of a pipeline run, in whatever process this is."""
    return open_store().attach(run.mlflow_run_id, run.mlflow_experiment_id)


@lru_cache(maxsize=1)
def git_commit() -> str:
    """Return the commit of the checkout this code runs from, empty for an installed package."""
    folder = Path(__file__).parents[1]
    if not (folder / ".git").exists():
        return ""
    try:
        done = subprocess.run(  # noqa: S603
            ["git", "-C", str(folder), "rev-parse", "HEAD"],  # noqa: S607
            capture_output=True,
            text=True,
            check=False,
        )
    except OSError:
        # A checkout in a container that has no git.
        return ""
    return done.stdout.strip()
