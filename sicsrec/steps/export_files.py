"""Files for other programs out of a finished export."""

from pathlib import Path

from sicsrec.data.logged_histories import LoggedHistories
from sicsrec.errors import ConfigError
from sicsrec.progress import Progress
from sicsrec.recommender import Recommender
from sicsrec.recommender.files import FORMATS, write_files
from sicsrec.steps.finished import FinishedExport


def export_files(
    finished: FinishedExport,
    kind: str,
    folder: Path,
    *,
    k: int | None = None,
    device: str = "cpu",
    progress: Progress | None = None,
) -> list[Path]:
    """Write one kind of files for the users of an export; see :func:`write_files`.

    Watched items are left out where the export leaves them out.

    Args:
        finished: the export.
        kind: which files.
        folder: where to.
        k: most recommendations per user; None: as many as the export has.
        device: torch device.
        progress: shows how far it is.

    Raises:
        ConfigError: if there is no such format, what it needs is not installed, or the folder
            cannot be made.
        ArtifactMissingError: if the log that the export read is gone.
    """
    if kind not in FORMATS:
        raise ConfigError(f"unknown format {kind!r}; one of {', '.join(FORMATS)}")
    recommender = Recommender.load(finished.model_folder, device)
    histories = LoggedHistories(finished.interactions_file, recommender.item_ids)
    return write_files(
        recommender,
        histories,
        kind,
        folder,
        k=finished.top_k if k is None else k,
        remove_seen=finished.remove_seen,
        progress=progress,
    )
