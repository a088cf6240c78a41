"""A search for better values of a configuration: trials are runs up to the model that is judged.

A trial never reaches ``evaluate``, the one step that opens the test targets, so nothing is chosen
by them.
"""

import json
import logging
import os
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import yaml
from rich.console import Console
from rich.text import Text

from flows.configuration import (
    FILE_SUFFIXES,
    ResolvedConfig,
    extend_preset,
    parse_mapping,
    parse_override,
    resolve_config,
)
from flows.selection import select_steps
from flows.series import NOT_BY_VALUES, count_cached, in_words, run_in_series
from flows.server import mlflow_run_page
from flows.session import RunRequest, prefect_session
from flows.shipped import read_shipped_or_file
from flows.terminal import trial_table
from sicsrec.artifacts import make_key
from sicsrec.config import PipelineConfig
from sicsrec.errors import ConfigError, SicsrecError
from sicsrec.paths import nearest_existing
from sicsrec.replacing import replaced
from sicsrec.steps import STEPS, get_step
from sicsrec.steps.external import check_places, external_inputs
from sicsrec.steps.runner import step_identity
from sicsrec.tuning.ranges import Range, parse_ranges
from sicsrec.tuning.study import Proposal, Study, TrialRow, best_of, has_tried, open_study
from tasks.outcome import RunOutcome
from tasks.settings import Settings

logger = logging.getLogger(__name__)

METRICS = ("hr_at_5", "hr_at_10", "ndcg_at_5", "ndcg_at_10", "mrr")
"""Validation metrics that a search may go by."""

_HEADER = "# Found by `sicsrec search`"


@dataclass(frozen=True)
class SearchRequest:
    """What the user asked for."""

    preset: str
    data: str | None
    overrides: Sequence[str]
    seed: int | None
    ranges: str
    """Name of shipped ranges, or path of a file."""
    metric: str
    n_trials: int
    output: Path | None
    """Where the winner is written; None: below the home."""


@dataclass(frozen=True)
class SearchPlan:
    """A search that can begin."""

    request: SearchRequest
    resolved: ResolvedConfig
    ranges: tuple[Range, ...]
    last_step: str
    """The step whose model is judged, the last of every trial."""
    name: str
    """Equal for requests whose trials are comparable, however many they are."""

    @property
    def steps(self) -> tuple[str, ...]:
        """Names of the steps of a trial: the last one and what it needs."""
        return select_steps(self.resolved.config, wanted=[self.last_step])


@dataclass(frozen=True)
class FinishedSearch:
    """What a search found."""

    rows: list[TrialRow]
    winner: TrialRow
    preset: Path
    """The file that holds the winner."""
    mlflow_experiment_id: str
    mlflow_run_id: str


def load_ranges(name: str) -> tuple[Range, ...]:
    """Read ranges.

    Args:
        name: of shipped ranges, or path of a YAML file.

    Raises:
        ConfigError: if there is no such file, or it holds something else.
    """
    text = read_shipped_or_file("ranges", name, "--ranges", "ranges")
    return parse_ranges(parse_mapping(text, name), name)


def plan_search(request: SearchRequest, settings: Settings) -> SearchPlan:
    """Resolve the preset and try the ends of every range on it, before anything runs.

    Raises:
        ConfigError: if the metric, a range or the configuration cannot be used, a range changes
            nothing that a trial runs, or the winner cannot be written to the file asked for.
        DataError: if the raw data or a given vector file does not exist.
    """
    if request.metric not in METRICS:
        raise ConfigError(f"--metric {request.metric}: known are {', '.join(METRICS)}")
    resolved = _resolve(request, {})
    own = {path: value for path, value, _ in resolved.rows()}
    ranges = tuple(entry.fit(own.get(entry.paths[0])) for entry in load_ranges(request.ranges))
    tried = [resolved.config]
    for entry in ranges:
        for value in entry.ends():
            try:
                tried.append(_resolve(request, dict.fromkeys(entry.paths, value)).config)
            except ConfigError as err:
                raise ConfigError(f"range of {entry.name}, at {value!r}: {err}") from err
    sections = {section for entry in ranges for section in _sections(entry)}
    last_step = "pretrain_id" if sections == {"pretrain_id"} else "train_sicsrec"
    _check_reached(ranges, tried, last_step)
    steps = select_steps(resolved.config, wanted=[last_step])
    check_places(steps, resolved.config)
    name = _name(request, resolved.config, ranges, steps)
    plan = SearchPlan(request, resolved, ranges, last_step, name)
    _check_output(_preset_path(plan, settings))
    return plan


def _sections(entry: Range) -> set[str]:
    return {path.split(".")[0] for path in entry.paths}


