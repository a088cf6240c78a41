import subprocess
import sys

from sicsrec.tracking.liveness import HOST_TAG, PID_TAG, STARTED_TAG, is_abandoned, process_tags


def test_this_process_lives() -> None:
    assert not is_abandoned(process_tags())


def test_process_that_ended_is_gone() -> None:
    child = subprocess.Popen([sys.executable, "-c", ""])
    child.wait()
    assert is_abandoned(process_tags() | {PID_TAG: str(child.pid)})


def test_process_id_given_out_again_is_told_apart() -> None:
    assert is_abandoned(process_tags() | {STARTED_TAG: "1.00"})


def test_nothing_is_said_of_other_hosts_and_of_records_without_tags() -> None:
    assert not is_abandoned(process_tags() | {HOST_TAG: "elsewhere", PID_TAG: "1"})
    assert not is_abandoned({})
