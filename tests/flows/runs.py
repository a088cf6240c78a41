"""Starts runs of the command line in processes of their own, and looks at what they leave."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from filelock import FileLock

from sicsrec.artifacts import ArtifactStore
from sicsrec.steps import STEP_NAMES
from tests.flows.conftest import SMALL
from tests.flows.dying import Death

REPOSITORY = Path(__file__).parents[2]
_KEPT = {".cache", ".runs"}
OVERRIDES = [part for override in SMALL for part in ("--set", override)]


@dataclass
class Launcher:
    """The process that forks runs off; see :mod:`tests.flows.launcher`."""

    process: subprocess.Popen[str]

    def start(
        self,
        home: Path,
        *arguments: str,
        death: Death | None = None,
        output: Path | None = None,
        **environment: str,
    ) -> "Run":
        """Start ``sicsrec ARGUMENTS`` with a home of its own."""
        output = output or home / "output.txt"
        request = {
            "argv": arguments,
            "environment": {"SICSREC_HOME": str(home), "COLUMNS": "80"} | environment,
            "output": str(output),
            "death": death and asdict(death),
        }
        return Run(self, int(self.ask(request)["pid"]), output)

    def ask(self, request: dict[str, Any]) -> dict[str, Any]:
        """Return the answer to one request."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(json.dumps(request) + "\n")
        self.process.stdin.flush()
        answer: dict[str, Any] = json.loads(self.process.stdout.readline())
        return answer


@dataclass
class Run:
    """One process of the command line."""

    launcher: Launcher
    pid: int
    output: Path

    def wait(self) -> int:
        """Return the exit status, negative for a signal, once the process has ended."""
        return int(self.launcher.ask({"wait": self.pid})["status"])

    def said(self) -> str:
        """Return what it printed."""
        return self.output.read_text() if self.output.exists() else ""


@contextmanager
def launching(*, heavy: bool, **environment: str) -> Iterator[Launcher]:
    """Have a launcher for as long as the block."""
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.flows.launcher", *(["--heavy"] if heavy else [])],
        cwd=REPOSITORY,
        env=os.environ | environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == "{}\n"
        yield Launcher(process)
    finally:
        process.communicate()


def new_home(folder: Path, empty_database: Path) -> Path:
    """Return a home with an MLflow database."""
    shutil.copytree(empty_database, folder / "mlflow")
    return folder


def artifacts_of(home: Path) -> dict[str, dict[str, str]]:
    """Return the digests of all outputs by step and key, each compared with its files."""
    store = ArtifactStore(home / "artifacts")
    found = {}
    for name in STEP_NAMES:
        for manifest in store.manifests("demo", name):
            store.verify(manifest)
            found[f"{name} {manifest.key}"] = {
                output: entry.digest for output, entry in manifest.outputs.items()
            }
    return found


def left_behind(home: Path) -> list[str]:
    """Return what is in the store beside commits: temporary folders, locks that are held."""
    found = []
    for path in sorted((home / "artifacts").rglob("*")):
        if path.suffix == ".lock":
            lock = FileLock(path)
            lock.acquire(timeout=5)
            lock.release()
        elif path.suffix == ".tmp" or (path.name[0] == "." and path.name not in _KEPT):
            found.append(str(path.relative_to(home)))
    return found