def _check_reached(
    ranges: Sequence[Range], tried: Sequence[PipelineConfig], last_step: str
) -> None:
    """Refuse ranges whose values no trial uses: all trials would be the same."""
    # A range may decide which steps there are, so those of all values count.
    reached = {name for config in tried for name in select_steps(config, wanted=[last_step])}
    for entry in ranges:
        if not _sections(entry) & reached:
            steps = ", ".join(step.name for step in STEPS if step.name in reached)
            raise ConfigError(
                f"range of {entry.name}: it changes nothing, because with this configuration a "
                f"trial runs only {steps}; take it out"
            )


def _check_output(path: Path) -> None:
    if path.suffix not in FILE_SUFFIXES:
        raise ConfigError(
            f"--output {path}: the winner is a preset, whose file must end in "
            f"{' or '.join(FILE_SUFFIXES)}"
        )
    try:
        _check_place(path)
    except OSError as err:
        raise ConfigError(f"--output {path}: {err.strerror}; name another place") from err


def _check_place(path: Path) -> None:
    if path.is_dir():
        raise ConfigError(f"--output {path}: this is a folder; name a file")
    # The folder is made after all trials; what is in its way is found before them.
    there = nearest_existing(path.absolute().parent)
    if not there.is_dir():
        raise ConfigError(f"--output {path}: {there} is a file, not a folder; name another place")
    if not os.access(there, os.W_OK):
        raise ConfigError(f"--output {path}: nothing can be written to {there}; name another place")
    # Bytes, because a file of somebody else need not be text.
    if path.exists() and path.stat().st_size and not path.read_bytes().startswith(_HEADER.encode()):
        raise ConfigError(f"--output {path}: this file is not a search's; name another one")


def _resolve(request: SearchRequest, values: Mapping[str, Any]) -> ResolvedConfig:
    return resolve_config(
        request.preset,
        data=request.data,
        overrides=_overrides(request, values),
        seed=request.seed,
    )


def _overrides(request: SearchRequest, values: Mapping[str, Any]) -> list[str]:
    """Return the changes to the preset that a trial of these values runs with."""
    # Trials are judged as validation sees them; training them once more would double the time.
    # JSON is YAML, so any value keeps its type.
    tried = [f"{path}={json.dumps(value)}" for path, value in values.items()]
    return ["refit=false", *request.overrides, *tried]


def _name(
    request: SearchRequest, config: PipelineConfig, ranges: Sequence[Range], steps: Sequence[str]
) -> str:
    """Return a name that changes with all that trials depend on, but not with their number."""
    values = config.model_dump(mode="json", exclude={"ingest", "evaluate", "export"})
    for entry in ranges:
        for path in entry.paths:
            section, _, key = path.partition(".")
            # Where the search starts makes no trial another one.
            _leave_out(values[section], key)
    identity = {
        "config": values,
        "remove_seen": config.evaluate.remove_seen,
        "data": step_identity(get_step("ingest"), config, {}),
        "external": {name: external_inputs(name, config) for name in steps if name != "ingest"},
        "versions": {
            step.name: [step.version, dict(step.further_versions(config))] for step in STEPS
        },
        "ranges": [entry.model_dump(mode="json") for entry in ranges],
        "metric": request.metric,
    }
    return f"{config.dataset}-{Path(request.ranges).stem}-{make_key(identity)[:8]}"


def _leave_out(section: Any, path: str) -> None:
    name, _, rest = path.partition(".")
    if rest and isinstance(section.get(name), dict):
        _leave_out(section[name], rest)
    elif not rest:
        section.pop(name, None)


def _preset_path(plan: SearchPlan, settings: Settings) -> Path:
    return plan.request.output or settings.home / "searches" / f"{plan.name}.yaml"


def run_search(plan: SearchPlan, settings: Settings, console: Console, log: Path) -> FinishedSearch:
    """Carry out the trials that are missing, and write the best one as a preset.

    A trial that fails by the values it tries does not stop the others. A search that was killed, or
    stopped by trouble of another kind, goes on with the trial it was at; what its steps had
    finished is reused.

    Raises:
        SicsrecError: if no trial ended well, another process carries out the same search, the
            temporary server does not start, the disk is full, or a judge, the records or the shared
            store cannot be reached.
    """
    folder, config = settings.home / "searches", plan.resolved.config
    own = _own_values(plan)
    with (
        open_study(folder, plan.name, plan.ranges, config.seed) as study,
        prefect_session(settings, console, log),
    ):
        from tasks.search import recorded_search

        metric = f"valid/{plan.request.metric}"
        params = {"metric": metric, "ranges": plan.request.ranges} | {
            path: _in_words(entry) for entry in plan.ranges for path in entry.paths
        }
        with recorded_search(plan.name, config, params, study.recall("mlflow_run")) as record:
            study.remember("mlflow_run", record.run.run_id)
            while len(study.rows()) < plan.request.n_trials:
                proposal = study.propose(own)
                tags = record.tags_of_trial(proposal.number)
                _run_trial(plan, study, proposal, tags, console)
                record.log_trials(study.rows(), metric)
            rows = study.rows()
            if not has_tried(rows, own):
                logger.warning(
                    "the %d trials have not tried the configuration's own values, so the winner "
                    "may be worse than they are; ask for more trials", len(rows),
                )  # fmt: skip
            winner = best_of(rows)
            if winner is None:
                reasons = "; ".join(dict.fromkeys(row.note for row in rows))
                raise SicsrecError(f"no trial ended well: {reasons}")
            record.log_winner(winner, metric)
            path = _preset_path(plan, settings)
            path.parent.mkdir(parents=True, exist_ok=True)
            with replaced(path) as file:
                file.write(_preset(plan, rows, winner, record.run.run_id).encode())
            return FinishedSearch(rows, winner, path, record.run.experiment_id, record.run.run_id)


