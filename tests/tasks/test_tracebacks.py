"""What Prefect's log says of runs that end early."""

import logging
import os
import subprocess
import sys

import pytest
from prefect.exceptions import TerminationSignal

from sicsrec.errors import DataError
from tasks.tracebacks import keep_tracebacks_out_of_prefect


@pytest.mark.parametrize(
    ("error", "is_told"),
    [
        (KeyboardInterrupt(), False),
        (TerminationSignal(15), False),
        (DataError("no titles"), False),
        (ValueError("a fault"), True),
    ],
)
def test_the_engine_tells_tracebacks_of_faults_alone(
    error: BaseException, is_told: bool, caplog: pytest.LogCaptureFixture
) -> None:
    keep_tracebacks_out_of_prefect()
    log = logging.getLogger("prefect.flow_runs")
    log.addHandler(caplog.handler)
    try:
        log.error("Engine execution interrupted by base exception", exc_info=error)
        log.error("Crash detected! Execution was aborted by an interrupt signal.")
    finally:
        log.removeHandler(caplog.handler)
    assert ("interrupted by base exception" in caplog.text) == is_told
    assert "Crash detected!" in caplog.text


def test_the_engine_shows_no_password_before_the_flow_begins() -> None:
    """In a process of its own, as a run of a deployment has one: here other tests are before it."""
    program = """
import logging
import flows.pipeline
logging.getLogger("prefect.flow_runs").warning(
    "View at http://alice:s3cret@host/runs/1",
    extra={"flow_run_name": "demo", "send_to_api": False},
)
"""
    done = subprocess.run(
        [sys.executable, "-c", program],
        env=os.environ | {"PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL": "INFO"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert "View at http://host/runs/1" in done.stderr
