"""Carries out the runs of deployments: Prefect's runner, with an end in which no run is torn.

Imports Prefect, so it is imported by :mod:`flows.deployments` when the server is known.
"""

import asyncio
import signal
from contextlib import suppress
from types import TracebackType

import httpx
import psutil
from prefect.runner import Runner
from prefect.settings import PREFECT_API_URL

from flows.server import is_answering
from sicsrec.addresses import without_password
from sicsrec.errors import SicsrecError
from tasks.tracebacks import no_password_printed

_SECONDS_TO_END_BY_ITSELF = 5.0
"""For a run that the terminal has told to end, too, before it is told again."""
_SECONDS_TO_END = 20.0
"""For a run that was told to end, to say so to its records."""
_OF_A_RUN = ("prefect.engine", "prefect.flow_engine", "prefect.runner.")
"""Modules that the process of a run may begin with; Prefect's server has one of its own."""
_OF_A_SERVER = (httpx.HTTPError, RuntimeError)
"""What Prefect's runner raises when its server fails: the error of a call, or of a loop of it that
has failed too often."""


class ServedRunner(Runner):
    """Prefect's runner, which lets its runs end before it ends, for whatever reason it does."""

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Let runs say that they end; by itself the runner kills them, or leaves them behind."""
        # The loop goes on meanwhile: it passes on what the runs still print.
        await asyncio.to_thread(_end_runs)
        await super().__aexit__(kind, error, trace)


def carry_out(runner: ServedRunner) -> None:
    """Carry out runs until SIGINT or SIGTERM, then end what is under way.

    Raises:
        SicsrecError: if the server goes away or fails for longer than Prefect's runner bears.
    """
    try:
        with no_password_printed():
            asyncio.run(_until_told_to_end(runner))
    except Exception as err:
        if ExceptionGroup("", [err]).subgroup(_OF_A_SERVER) is None:
            raise
        api_url = str(PREFECT_API_URL.value())
        what = "answers with errors" if is_answering(api_url) else "stopped answering"
        raise SicsrecError(
            f"the Prefect server {without_password(api_url)} {what}, so no more runs are carried "
            "out. Those under way were told to end, and what they finished is kept. See that there "
            "is a server that is well, then run the same command again"
        ) from err


async def _until_told_to_end(runner: ServedRunner) -> None:
    loop, is_over = asyncio.get_running_loop(), asyncio.Event()
    work = asyncio.create_task(runner.start())
    # The runner begins by taking SIGTERM, at which it would leave its runs as they are.
    await asyncio.sleep(0)
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, is_over.set)
    over = asyncio.create_task(is_over.wait())
    await asyncio.wait({work, over}, return_when=asyncio.FIRST_COMPLETED)
    work.cancel()
    over.cancel()
    with suppress(asyncio.CancelledError):
        await work


def _end_runs() -> None:
    """Let every run under way end in order, which a terminal may have told it already."""
    runs = [child for child in psutil.Process().children() if _is_run(child)]
    _, left = psutil.wait_procs(runs, timeout=_SECONDS_TO_END_BY_ITSELF)
    for run in left:
        with suppress(psutil.NoSuchProcess):
            run.terminate()
    psutil.wait_procs(left, timeout=_SECONDS_TO_END)


def _is_run(process: psutil.Process) -> bool:
    try:
        return any(word.startswith(_OF_A_RUN) for word in process.cmdline())
    except psutil.Error:
        return False
