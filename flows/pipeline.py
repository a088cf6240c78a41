"""The flow ``sicsrec``: all steps of one pipeline, recorded in MLflow."""

import logging
from datetime import datetime
from typing import Any, Literal

from prefect import flow
from prefect.runtime import flow_run
from prefect.utilities.names import generate_slug

from flows.configuration import resolve_config
from flows.feature_pipeline import feature_pipeline
from flows.order import refs_of
from flows.prepare_data import prepare_data
from flows.selection import select_steps
from flows.training_pipeline import training_pipeline
from sicsrec.config import PipelineConfig
from tasks.outcome import RunOutcome, StepOutcome
from tasks.record import RunRecord, recorded_run
from tasks.report import report

logger = logging.getLogger("sicsrec.flow")

StepName = Literal[
    "ingest",
    "split",
    "sample_pairs",
    "align_encoders",
    "encode_items",
    "pretrain_id",
    "train_sicsrec",
    "evaluate",
    "export",
]
"""The steps as a type, so that Prefect's page offers them as a choice."""


def _run_name() -> str:
    preset = flow_run.parameters.get("preset", "demo")
    tags = flow_run.parameters.get("tags") or {}
    variant = tags.get("variant") or (f"trial {tags['trial']}" if "trial" in tags else None)
    now = datetime.now().astimezone()
    label = f"{preset}, {variant}" if variant else preset
    return f"{label} {now:%Y-%m-%d %H:%M} {generate_slug(2)}"


@flow(name="sicsrec", flow_run_name=_run_name, log_prints=False)
def sicsrec(
    preset: str = "demo",
    data: str | None = None,
    overrides: list[str] | None = None,
    refresh: list[StepName] | None = None,
    until: StepName | None = None,
    seed: int | None = None,
    tags: dict[str, str] | None = None,
) -> RunOutcome:
    """Turn raw video metadata, covers and histories into an evaluated, exported recommender.

    Args:
        preset: name of a shipped preset, or path of a YAML file.
        data: folder of the raw data; ``demo`` needs none.
        overrides: changes to the preset, each ``section.key=value``.
        refresh: steps that run even when their output could be reused.
        until: last step to run.
        seed: seed of every step that draws random numbers.
        tags: further tags of the run in MLflow.

    Returns:
        How each step ended, in order.
    """
    # Without a level of its own the library's loggers keep the root's, which hides progress.
    logging.getLogger("sicsrec").setLevel(logging.INFO)
    config = resolve_config(preset, data=data, overrides=overrides or (), seed=seed).config
    steps = select_steps(config, until, refresh or ())
    name = str(flow_run.name or preset)
    with recorded_run(name, config, steps, tuple(refresh or ()), tags, preset) as run:
        outcomes = _run_stages(config, run)
        page = _report(outcomes, run)
    return RunOutcome(tuple(outcomes), run.mlflow_experiment_id, run.mlflow_run_id, page)


def _report(outcomes: list[StepOutcome], run: RunRecord) -> str | None:
    """Make the page on a run that reached its end; failing at it fails no finished run."""
    if "export" not in run.steps:
        return None
    state: Any = report(refs_of(outcomes), run, return_state=True)
    if state.is_failed():
        logger.warning("no report was made, all steps are done: %s", state.message)
        return None
    page: str = state.result()
    return page


def _run_stages(config: PipelineConfig, run: RunRecord) -> list[StepOutcome]:
    outcomes = prepare_data(config, run)
    refs = refs_of(outcomes)
    if "split/train" not in refs:
        return outcomes
    outcomes += feature_pipeline(
        config,
        run,
        catalog=refs["ingest/catalog"],
        covers=refs["ingest/covers"],
        train=refs["split/train"],
    )
    outcomes += training_pipeline(config, run, refs_of(outcomes))
    return outcomes
