"""``sicsrec doctor``: whether everything that a run needs is there and sound."""

import importlib.metadata
import json
import os
import shutil
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, Literal

from rich.table import Table
from rich.text import Text

from flows.deployments import DEPLOYMENTS, read_deployments
from flows.server import PREFECT_URL, is_answering
from flows.terminal import format_bytes, new_table
from sicsrec.addresses import without_password, without_passwords
from sicsrec.artifacts import ArtifactStore
from sicsrec.errors import ConfigError, SharedStoreError, SicsrecError
from sicsrec.paths import nearest_existing
from tasks.settings import GPU_LIMIT, Settings

if TYPE_CHECKING:
    from prefect.client.orchestration import SyncPrefectClient

State = Literal["ok", "warning", "problem"]

_STYLES: dict[State, str] = {"ok": "green", "warning": "yellow", "problem": "bold red"}
_LITTLE_SPACE, _NO_SPACE = 10_000_000_000, 1_000_000_000
_ALIVE = timedelta(minutes=2)
"""Who has not asked for work for so long is not there."""
_MOST_NAMED = 3


@dataclass(frozen=True)
class Check:
    """What one look found."""

    name: str
    state: State
    found: str
    advice: str = ""
    """What to do; empty when all is well."""


def examine(settings: Settings, *, with_digests: bool = True) -> list[Check]:
    """Look at everything; nothing is changed.

    Args:
        settings: where things lie.
        with_digests: read every file of the store and compare its digest; otherwise sizes only.
    """
    with warnings.catch_warnings():
        # Where there is no home yet, Prefect warns of it when it is imported.
        warnings.filterwarnings("ignore", message="Failed to create the Prefect home directory")
        return [
            _versions(),
            _device(settings),
            _disk(settings),
            *_told("store", _store(settings, with_digests)),
            *_told("shared store", _shared_store(settings)),
            *_told("MLflow", _mlflow(settings)),
            *_told("Prefect", _prefect(settings)),
        ]


def _told(name: str, look: Iterator[Check]) -> Iterator[Check]:
    """Yield what a look finds; a file that it may not read is a problem, and ends no other look."""
    try:
        yield from look
    except OSError as err:
        yield Check(
            name,
            "problem",
            without_passwords(f"{err.filename}: {err.strerror}" if err.filename else str(err)),
            "see that whoever runs this may read and write there, or set SICSREC_HOME to a folder "
            "of yours",
        )


def is_sound(checks: Sequence[Check]) -> bool:
    """Whether nothing is a problem; warnings are none."""
    return all(check.state != "problem" for check in checks)


def checks_table(checks: Sequence[Check]) -> Table:
    """Return the checks as a table for people."""
    table = new_table()
    table.add_column("", no_wrap=True)
    table.add_column("", no_wrap=True)
    table.add_column("", overflow="fold")
    table.show_header = False
    for check in checks:
        words = Text(check.found)
        if check.advice:
            words.append(f"\n{check.advice}", style="dim")
        table.add_row(check.name, Text(check.state, style=_STYLES[check.state]), words)
    return table


def checks_json(checks: Sequence[Check]) -> str:
    """Return the checks as JSON, for programs."""
    content = {"is_sound": is_sound(checks), "checks": [asdict(check) for check in checks]}
    return json.dumps(content, indent=2, ensure_ascii=False)


def _versions() -> Check:
    from sicsrec.steps.machine import untested_versions

    try:
        faults = untested_versions()
    except importlib.metadata.PackageNotFoundError:
        return Check(
            "versions",
            "warning",
            "sicsrec runs from a folder and is not installed",
            "pip install .",
        )
    if faults:
        return Check(
            "versions",
            "warning",
            "untested: " + "; ".join(faults),
            "pip install --upgrade sicsrec, or the exact versions of docker/constraints.txt",
        )
    return Check("versions", "ok", f"sicsrec {importlib.metadata.version('sicsrec')}, as tested")


def _device(settings: Settings) -> Check:
    from sicsrec.steps.machine import find_accelerator

    found = find_accelerator()
    if found.trouble:
        return Check(
            "device", "problem", found.trouble, "install a driver and a build of torch that match"
        )
    if found.name is None and settings.device.startswith(("cuda", "mps")):
        return Check(
            "device",
            "problem",
            f"SICSREC_DEVICE={settings.device}, but there is no accelerator",
            "unset it, or set it to cpu",
        )
    number = settings.device.partition(":")[2]
    if number and int(number) >= found.count:
        return Check(
            "device",
            "problem",
            f"SICSREC_DEVICE={settings.device}, but the last one is cuda:{found.count - 1}",
            "name one that there is",
        )
    if found.name is None:
        return Check("device", "ok", "no accelerator: runs compute on the CPU")
    if settings.device == "auto" and not found.is_chosen:
        return Check("device", "ok", f"{found.name}, not used: runs compute on the CPU")
    words = found.name
    if found.total_bytes:
        words += f", {format_bytes(found.free_bytes)} of {format_bytes(found.total_bytes)} free"
    if found.total_bytes and found.free_bytes < found.total_bytes / 4:
        return Check("device", "warning", words, "nvidia-smi shows what uses its memory")
    return Check("device", "ok", words)