def _run_trial(
    plan: SearchPlan, study: Study, proposal: Proposal, tags: dict[str, str], console: Console
) -> None:
    from tasks.search import record_trial

    request, metric = plan.request, f"valid/{plan.request.metric}"
    figures: dict[str, float] = {}

    def describe(outcome: RunOutcome) -> str:
        figures.update(record_trial(outcome, plan.resolved.config, plan.last_step))
        return f"{metric} {figures[metric]:.4f}, {count_cached(outcome)}"

    asked = RunRequest(
        request.preset,
        request.data,
        _overrides(request, proposal.values),
        seed=request.seed,
        tags=tags,
        steps=[plan.last_step],
    )
    heading = f"trial {proposal.number} of {request.n_trials}"
    left = run_in_series(asked, plan.steps, heading, console, describe)
    if isinstance(left, NOT_BY_VALUES):
        raise left
    if isinstance(left, BaseException):
        study.tell_failed(proposal, in_words(left))
    else:
        study.tell(proposal, figures[metric])


def _own_values(plan: SearchPlan) -> dict[str, Any]:
    """Return the preset's values of what is searched."""
    config = plan.resolved.config.model_dump(mode="json")
    return {path: _value_at(config, path) for entry in plan.ranges for path in entry.paths}


def _value_at(values: Mapping[str, Any], path: str) -> Any:
    """Return the value or section at a dotted path; None where there is none."""
    value: Any = values
    for part in path.split("."):
        value = value.get(part) if isinstance(value, Mapping) else None
    return value


def _in_words(entry: Range) -> str:
    if entry.interval is None:
        return ", ".join(json.dumps(choice) for choice in entry.choices)
    interval = entry.interval
    how = ", log" if interval.log else f", step {interval.step:g}" if interval.step else ""
    return f"{interval.low:g} to {interval.high:g}{how}"


def _preset(
    plan: SearchPlan, rows: Sequence[TrialRow], winner: TrialRow, mlflow_run_id: str
) -> str:
    """Return the winner as a file that runs, with its origin in comments."""
    request = plan.request
    given = dict(parse_override(text) for text in request.overrides)
    seed = {} if request.seed is None else {"seed": request.seed}
    values = extend_preset(request.preset, given | seed | winner.values)
    own_values = _own_values(plan)
    own = next((row.value for row in rows if row.values == own_values), None)
    lines = [
        f"{_HEADER}, {datetime.now().astimezone():%Y-%m-%d}: search {plan.name},",
        f"# trial {winner.number} of {len(rows)}, ranges {Path(request.ranges).name}, seed "
        f"{plan.resolved.config.seed}, MLflow run {mlflow_run_id}.",
        f"# Validation {request.metric} {winner.value:.4f}"
        + ("." if own is None else f"; the preset's own values have {own:.4f}."),
        "# Chosen on the validation part alone: no test target was opened.",
    ]
    body = yaml.safe_dump(values, sort_keys=False, allow_unicode=True)
    return "\n".join([*lines, body])


def print_search(
    finished: FinishedSearch, plan: SearchPlan, settings: Settings, console: Console
) -> None:
    """Print the best trials, the file and where the search is recorded."""
    console.print(trial_table(finished.rows, plan.request.metric))
    run = f"sicsrec run {shlex.quote(str(finished.preset))}"
    data = f" --data {shlex.quote(plan.request.data)}" if plan.request.data else ""
    page = mlflow_run_page(settings, finished.mlflow_experiment_id, finished.mlflow_run_id)
    for label, text in (("Winner  ", run + data), ("MLflow  ", ", then ".join(page))):
        console.print(Text(label, style="bold"), Text(text), sep="", soft_wrap=True)
