"""An error of ours is one line for whoever watches a run; its traceback goes to a file.

Prefect writes the traceback of a failed task into its log, and that log is what the page and
``prefect deployment run --watch`` show. Errors that are not ours keep theirs there.
"""

import logging
import traceback
from datetime import datetime
from pathlib import Path

from prefect.runtime import flow_run

from sicsrec.errors import SicsrecError


class _WithoutTraceback(logging.Filter):
    def filter(self, record: logging.LogRecord) -> bool:
        """Let every line pass; of an error of ours without the traceback."""
        if record.exc_info and isinstance(record.exc_info[1], SicsrecError):
            record.exc_info = None
        return True


_WITHOUT_TRACEBACK = _WithoutTraceback()


def keep_tracebacks_out_of_prefect() -> None:
    """From now on Prefect's log has errors of ours as one line; calling it again does nothing."""
    logging.getLogger("prefect.task_runs").addFilter(_WITHOUT_TRACEBACK)


def write_traceback(error: BaseException, folder: Path) -> Path | None:
    """Write the traceback of what ended the running flow to a file; None when the disk is full."""
    now = datetime.now().astimezone()
    path = folder / f"{now:%Y%m%d-%H%M%S}-{flow_run.id}.log"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        path.write_text("".join(traceback.format_exception(error)), encoding="utf-8")
    except OSError:
        return None
    return path
