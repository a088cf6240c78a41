import subprocess
import sys

import psutil
import pytest

from sicsrec.liveness import HOST_TAG, PID_TAG, STARTED_TAG, is_abandoned, process_tags


def test_this_process_lives() -> None:
    assert not is_abandoned(process_tags())


def test_process_that_ended_is_gone() -> None:
    child = subprocess.Popen([sys.executable, "-c", ""])
    child.wait()
    assert is_abandoned(process_tags() | {PID_TAG: str(child.pid)})


def test_process_id_given_out_again_is_told_apart() -> None:
    assert is_abandoned(process_tags() | {STARTED_TAG: "1.00"})


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere the time of start does not move")
def test_a_clock_that_is_set_makes_no_living_process_look_gone(monkeypatch) -> None:
    tags, before = process_tags(), psutil.Process.create_time
    monkeypatch.setattr(psutil.Process, "create_time", lambda self: before(self) + 2.0)
    assert not is_abandoned(tags)


def test_tags_of_earlier_releases_are_understood() -> None:
    started = f"{psutil.Process().create_time():.2f}"
    assert not is_abandoned(process_tags() | {STARTED_TAG: started})


def test_nothing_is_said_of_other_hosts_and_of_records_without_tags() -> None:
    assert not is_abandoned(process_tags() | {HOST_TAG: "elsewhere", PID_TAG: "1"})
    assert not is_abandoned({})
