"""All deployments in one table; ``sicsrec serve`` and ``docker/prefect.yaml`` register the same.

Prefect is imported by the functions that need it: it takes the server's address when it is
imported, and ``sicsrec serve`` knows that only once its server runs.
"""

import asyncio
import warnings
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from pydantic import ValidationError

from sicsrec.errors import ConfigError
from sicsrec.steps import STEP_NAMES
from tasks.settings import GPU_LIMIT

FLOW_NAME = "sicsrec"
_POLL_SECONDS = 2.0
"""How often a run that is due is looked for."""
_CRON_FIELDS = 5
_CRON_FORM = "Five fields are expected: minute, hour, day of the month, month, day of the week"


@dataclass(frozen=True)
class Deployment:
    """One deployment of the flow ``sicsrec``; its parameters are the defaults of the form."""

    name: str
    summary: str
    """One or two sentences."""
    note: str = ""
    """What else the description on Prefect's page says."""
    tags: tuple[str, ...] = ("sicsrec",)
    parameters: Mapping[str, Any] = field(default_factory=dict)

    @property
    def description(self) -> str:
        """What Prefect's page says."""
        return f"{self.summary} {self.note}".strip()

    @property
    def full_name(self) -> str:
        """The name that ``prefect deployment run`` takes."""
        return f"{FLOW_NAME}/{self.name}"


_WHAT_STEPS_DO = {
    "ingest": "Read the raw data: check every row, decode every cover.",
    "split": "Split the log into train, valid and test.",
    "sample_pairs": "Let the judge name similar and unrelated items in training histories.",
    "align_encoders": "Fine-tune the text and the image encoder on the pairs.",
    "encode_items": "Turn texts and covers into vectors.",
    "pretrain_id": "Step 1 of training: item embeddings and ID encoder.",
    "train_sicsrec": "Step 2 of training: content encoder, mix decoder, adapters, blend.",
    "evaluate": "Rank the held-out targets, beside simple rivals.",
    "export": "Write recommendations, vectors and a model folder.",
}
_REUSE = (
    "What it needs before it runs as well, or is reused when it is there. Unchanged output is "
    "reused too; name the step under `refresh` to make it again."
)

DEPLOYMENTS: tuple[Deployment, ...] = (
    Deployment(
        "full-pipeline",
        "Raw video metadata, covers and histories to an evaluated, exported recommender.",
        "Steps whose inputs did not change are reused; `refresh` names steps to make again.",
    ),
    Deployment(
        "features",
        "Stage 1: items to text and image vectors.",
        _REUSE,
        ("sicsrec", "stage"),
        {"steps": ["encode_items"]},
    ),
    Deployment(
        "training",
        "Stage 2: both steps of training, evaluation, export.",
        _REUSE,
        ("sicsrec", "stage"),
        {"steps": ["pretrain_id", "train_sicsrec", "evaluate", "export"]},
    ),
    *(
        Deployment(name, _WHAT_STEPS_DO[name], _REUSE, ("sicsrec", "step"), {"steps": [name]})
        for name in STEP_NAMES
    ),
)


def parse_schedules(texts: Sequence[str]) -> dict[str, str]:
    """Return deployments and their schedules from texts like ``full-pipeline=0 3 * * *``.

    Raises:
        ConfigError: if a text is something else, names no deployment or has too few fields.
    """
    known = [entry.name for entry in DEPLOYMENTS]
    schedules = {}
    for text in texts:
        name, equals, cron = (part.strip() for part in text.partition("="))
        if not equals or not cron:
            raise ConfigError(f"--cron {text!r}: write it as full-pipeline='0 3 * * *'")
        if name not in known:
            raise ConfigError(
                f"--cron {text!r}: there is no deployment {name!r}. Deployments: {', '.join(known)}"
            )
        # Prefect says the rest, but must not be imported before its server is known.
        if len(cron.split()) < _CRON_FIELDS and not cron.startswith("@"):
            raise ConfigError(f"--cron {text!r}: {cron!r} is no schedule. {_CRON_FORM}")
        schedules[name] = cron
    return schedules


def serve_deployments(
    schedules: Mapping[str, str], n_at_once: int, say_ready: Callable[[], None]
) -> None:
    """Register all deployments with the Prefect server in use and carry out their runs.

    Args:
        schedules: name of a deployment to its schedule as cron has it; the others keep the
            schedules that they have on the server.
        n_at_once: runs carried out at the same time; more wait.
        say_ready: called when all are registered and before the first run: until then the server
            does not know them.

    Raises:
        ConfigError: if a schedule is none.
    """
    from prefect.exceptions import TerminationSignal
    from prefect.runner import Runner
    from prefect.types.entrypoint import EntrypointType

    from flows.pipeline import sicsrec
    from tasks.tracebacks import keep_passwords_out_of_prefect

    keep_passwords_out_of_prefect()
    registered: list[Any] = []
    for entry in DEPLOYMENTS:
        cron = schedules.get(entry.name)
        try:
            registered.append(
                sicsrec.to_deployment(
                    entry.name,
                    description=entry.description,
                    tags=list(entry.tags),
                    parameters=dict(entry.parameters),
                    cron=cron,
                    entrypoint_type=EntrypointType.MODULE_PATH,
                )
            )
        except ValidationError as err:
            raise ConfigError(f"--cron {entry.name}={cron!r} is no schedule. {_CRON_FORM}") from err
    runner = Runner(limit=n_at_once, query_seconds=_POLL_SECONDS)
    for deployment in registered:
        runner.add_deployment(deployment)
    limit_gpu_work()
    say_ready()
    with suppress(KeyboardInterrupt, TerminationSignal), warnings.catch_warnings():
        # At SIGTERM the runner calls its own method in a way that it warns of; it stops in order.
        warnings.filterwarnings("ignore", "coroutine 'Runner.astop'", RuntimeWarning)
        asyncio.run(runner.start())


def limit_gpu_work() -> dict[str, Any]:
    """Let one step at a time compute on a GPU, unless the server has a limit already.

    A step of ``prefect deploy`` as well, which is why it returns a mapping.
    """
    from prefect.client.orchestration import get_client
    from prefect.client.schemas.actions import GlobalConcurrencyLimitCreate
    from prefect.exceptions import ObjectAlreadyExists, ObjectNotFound

    with get_client(sync_client=True) as client:
        try:
            client.read_global_concurrency_limit_by_name(GPU_LIMIT)
        except ObjectNotFound:
            try:
                client.create_global_concurrency_limit(
                    GlobalConcurrencyLimitCreate(name=GPU_LIMIT, limit=1, slot_decay_per_second=0)
                )
            except ObjectAlreadyExists:
                # Somebody else has made it in between.
                return {}
    return {}
