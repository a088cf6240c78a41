"""Two homes, as of two machines, that share what is finished: real processes, real commands."""

from pathlib import Path

from tests.flows.runs import OVERRIDES, Launcher, artifacts_of, left_behind, new_home

EARLY = (*OVERRIDES, "--until", "split")


def test_second_home_fetches_what_the_first_made(
    launcher: Launcher, tmp_path: Path, empty_database: Path
) -> None:
    url = f"file://{tmp_path}/shared"
    first, second = (new_home(tmp_path / name, empty_database) for name in ("1", "2"))
    made = launcher.start(first, "run", *EARLY, SICSREC_SHARED_STORE=url)
    assert made.wait() == 0, made.said()
    assert "ingest: ran" in made.said()

    status = launcher.start(second, "status", *OVERRIDES, SICSREC_SHARED_STORE=url)
    assert status.wait() == 0, status.said()
    assert status.said().count(" shared ") == 2

    output = tmp_path / "fetched.txt"
    fetched = launcher.start(second, "run", *EARLY, output=output, SICSREC_SHARED_STORE=url)
    assert fetched.wait() == 0, fetched.said()
    for step in ("ingest", "split"):
        assert f"{step}: cached, fetched from {url}, " in fetched.said()
    assert artifacts_of(second) == artifacts_of(first)
    assert left_behind(second) == []


def test_storage_that_cannot_be_reached_stops_no_run(
    launcher: Launcher, tmp_path: Path, empty_database: Path
) -> None:
    home = new_home(tmp_path / "home", empty_database)
    url = "file:///dev/null/below"
    run = launcher.start(home, "run", *EARLY, SICSREC_SHARED_STORE=url)
    assert run.wait() == 0, run.said()
    assert "split: ran" in run.said()
    said = " ".join(run.said().split())
    assert said.count(f"the shared store {url} cannot be used: NotADirectoryError") == 1

    wrong = launcher.start(home, "run", *EARLY, output=tmp_path / "w.txt", SICSREC_SHARED_STORE="b")
    assert wrong.wait() == 1
    assert "is no URL" in wrong.said()
    assert "Traceback" not in wrong.said()
