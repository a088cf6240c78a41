"""One process in which all is imported, and which forks the command line off: a run takes seconds.

Every line of its input is a request in JSON, every line of its output the answer:
``{"argv", "environment", "output", "death"}`` gives ``{"pid"}``, and ``{"wait": pid}`` gives
``{"status"}``, negative for a signal.
"""

import importlib
import json
import os
import sys
import traceback
from typing import Any

from tests.flows.dying import Death, arm

_HEAVY = (
    "matplotlib.pyplot", "open_clip", "sklearn.feature_extraction.text", "torch._dynamo",
    "transformers.models.auto",
)  # fmt: skip
"""What steps import when they run; slow, and of use to those who run all steps."""

_MODULES = (
    "flows.cli", "flows.session", "flows.pipeline", "flows.views", "sicsrec.tracking.mlflow_store",
    "sqlalchemy",
    *(f"sicsrec.steps.{name}" for name in (
        "ingest", "split", "sample_pairs", "align_encoders", "encode_items", "pretrain_id",
        "train_sicsrec", "evaluate", "export",
    )),
)  # fmt: skip


def main() -> None:
    """Serve requests until the input ends."""
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    from tasks.settings import Settings

    Settings.from_environment().apply()
    for name in (*_MODULES, *(_HEAVY if "--heavy" in sys.argv else ())):
        importlib.import_module(name)
    answers.write("{}\n")
    for line in sys.stdin:
        request = json.loads(line)
        if "wait" in request:
            status = os.waitstatus_to_exitcode(os.waitpid(request["wait"], 0)[1])
            answers.write(json.dumps({"status": status}) + "\n")
            continue
        pid = os.fork()
        if not pid:
            answers.close()
            os._exit(_run(request))
        answers.write(json.dumps({"pid": pid}) + "\n")


def _run(request: dict[str, Any]) -> int:
    os.environ.update(request["environment"])
    output = os.open(request["output"], os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    nothing = os.open(os.devnull, os.O_RDONLY)
    for descriptor in (1, 2):
        os.dup2(output, descriptor)
    os.dup2(nothing, 0)
    if request["death"] is not None:
        arm(Death(**request["death"]))
    from flows.cli import app

    try:
        status = app(request["argv"], standalone_mode=False)
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else 1
    except BaseException:  # noqa: BLE001 - the end of a process
        traceback.print_exc()
        return 1
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
    return status if isinstance(status, int) else 0


if __name__ == "__main__":
    main()
