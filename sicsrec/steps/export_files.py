"""Files for other programs out of a finished export."""

from pathlib import Path

from sicsrec.errors import ConfigError
from sicsrec.progress import Progress
from sicsrec.recommender import Recommender
from sicsrec.recommender.files import FORMATS, write_files
from sicsrec.recommender.service import read_histories, write_histories
from sicsrec.steps.finished import FinishedExport


def export_files(
    finished: FinishedExport,
    kind: str,
    folder: Path,
    *,
    k: int,
    device: str = "cpu",
    progress: Progress | None = None,
) -> list[Path]:
    """Write one kind of files for the users of an export; see :func:`write_files`.

    Raises:
        ConfigError: if there is no such format, or what it needs is not installed.
        ArtifactMissingError: if the log that the export read is gone.
    """
    if kind not in FORMATS:
        raise ConfigError(f"unknown format {kind!r}; one of {', '.join(FORMATS)}")
    recommender = Recommender.load(finished.model_folder, device)
    folder.mkdir(parents=True, exist_ok=True)
    listed = folder / ".histories.parquet"
    try:
        write_histories(finished.interactions(), recommender.item_ids, listed)
        histories = read_histories(listed)
    finally:
        listed.unlink(missing_ok=True)
    return write_files(recommender, histories, kind, folder, k=k, progress=progress)
