"""Runs one measurement in a process of its own, so that its peak memory is its own.

The peak is the kernel's VmHWM: unlike ru_maxrss, it does not begin at the size of the process that
started the child. Linux only. Shape checks of the tests are off in the child.
"""

import importlib
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]


def measure(function: str, threads: int = 1, **arguments: Any) -> dict[str, Any]:
    """Call ``module:function`` of this package in a new process and return its dictionary."""
    command = [sys.executable, "-m", __name__, function, json.dumps(arguments)]
    environment = os.environ | {"OMP_NUM_THREADS": str(threads), "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        command, env=environment, cwd=ROOT, capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise RuntimeError(f"{function} with {arguments} failed:\n{done.stderr}")
    return json.loads(done.stdout.splitlines()[-1])


def memory(entry: str) -> float:
    """Return VmRSS (now) or VmHWM (peak) of this process in MB."""
    for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines():
        if line.startswith(f"{entry}:"):
            return int(line.split()[1]) / 1000
    raise RuntimeError(f"/proc/self/status has no {entry}")


def main() -> None:
    module, name = sys.argv[1].split(":")
    function = getattr(importlib.import_module(f"tests.benchmarks.{module}"), name)
    sys.stdout.write(json.dumps(function(**json.loads(sys.argv[2]))) + "\n")


if __name__ == "__main__":
    main()
