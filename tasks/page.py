"""What Prefect's page shows of a step beside its state: a summary, its progress, links."""

import logging
import re
import textwrap
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from uuid import UUID

import httpx
from prefect.artifacts import create_link_artifact, create_markdown_artifact
from prefect.client.orchestration import get_client
from prefect.client.schemas.actions import ArtifactCreate, ArtifactUpdate
from prefect.client.schemas.objects import State
from prefect.exceptions import PrefectException
from prefect.runtime import deployment, flow_run, task_run
from prefect.states import Failed

from sicsrec.addresses import without_passwords
from sicsrec.errors import ConfigError, SicsrecError
from sicsrec.progress import Advance, Progress, TimeLeft
from sicsrec.steps.runner import StepResult
from tasks.outcome import RunOutcome, StepOutcome
from tasks.settings import Settings
from tasks.tracebacks import write_traceback

logger = logging.getLogger("sicsrec.tasks")

_REFUSALS = (httpx.HTTPError, PrefectException, RuntimeError)
"""What Prefect's client raises; the last where a server does not answer its first question."""
_PAGE_WIDTH = 80
"""Characters of a line of code on Prefect's page."""
_NOT_IN_KEYS = re.compile(r"[^a-z0-9]+")


def artifact_key(*words: str) -> str:
    """Return a key as Prefect takes it: small letters, digits and dashes.

    Example:
        >>> artifact_key("My Videos", "encode_items")
        'my-videos-encode-items'
    """
    return _NOT_IN_KEYS.sub("-", " ".join(words).lower()).strip("-")


class PageProgress:
    """Shows stages that take long as progress artifacts of the running task, with few updates.

    Args:
        key: of the artifacts.
        first_seconds: how long a stage has to run before it is shown.
        longest_seconds: the longest time between updates, which are a twentieth of the time that
            the stage has run apart, but never closer than ``first_seconds``.
    """

    def __init__(
        self, key: str, first_seconds: float = 10.0, longest_seconds: float = 60.0
    ) -> None:
        self.key = key
        self.first_seconds = first_seconds
        self.longest_seconds = longest_seconds

    @contextmanager
    def stage(self, description: str, total: int | None) -> Iterator[Advance]:
        """See :meth:`sicsrec.progress.Progress.stage`; a stage of unknown length is not shown."""
        if not total:
            yield _ignore
            return
        bar = _ProgressArtifact(self, description, total)
        yield bar.advance
        bar.finish()


def _ignore(n: int = 1, note: str = "") -> None:
    del n, note


class _ProgressArtifact:
    """One stage on the page. The page is told; it never stops the work."""

    def __init__(self, settings: PageProgress, description: str, total: int) -> None:
        self._settings = settings
        self._description = description
        self._total = total
        # Asked here: whoever advances the stage may do so from another thread.
        self._flow_run_id, self._task_run_id = flow_run.id, task_run.id
        self._started = self._last = time.monotonic()
        self._done = 0
        self._time_left = TimeLeft(total)
        self._artifact_id: UUID | None = None
        self._is_told = True

    def advance(self, n: int = 1, note: str = "") -> None:
        self._done += n
        now = time.monotonic()
        settings, elapsed = self._settings, now - self._started
        left = self._time_left.seconds(now, self._done)
        wait = max(settings.first_seconds, min(elapsed / 20, settings.longest_seconds))
        if not self._is_told or now - self._last < wait:
            return
        self._last = now
        words = [f"{self._done:,} of {self._total:,}"]
        if left is not None:
            words.append(f"about {_duration(left)} left")
        share = round(100 * min(self._done / self._total, 1.0), 1)
        self._tell(", ".join([*words, *([note] if note else [])]), share)

    def finish(self) -> None:
        if self._artifact_id is not None:
            # Training that stops early has done fewer than all.
            took = _duration(time.monotonic() - self._started)
            self._tell(f"{self._done:,} in {took}", share=100.0)

    def _tell(self, words: str, share: float) -> None:
        text = f"{self._description}: {words}"
        try:
            with get_client(sync_client=True) as client:
                if self._artifact_id is None:
                    made = client.create_artifact(
                        ArtifactCreate(
                            key=self._settings.key,
                            type="progress",
                            description=text,
                            data=share,
                            flow_run_id=self._flow_run_id,
                            task_run_id=self._task_run_id,
                        )
                    )
                    self._artifact_id = made.id
                else:
                    client.update_artifact(
                        self._artifact_id, ArtifactUpdate(description=text, data=share)
                    )
        except _REFUSALS as err:
            self._is_told = False
            logger.warning(
                "Prefect is not told how far %s is: %s",
                self._description,
                without_passwords(str(err)),
            )