def _disk(settings: Settings) -> Check:
    folder = nearest_existing(settings.home)
    if not os.access(folder, os.W_OK | os.X_OK):
        return Check(
            "disk",
            "problem",
            f"nothing can be written to SICSREC_HOME={settings.home}",
            "set SICSREC_HOME to a folder of yours",
        )
    free = shutil.disk_usage(folder).free
    words = f"{format_bytes(free)} free for SICSREC_HOME={settings.home}"
    advice = "free some space, or set SICSREC_HOME to a folder of a larger disk"
    if free < _NO_SPACE:
        return Check("disk", "problem", words, advice)
    return (
        Check("disk", "warning", words, advice)
        if free < _LITTLE_SPACE
        else Check("disk", "ok", words)
    )


def _store(settings: Settings, with_digests: bool) -> Iterator[Check]:
    from sicsrec.steps.store_health import examine_store

    health = examine_store(ArtifactStore(settings.store_root), with_digests=with_digests)
    how = "digests compared" if with_digests else "sizes compared"
    words = f"{health.n_artifacts} artifacts, {format_bytes(health.n_bytes)}, {how}"
    if health.in_progress:
        words += f"; being made: {_some(health.in_progress)}"
    if health.broken:
        yield Check(
            "store",
            "problem",
            f"{len(health.broken)} of {health.n_artifacts} artifacts are broken: "
            f"{_some(health.broken)}",
            "the next run that needs one makes it again",
        )
    else:
        yield Check("store", "ok", words)
    if health.leftovers:
        yield Check(
            "leftovers",
            "warning",
            f"killed runs left {len(health.leftovers)} folders, "
            f"{format_bytes(health.leftover_bytes)}: {_some([str(p) for p in health.leftovers])}",
            "the same run again goes on from there; otherwise they can be removed",
        )


def _shared_store(settings: Settings) -> Iterator[Check]:
    from tasks.shared_store import open_shared_store

    try:
        shared = open_shared_store(settings.shared_store)
        if shared is not None:
            found = _some(shared.look()) or "nothing there yet"
            yield Check("shared store", "ok", f"{shared.url}: {found}")
    except SharedStoreError as err:
        yield Check("shared store", "warning", str(err), "runs go on with the local store alone")
    except ConfigError as err:
        yield Check("shared store", "problem", str(err), "see SICSREC_SHARED_STORE")


def _mlflow(settings: Settings) -> Iterator[Check]:
    if settings.mlflow_uri is None and not (settings.home / "mlflow" / "mlflow.db").exists():
        yield Check("MLflow", "ok", "no runs yet; the first run makes the database")
        return
    from sicsrec.tracking.mlflow_store import MlflowStore

    try:
        store = MlflowStore(settings.home, settings.mlflow_uri, follows_home=False)
        n_experiments = store.count_experiments()
    except SicsrecError as err:
        yield Check("MLflow", "problem", str(err))
        return
    where = settings.mlflow_page or "the database below SICSREC_HOME"
    yield Check("MLflow", "ok", f"{where}: data sets with runs: {n_experiments}")


def _prefect(settings: Settings) -> Iterator[Check]:
    api_url = settings.prefect_api_url
    if api_url is None:
        if is_answering(f"{PREFECT_URL}/api"):
            yield Check(
                "Prefect",
                "warning",
                f"a server answers under {PREFECT_URL}, but PREFECT_API_URL is not set",
                f"to use it: export PREFECT_API_URL={PREFECT_URL}/api",
            )
            return
        yield Check(
            "Prefect",
            "ok",
            "no server named: `sicsrec run` starts one for each run. For deployments and "
            "schedules: sicsrec serve",
        )
        return
    if not is_answering(api_url):
        yield Check(
            "Prefect",
            "problem",
            f"no server answers under PREFECT_API_URL={without_password(api_url)}",
            "prefect server start, or unset the variable",
        )
        return
    yield from _prefect_server(api_url)


