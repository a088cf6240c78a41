import importlib
import pkgutil
import subprocess
import sys
from pathlib import Path

import pytest

import flows
import sicsrec
import tasks

REPOSITORY = Path(__file__).parents[1]
HEAVY = ("torch", "transformers", "open_clip", "mlflow", "prefect", "polars")
MODULES = sorted(
    module.name
    for package in (sicsrec, tasks, flows)
    for module in pkgutil.walk_packages(package.__path__, f"{package.__name__}.")
)


@pytest.mark.parametrize("name", MODULES)
def test_every_module_imports(name: str) -> None:
    importlib.import_module(name)


@pytest.mark.parametrize(
    ("module", "light_of"),
    [
        ("sicsrec", HEAVY),
        ("flows.cli", HEAVY),
        ("flows.configuration", HEAVY),
        ("sicsrec.steps.runner", ("torch", "prefect", "mlflow", "transformers")),
        ("flows.pipeline", ("torch", "transformers", "open_clip")),
    ],
)
def test_import_stays_light(module: str, light_of: tuple[str, ...]) -> None:
    code = (
        f"import sys, {module}; "
        f"print(*[name for name in {light_of!r} if name in sys.modules], end='')"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60
    )
    assert done.stdout == ""


def test_import_contracts_hold() -> None:
    done = subprocess.run(
        [Path(sys.executable).parent / "lint-imports", "--no-cache"],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert done.returncode == 0, done.stdout + done.stderr