class BothProgress:
    """Tells two receivers."""

    def __init__(self, first: Progress, second: Progress) -> None:
        self.both = (first, second)

    @contextmanager
    def stage(self, description: str, total: int | None) -> Iterator[Advance]:
        """See :meth:`sicsrec.progress.Progress.stage`."""
        with ExitStack() as stack:
            advances = [
                stack.enter_context(progress.stage(description, total)) for progress in self.both
            ]

            def advance(n: int = 1, note: str = "") -> None:
                for told in advances:
                    told(n, note)

            yield advance


@contextmanager
def _if_it_answers(what: str) -> Iterator[None]:
    """Let the page go without something when the server does not take it."""
    try:
        yield
    except _REFUSALS as err:
        logger.warning("Prefect is not told %s: %s", what, without_passwords(str(err)))


def publish_step(outcome: StepOutcome, result: StepResult) -> None:
    """Leave a summary of a finished step on its page."""
    manifest = result.manifest
    how = "reused" if outcome.was_reused else "ran"
    how += f", fetched from {outcome.fetched_from}" if outcome.fetched_from else ""
    tracking = manifest.tracking
    outputs = "\n".join(
        f"| {name} | `{entry.digest[:16]}` | {_size(sum(f.n_bytes for f in entry.files))} | "
        f"{', '.join(entry.sees) or 'nothing'} |"
        for name, entry in manifest.outputs.items()
    )
    made = _duration(manifest.seconds)
    with _if_it_answers(f"what {outcome.name} did"):
        create_markdown_artifact(
            key=artifact_key(manifest.dataset, outcome.name),
            description=f"{outcome.name}, {manifest.dataset}: {how}, {outcome.rows:,} "
            f"{outcome.rows_of}, {_duration(outcome.seconds)}",
            markdown=(
                f"## {outcome.name}: {how}\n\n"
                f"| | |\n|---|---|\n| {outcome.rows_of} | {outcome.rows:,} |\n"
                f"| this time | {_duration(outcome.seconds)} |\n"
                f"| when it was made | {made}, {manifest.started[:16].replace('T', ' ')} UTC |\n"
                f"| size | {_size(outcome.n_bytes)} |\n| key | `{outcome.key}` |\n"
                f"| folder | `{outcome.folder}` |\n"
                f"| MLflow | {_mlflow_words(tracking)} |\n\n"
                "| output | digest | size | has seen of the log |\n|---|---|---|---|\n"
                f"{outputs}\n"
            ),
        )


def publish_run(dataset: str, outcome: RunOutcome) -> None:
    """Leave a summary of a finished run on its page, and a link to its record."""
    tracking = {
        "mlflow_experiment_id": outcome.mlflow_experiment_id,
        "mlflow_run_id": outcome.mlflow_run_id,
    }
    places = [f"MLflow: {_mlflow_words(tracking)}"]
    if outcome.report is not None:
        places.insert(0, f"report: `{outcome.report}`")
    if outcome.registered:
        places.insert(0, f"model: {outcome.registered}")
    lines = "\n".join(f"- {place}" for place in places)
    with _if_it_answers("what the run did"):
        create_markdown_artifact(
            key=artifact_key(dataset, "run"),
            description=f"{dataset}: {_counted(outcome.steps)}",
            markdown=(
                f"## {dataset}\n\n"
                "| step | | rows | time | size | key |\n|---|---|---|---|---|---|\n"
                f"{_step_rows(outcome.steps)}\n\n{lines}\n"
            ),
        )
        link = mlflow_link(tracking)
        if link is not None:
            create_link_artifact(
                link,
                link_text="the run in MLflow",
                key=artifact_key(dataset, "mlflow"),
                description=f"{dataset}: parameters, curves, tables",
            )