def _prefect_server(api_url: str) -> Iterator[Check]:
    import httpx
    from prefect.client.orchestration import get_client
    from prefect.exceptions import PrefectException

    looks: tuple[Callable[[SyncPrefectClient], Check], ...]
    looks = (_server, _worker, _runs, _gpu_limit)
    try:
        with get_client(sync_client=True) as client:
            for look in looks:
                yield look(client)
    except (httpx.HTTPError, PrefectException) as err:
        yield Check(
            "Prefect",
            "problem",
            without_passwords(f"the server under {api_url} answers with an error: {err}"),
            "look at its log; its version should be that of `prefect version` here",
        )


def _server(client: "SyncPrefectClient") -> Check:
    here, there = client.client_version(), client.api_version()
    words = f"{without_password(str(client.api_url)).rstrip('/')}, version {there}"
    if here.split(".")[:2] != there.split(".")[:2]:
        return Check("Prefect", "warning", f"{words}; here is {here}", "use the same on both sides")
    return Check("Prefect", "ok", words)


def _worker(client: "SyncPrefectClient") -> Check:
    """Look for whoever would carry out a scheduled run of each deployment."""
    registered = read_deployments(client)
    missing = [entry.name for entry in DEPLOYMENTS if entry.name not in registered]
    how = "sicsrec serve, or prefect deploy and prefect worker start (docker/prefect.yaml)"
    if missing:
        which = "none" if len(missing) == len(DEPLOYMENTS) else f"not {_some(missing)}"
        return Check("deployments", "warning", f"registered: {which}", how)
    pools = {entry.work_pool_name for entry in registered.values()}
    dead = [pool for pool in pools if pool is not None and not _has_worker(client, pool)]
    if None in pools and not any(
        _is_recent(entry.last_polled)
        for entry in registered.values()
        if entry.work_pool_name is None
    ):
        dead.append("sicsrec serve")
    if dead:
        return Check(
            "deployments",
            "problem",
            f"{len(registered)} are registered, but nobody carries out their runs: no sign of life "
            f"of {', '.join(_who(name) for name in dead)}",
            how,
        )
    alive = ", ".join(sorted(_who(pool or "sicsrec serve") for pool in pools))
    return Check("deployments", "ok", f"{len(registered)}, carried out by {alive}")


def _who(name: str) -> str:
    return name if name == "sicsrec serve" else f"a worker of the pool {name}"


def _has_worker(client: "SyncPrefectClient", pool: str) -> bool:
    workers = client.read_workers_for_work_pool(pool)
    return any(_is_recent(worker.last_heartbeat_time) for worker in workers)


def _is_recent(moment: Any) -> bool:
    return moment is not None and datetime.now(UTC) - moment < _ALIVE


def _runs(client: "SyncPrefectClient") -> Check:
    """Look for runs that should have started, and for killed ones that count as running."""
    from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterState
    from prefect.client.schemas.filters import FlowRunFilterStateName as StateName

    from tasks.process_end import abandoned_flow_runs

    killed = abandoned_flow_runs(client)
    if killed:
        return Check(
            "runs",
            "warning",
            f"{len(killed)} were killed and still count as running: "
            f"{_some([run.name for run in killed])}",
            "sicsrec status, or the next run here, marks them as crashed; run the same again, what "
            "was finished is reused",
        )
    late = client.read_flow_runs(
        flow_run_filter=FlowRunFilter(state=FlowRunFilterState(name=StateName(any_=["Late"])))
    )
    if late:
        return Check(
            "runs",
            "warning",
            f"{len(late)} should have started already: {_some([run.name for run in late])}",
            "they wait for a worker, or for the runs before them",
        )
    return Check("runs", "ok", "none is late, none was killed")


def _gpu_limit(client: "SyncPrefectClient") -> Check:
    from prefect.exceptions import ObjectNotFound

    try:
        limit = client.read_global_concurrency_limit_by_name(GPU_LIMIT)
    except ObjectNotFound:
        return Check(
            "GPU work",
            "warning",
            "runs may use the GPU at the same time",
            f"prefect gcl create {GPU_LIMIT} --limit 1",
        )
    if not limit.active or limit.limit > 0:
        return Check("GPU work", "ok", f"tasks at the same time: {limit.limit}")
    return Check(
        "GPU work",
        "problem",
        f"the limit {GPU_LIMIT} is 0: no training can start",
        f"prefect gcl update {GPU_LIMIT} --limit 1",
    )


def _some(names: Sequence[str]) -> str:
    more = len(names) - _MOST_NAMED
    return "; ".join(names[:_MOST_NAMED]) + (f"; and {more} more" if more > 0 else "")
