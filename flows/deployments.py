"""All deployments in one table; ``sicsrec serve`` and ``docker/prefect.yaml`` register the same.

Prefect is imported by the functions that need it: it takes the server's address when it is
imported, and ``sicsrec serve`` knows that only once its server runs.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any
from zoneinfo import ZoneInfo

from pydantic import ValidationError

from flows.configuration import preset_names, resolve_config
from sicsrec.errors import ConfigError
from sicsrec.steps import STEP_NAMES
from sicsrec.steps.external import check_places
from tasks.settings import GPU_LIMIT

if TYPE_CHECKING:
    from prefect.client.orchestration import SyncPrefectClient
    from prefect.client.schemas.responses import DeploymentResponse

FLOW_NAME = "sicsrec"
_POLL_SECONDS = 2.0
"""How often a run that is due is looked for."""
_OF_A_PRESET = ("preset", "data", "overrides", "seed")
"""Parameters that say what a run is about."""
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
        ConfigError: if a text is something else, names no deployment or one that has a schedule
            already, or has too few fields.
    """
    known = [entry.name for entry in DEPLOYMENTS]
    schedules: dict[str, str] = {}
    for text in texts:
        name, equals, cron = (part.strip() for part in text.partition("="))
        if not equals or not cron:
            raise ConfigError(f"--cron {text!r}: write it as full-pipeline='0 3 * * *'")
        if name not in known:
            raise ConfigError(
                f"--cron {text!r}: there is no deployment {name!r}. Deployments: {', '.join(known)}"
            )
        if name in schedules:
            raise ConfigError(
                f"--cron {text!r}: {name} is given {schedules[name]!r} already; one schedule a "
                "deployment can be given here, more on Prefect's page"
            )
        # Prefect says the rest, but must not be imported before its server is known.
        if len(cron.split()) < _CRON_FIELDS and not cron.startswith("@"):
            raise ConfigError(f"--cron {text!r}: {cron!r} is no schedule. {_CRON_FORM}")
        schedules[name] = cron
    return schedules


def check_timezone(name: str) -> None:
    """Refuse what is no time zone.

    Raises:
        ConfigError: naming it.
    """
    try:
        ZoneInfo(name)
    except (KeyError, ValueError, OSError) as err:
        raise ConfigError(
            f"--timezone {name!r}: there is no such time zone; give one like Europe/Berlin, or UTC"
        ) from err


def default_parameters(
    preset: str | None, data: str | None, overrides: Sequence[str]
) -> dict[str, Any]:
    """Return what runs are given that are asked for nothing else, such as those of a schedule.

    Args:
        preset: name of a shipped one or path of a file; None: ``demo``, or what was there before.
        data: folder of the raw data.
        overrides: changes to the preset.

    Raises:
        ConfigError: if no run could use them.
        DataError: if the data are not there.
    """
    if preset is None:
        if data is not None or overrides:
            raise ConfigError("--data and --set belong to a preset; name it too")
        return {}
    resolved = resolve_config(preset, data=data, overrides=overrides)
    check_places(STEP_NAMES, resolved.config)
    # Whoever carries out a run may be in another folder.
    parameters: dict[str, Any] = {
        "preset": preset if preset in preset_names() else str(Path(preset).resolve())
    }
    if data is not None:
        parameters["data"] = resolved.config.ingest.path
    if overrides:
        parameters["overrides"] = list(overrides)
    return parameters


def serve_deployments(
    schedules: Mapping[str, str],
    n_at_once: int,
    say_ready: Callable[[], None],
    *,
    timezone: str = "UTC",
    parameters: Mapping[str, Any] | None = None,
) -> None:
    """Register all deployments with the Prefect server in use and carry out their runs.

    What somebody gave a deployment on the server, schedules and default parameters, stays: only
    what is given here takes the place of what is there. At SIGINT and SIGTERM runs under way are
    told to end, and say so to their records, before this returns.

    Args:
        schedules: name of a deployment to its schedule as cron has it, in place of those that it
            has on the server; the others keep theirs.
        n_at_once: runs carried out at the same time; more wait.
        say_ready: called when all are registered and before the first run: until then the server
            does not know them.
        timezone: that the schedules given here are in.
        parameters: defaults of all deployments, beside their own; what is not among them stays as
            it is on the server.

    Raises:
        ConfigError: if a schedule is none.
        SicsrecError: if the server goes away or fails; runs under way are told to end then, too.
    """
    from prefect.client.orchestration import get_client
    from prefect.types.entrypoint import EntrypointType

    from flows.pipeline import sicsrec
    from flows.served_runs import ServedRunner, carry_out
    from tasks.tracebacks import keep_passwords_out_of_prefect

    keep_passwords_out_of_prefect()
    with get_client(sync_client=True) as client:
        on_server = read_deployments(client)
    registered: list[Any] = []
    for entry in DEPLOYMENTS:
        known = on_server.get(entry.name)
        kept = dict(known.parameters) if known else {}
        if parameters:
            # They belong together: no folder of other data comes with another preset.
            kept = {name: value for name, value in kept.items() if name not in _OF_A_PRESET}
        deployment: Any = sicsrec.to_deployment(
            entry.name,
            description=entry.description,
            tags=list(entry.tags),
            parameters={**kept, **(parameters or {}), **entry.parameters},
            entrypoint_type=EntrypointType.MODULE_PATH,
        )
        deployment.schedules = _schedules(entry.name, schedules, timezone, known)
        registered.append(deployment)
    runner = ServedRunner(limit=n_at_once, query_seconds=_POLL_SECONDS)
    for deployment in registered:
        runner.add_deployment(deployment)
    limit_gpu_work()
    say_ready()
    carry_out(runner)


def read_deployments(client: "SyncPrefectClient") -> "dict[str, DeploymentResponse]":
    """Return what a server knows of the flow's deployments, by name."""
    from prefect.client.schemas.filters import FlowFilter, FlowFilterName

    mine = FlowFilter(name=FlowFilterName(any_=[FLOW_NAME]))
    return {entry.name: entry for entry in client.read_deployments(flow_filter=mine)}


def _schedules(
    name: str,
    given: Mapping[str, str],
    timezone: str,
    known: "DeploymentResponse | None",
) -> list[Any]:
    """Return the schedules of a deployment: the one given, or those on the server as they are.

    Raises:
        ConfigError: if the one given is none.
    """
    from prefect.client.schemas.actions import DeploymentScheduleCreate
    from prefect.client.schemas.schedules import CronSchedule

    if name in given:
        try:
            cron = CronSchedule(cron=given[name], timezone=timezone)
        except ValidationError as err:
            why = err.errors()[0]["msg"].removeprefix("Value error, ")
            raise ConfigError(
                f"--cron {name}={given[name]!r} is no schedule: {why}. {_CRON_FORM}"
            ) from err
        return [DeploymentScheduleCreate(schedule=cron)]
    return [
        DeploymentScheduleCreate(
            **entry.model_dump(include=set(DeploymentScheduleCreate.model_fields))
        )
        for entry in (known.schedules if known else ())
    ]


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