def failed_run(error: SicsrecError) -> State[RunOutcome]:
    """Say on the run's page what went wrong and return the state that the run ends in.

    The command line writes the traceback into its own log file, a run of a deployment into one of
    its own.
    """
    logger.error("%s", error)
    where = ""
    if deployment.id is not None:
        path = _traceback_file(error)
        if path is not None:
            logger.info("the traceback is in %s", path)
            where = f" The traceback is in `{path}`, where the run was carried out."
    with _if_it_answers("what went wrong"):
        create_markdown_artifact(
            key="what-went-wrong",
            description=" ".join(str(error).split()),
            markdown=(
                f"## What went wrong\n\n```\n{_wrapped(str(error))}\n```\n\n"
                "What was finished before is kept: once this is mended, run again to go on."
                f"{where}\n"
            ),
        )
    return Failed(message=str(error), data=error)


def _traceback_file(error: SicsrecError) -> Path | None:
    try:
        folder = Settings.from_environment().log_folder
    except ConfigError:
        # Perhaps the very error that is told: where logs lie nobody knows then.
        return None
    return write_traceback(error, folder)


def _wrapped(text: str) -> str:
    """Return a message in lines that the page shows whole; it cuts what is longer."""
    lines = []
    for line in text.splitlines():
        indent = line[: len(line) - len(line.lstrip())]
        # Words stay whole: they are paths, keys and addresses, to be copied.
        lines += textwrap.wrap(
            line,
            _PAGE_WIDTH,
            subsequent_indent=indent,
            break_long_words=False,
            break_on_hyphens=False,
        )
    return "\n".join(lines)


def _counted(steps: Sequence[StepOutcome]) -> str:
    """Say how many steps there were and how many of them ran, as ``9 steps, 2 ran, 7 reused``."""
    n_reused = sum(step.was_reused for step in steps)
    words = ["1 step" if len(steps) == 1 else f"{len(steps)} steps"]
    counts = {"ran": len(steps) - n_reused, "reused": n_reused}
    return ", ".join(words + [f"{n} {how}" for how, n in counts.items() if n])


def _step_rows(steps: Sequence[StepOutcome]) -> str:
    return "\n".join(
        f"| {step.name} | {'reused' if step.was_reused else 'ran'} | {step.rows:,} {step.rows_of} "
        f"| {_duration(step.seconds)} | {_size(step.n_bytes)} | `{step.key}` |"
        for step in steps
    )


def mlflow_link(tracking: dict[str, str]) -> str | None:
    """Return the address of a run's page, None where no server is known or nothing was recorded.

    Args:
        tracking: ids of the experiment and the run, as a manifest keeps them.
    """
    settings = Settings.from_environment()
    if settings.mlflow_page is None or "mlflow_run_id" not in tracking:
        return None
    return settings.mlflow_run_page(tracking["mlflow_experiment_id"], tracking["mlflow_run_id"])


def _mlflow_words(tracking: dict[str, str]) -> str:
    if "mlflow_run_id" not in tracking:
        return "not recorded"
    settings = Settings.from_environment()
    run_id = tracking["mlflow_run_id"]
    link = f"[{run_id}]({settings.mlflow_run_page(tracking['mlflow_experiment_id'], run_id)})"
    return link if settings.mlflow_page is not None else f"{link}, while `sicsrec ui` runs"


def prefect_links() -> dict[str, str]:
    """Return tags that lead from a record to the pages of the running flow and task."""
    page = Settings.from_environment().prefect_page
    if page is None:
        return {}
    runs = {"flow-run": flow_run.id, "task-run": task_run.id}
    return {
        f"prefect.{kind.replace('-', '_')}_url": f"{page}/runs/{kind}/{run_id}"
        for kind, run_id in runs.items()
        if run_id
    }


def _duration(seconds: float) -> str:
    if seconds < 100:
        return f"{seconds:.1f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 100 else f"{minutes // 60} h {minutes % 60:02d} min"


def _size(n_bytes: float) -> str:
    for unit in ("B", "kB", "MB"):
        if n_bytes < 1000:
            return f"{n_bytes:.0f} {unit}" if unit == "B" else f"{n_bytes:.1f} {unit}"
        n_bytes /= 1000
    return f"{n_bytes:.1f} GB"
