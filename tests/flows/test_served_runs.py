"""What ``sicsrec serve`` does when its Prefect server fails."""

import subprocess
import sys
from pathlib import Path

import pytest
from prefect.settings import PREFECT_API_URL, PREFECT_CLIENT_MAX_RETRIES, temporary_settings

from flows import served_runs
from flows.served_runs import ServedRunner, carry_out
from sicsrec.errors import SicsrecError
from tasks.tracebacks import keep_passwords_out_of_prefect
from tests.flows.servers import WithoutSchedule, answering

RUN = """
import signal, sys, time
from pathlib import Path
def end(*_):
    Path(sys.argv[1]).write_text("ended in order")
    sys.exit()
signal.signal(signal.SIGTERM, end)
print("begun", flush=True)
time.sleep(60)
"""
"""Stands for the process of a run: it has records to close before it ends."""


def test_a_server_that_fails_is_one_clear_error_without_its_password_and_its_runs_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    keep_passwords_out_of_prefect()
    monkeypatch.setattr(served_runs, "_SECONDS_TO_END_BY_ITSELF", 0.0)
    records = tmp_path / "records"
    command = [sys.executable, "-c", RUN, str(records), "prefect.engine"]
    server = [sys.executable, "-c", RUN, str(records), "prefect.server.api.server:create_app"]
    with (
        answering(WithoutSchedule) as address,
        subprocess.Popen(command, stdout=subprocess.PIPE) as run,
        subprocess.Popen(server, stdout=subprocess.DEVNULL) as other,
        temporary_settings(
            {
                PREFECT_API_URL: f"http://alice:s3cret@{address}/api",
                PREFECT_CLIENT_MAX_RETRIES: 0,
            }
        ),
    ):
        try:
            assert run.stdout is not None
            assert run.stdout.readline() == b"begun\n"
            message = (
                f"the Prefect server http://{address}/api answers with errors.* were told to end"
            )
            with pytest.raises(SicsrecError, match=message):
                carry_out(ServedRunner(query_seconds=0.01))
            assert run.wait(timeout=10) == 0
            assert other.poll() is None, "this is no run"
        finally:
            run.kill()
            other.kill()
    assert records.read_text() == "ended in order"
    written = "".join(capfd.readouterr())
    # Prefect prints what its calls ended with, and whom they asked.
    assert f"//{address}/api/" in written
    assert "s3cret" not in written
