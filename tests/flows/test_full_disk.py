"""Runs of the command line on a disk that is full, a small one in memory."""

import os
import shutil
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.flows.dying import Death
from tests.flows.runs import OVERRIDES, Launcher, Run, artifacts_of, left_behind, new_home

EARLY = ("run", *OVERRIDES, "--until", "split")


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", str(folder)],
        check=False,
        capture_output=True,
        text=True,
    )
    if mounted.returncode:
        pytest.skip(f"only root may mount a disk: {mounted.stderr.strip()}")
    try:
        yield folder
    finally:
        subprocess.run(["umount", str(folder)], check=True)


def fill(folder: Path, free: int) -> Path:
    """Write a file that leaves ``free`` bytes."""
    ballast = folder / "ballast"
    with ballast.open("wb") as stream:
        os.posix_fallocate(stream.fileno(), 0, shutil.disk_usage(folder).free - free)
    return ballast


def words_of(failed: Run) -> str:
    """Return what a run printed, out of its frames; it must have named the full disk."""
    assert failed.wait() == 1
    said = " ".join(failed.said().replace("│", " ").split())
    assert "The disk is full" in said
    assert "Traceback" not in said
    return said


@pytest.mark.parametrize("free", [
    pytest.param(n, marks=[] if n == 160_000 else pytest.mark.slow)
    for n in (4_096, 40_000, 100_000, 160_000, 200_000, 240_000)
])  # fmt: skip
def test_full_disk_is_named_and_the_next_run_makes_up_for_it(
    launcher: Launcher, small_disk: Path, empty_database: Path, tmp_path: Path, free: int
) -> None:
    home = new_home(small_disk / "home", empty_database)
    ballast = fill(small_disk, free)
    failed = launcher.start(home, *EARLY, output=tmp_path / "said.txt")
    said = words_of(failed)
    assert "Free space there" in said
    ballast.unlink()
    again = launcher.start(home, *EARLY, output=tmp_path / "said again.txt")
    assert again.wait() == 0, again.said()
    assert left_behind(home) == []

    whole = new_home(tmp_path / "undisturbed", empty_database)
    undisturbed = launcher.start(whole, *EARLY)
    assert undisturbed.wait() == 0, undisturbed.said()
    assert artifacts_of(home) == artifacts_of(whole)


def test_status_shows_the_steps_and_then_names_a_full_disk(
    launcher: Launcher, small_disk: Path, empty_database: Path, tmp_path: Path
) -> None:
    home = new_home(small_disk / "home", empty_database)
    in_ingest = Death(str(home), r"open .*ingest/.*/report\.json")
    killed = launcher.start(home, *EARLY, death=in_ingest, output=tmp_path / "killed.txt")
    assert killed.wait() == -signal.SIGKILL, killed.said()
    ballast = fill(small_disk, 4_096)
    status = launcher.start(home, "status", *OVERRIDES, output=tmp_path / "said.txt")
    said = words_of(status)
    assert "train_sicsrec to do" in said
    ballast.unlink()
    again = launcher.start(home, "status", *OVERRIDES, output=tmp_path / "said again.txt")
    assert again.wait() == 0, again.said()
    assert "disk" not in again.said()
