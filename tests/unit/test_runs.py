import json
from dataclasses import asdict

import pytest

from sicsrec.liveness import HOST_TAG, process_tags
from sicsrec.replacing import replace_json
from sicsrec.runs import RunEntry, RunRegister, is_held, killed_processes
from tests.rights import as_anybody, closed


def test_an_entry_half_written_goes_when_its_run_is_dead_and_the_next_comes(tmp_path) -> None:
    register = RunRegister(tmp_path, "tiny")
    with register.recording("alive", "demo", "export"):
        for run in ("alive", "dead"):
            (register.folder / f"{run}.4711.tmp").write_text('{"id": "')
        with register.using():
            left = [path.name for path in register.folder.glob("*.tmp")]
    assert left == ["alive.4711.tmp"], "its run may be about to finish it"
    assert [entry.id for entry in register.entries()] == ["alive"]


def test_a_run_that_ended_well_since_it_was_looked_at_is_not_called_failed(tmp_path) -> None:
    register = RunRegister(tmp_path, "tiny")
    with register.recording("good", "demo", "export"):
        pass
    register.note_failure("good")
    (entry,) = register.entries()
    assert entry.ended is not None
    assert entry.failed is None


def test_a_run_that_somebody_stopped_is_noted_as_failed(tmp_path) -> None:
    register = RunRegister(tmp_path, "tiny")
    with pytest.raises(KeyboardInterrupt), register.recording("stopped", "demo", "export"):
        raise KeyboardInterrupt
    (entry,) = register.entries()
    assert entry.ended is None
    assert entry.failed is not None
    assert register.killed() == []


def test_a_run_whose_lock_may_not_be_asked_counts_as_alive(tmp_path) -> None:
    register = RunRegister(tmp_path, "tiny")
    register.folder.mkdir(parents=True)
    entry = RunEntry("somebodys", "demo", "split", "2026-01-01T00:00:00.000+00:00")
    (register.folder / "somebodys.json").write_text(json.dumps(asdict(entry)))
    lock = register.folder / "somebodys.lock"
    lock.touch()
    with closed(lock, 0o444):
        assert as_anybody(register.killed) == []
        assert as_anybody(register.is_in_use)
    with closed(register.folder):
        assert as_anybody(is_held, lock)
    assert [entry.id for entry in register.killed()] == ["somebodys"]


def test_a_step_of_a_run_that_is_not_recorded_is_no_error(tmp_path) -> None:
    register = RunRegister(tmp_path, "tiny")
    register.note_step("nobody", "ingest", "a" * 16)
    assert register.entries() == []


def test_a_run_remembers_all_its_steps_in_their_order(tmp_path) -> None:
    register = RunRegister(tmp_path, "tiny")
    with register.recording("good", "demo", "split"):
        register.note_step("good", "ingest", "a" * 16)
        register.note_step("good", "split", "b" * 16)
    (entry,) = register.entries()
    assert list(entry.steps.items()) == [("ingest", "a" * 16), ("split", "b" * 16)]


def test_processes_of_killed_runs_are_known_on_every_host_that_shares_the_store(tmp_path) -> None:
    """A process whose other run is alive, such as that of a comparison, is alive."""
    register = RunRegister(tmp_path, "tiny")
    dead, alive = (process_tags() | {HOST_TAG: host} for host in ("made anew", "other"))

    def sign(run_id: str, process: dict[str, str]) -> None:
        path = register.folder / f"{run_id}.json"
        entry = json.loads(path.read_text()) | {"process": process, "ended": None}
        replace_json(path, entry)

    for run_id, process in (("killed", dead), ("killed too", alive), ("here", process_tags())):
        with register.recording(run_id, "demo", "split"):
            pass
        sign(run_id, process)
    with RunRegister(tmp_path, "other").recording("goes on", "demo", "split"):
        register = RunRegister(tmp_path, "other")
        sign("goes on", alive)
        assert killed_processes(tmp_path) == [dead]
