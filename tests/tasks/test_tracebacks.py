"""What Prefect's log says of runs that end early."""

import logging

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
