"""The flow ``sicsrec``: all steps of one pipeline, recorded in MLflow."""

import logging
import re
from datetime import datetime
from pathlib import Path
from typing import Any, cast

from prefect import flow
from prefect.runtime import deployment, flow_run

from flows.configuration import resolve_config
from flows.feature_pipeline import feature_pipeline
from flows.order import refs_of
from flows.parameters import Override, PresetOrFile, StepName
from flows.prepare_data import prepare_data
from flows.selection import select_steps
from flows.training_pipeline import training_pipeline
from sicsrec.config import PipelineConfig
from sicsrec.errors import SicsrecError
from sicsrec.runs import killed_processes
from tasks.outcome import RunOutcome, StepOutcome
from tasks.page import failed_run, publish_run
from tasks.process_end import crash_abandoned_flow_runs
from tasks.record import RunRecord, recorded_run
from tasks.registration import register_model
from tasks.report import report
from tasks.settings import Settings
from tasks.tracebacks import keep_passwords_out_of_prefect, keep_tracebacks_out_of_prefect

logger = logging.getLogger("sicsrec.flow")

# Not in the flow: before it begins the engine says where the page of the run is.
keep_passwords_out_of_prefect()

_NAMED = re.compile(r".*\d{4}-\d\d-\d\d \d\d:\d\d ")
"""What an earlier attempt of a run that is tried again put before its name."""


def _run_name() -> str:
    """Put before the name that a run was given the data, what it is about, and when it was."""
    given = flow_run.parameters
    try:
        label = resolve_config(
            given.get("preset", "demo"),
            data=given.get("data"),
            overrides=given.get("overrides") or (),
        ).config.dataset
    except SicsrecError:
        # The run itself will say what is wrong.
        label = Path(str(given.get("preset"))).stem
    words = [label, *(given.get("steps") or [])]
    words += [f"until {given['until']}"] if given.get("until") else []
    tags = given.get("tags") or {}
    words += [tags["variant"]] if tags.get("variant") else []
    words += [f"trial {tags['trial']}"] if "trial" in tags else []
    now = datetime.now().astimezone()
    # Whoever asked for the run was told this name, or chose it, and looks for it.
    given_name = _NAMED.sub("", str(flow_run.name))
    return f"{', '.join(words)} {now:%Y-%m-%d %H:%M} {given_name}"


@flow(name="sicsrec", flow_run_name=_run_name, log_prints=False)
def sicsrec(
    preset: PresetOrFile = "demo",
    data: str | None = None,
    overrides: list[Override] | None = None,
    refresh: list[StepName] | None = None,
    until: StepName | None = None,
    steps: list[StepName] | None = None,
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
        steps: run only these steps and what they need before them; what is there is reused.
        seed: seed of every step that draws random numbers.
        tags: further tags of the run in MLflow.

    Returns:
        How each step ended, in order; to Prefect, a failed state when an error of ours ended it.
    """
    # Without a level of its own the library's loggers keep the root's, which hides progress.
    logging.getLogger("sicsrec").setLevel(logging.INFO)
    keep_tracebacks_out_of_prefect()
    is_deployed = deployment.id is not None
    try:
        if is_deployed:
            settings = Settings.from_environment()
            settings.check_home()
            settings.make_home()
            # A worker that was killed with its runs cannot say so; nobody else may ever look.
            crash_abandoned_flow_runs(killed_processes(settings.store_root))
        config = resolve_config(
            preset,
            data=data,
            overrides=overrides or (),
            seed=seed,
            as_parameters=is_deployed,
        ).config
        selected = select_steps(
            config, until, refresh or (), steps or (), as_parameters=is_deployed
        )
        name = str(flow_run.name or preset)
        with recorded_run(name, config, selected, tuple(refresh or ()), tags, preset) as run:
            outcomes = _run_stages(config, run)
            registered = register_model(config, refs_of(outcomes), run)
            outcome = RunOutcome(
                tuple(outcomes),
                run.mlflow_experiment_id,
                run.mlflow_run_id,
                registered,
                _report(outcomes, run),
            )
            publish_run(config.dataset, outcome)
    except SicsrecError as err:
        # Returned, not raised: Prefect would log the traceback over the message.
        return cast("RunOutcome", failed_run(err))
    return outcome


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
    outcomes += feature_pipeline(
        config,
        run,
        catalog=refs["ingest/catalog"],
        covers=refs["ingest/covers"],
        train=refs.get("split/train"),
    )
    outcomes += training_pipeline(config, run, refs_of(outcomes))
    return outcomes
