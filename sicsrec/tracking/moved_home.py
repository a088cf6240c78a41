"""A home that was moved or copied takes its records with it.

MLflow's database names every folder of files by its absolute address. Where the home is somewhere
else now, new files would go to the old place, and those there are would not be found.
"""

import logging
import sqlite3
from contextlib import closing
from pathlib import Path

logger = logging.getLogger(__name__)

_ADDRESSES = (
    ("experiments", "artifact_location"),
    ("runs", "artifact_uri"),
    ("logged_models", "artifact_location"),
    ("model_versions", "source"),
    ("model_versions", "storage_location"),
)


def follow_home(database: Path, artifacts: Path) -> None:
    """Let the records of a local database name the files below ``artifacts``.

    Args:
        database: of MLflow, SQLite; where there is none nothing is done.
        artifacts: absolute folder below which every experiment has one of its name.
    """
    if not database.exists():
        return
    try:
        _rewrite(database, artifacts.as_uri())
    except sqlite3.Error as err:
        logger.warning("the records of MLflow could not be moved with their home: %s", err)


def _rewrite(database: Path, now: str) -> None:
    with closing(sqlite3.connect(database, timeout=60)) as connection:
        for before in _former_places(connection, now):
            # All or nothing, and not while another process writes.
            with connection:
                for table, column in _ADDRESSES:
                    connection.execute(
                        f"UPDATE {table} SET {column} = ? || substr({column}, ?) "  # noqa: S608
                        f"WHERE substr({column}, 1, ?) = ?",
                        (now, len(before) + 1, len(before) + 1, f"{before}/"),
                    )
            logger.info("the records of MLflow moved with the home, from %s to %s", before, now)


def _former_places(connection: sqlite3.Connection, now: str) -> set[str]:
    """Return where the folder of files was by what experiments say, without where it is."""
    tables = {name for (name,) in connection.execute("SELECT name FROM sqlite_master")}
    if not {table for table, _ in _ADDRESSES} <= tables:
        # Another process is making it.
        return set()
    places = set()
    for name, location in connection.execute("SELECT name, artifact_location FROM experiments"):
        folder, _, last = str(location).rpartition("/")
        is_ours = folder.startswith("file:///") and folder.endswith("/mlflow/artifacts")
        if is_ours and last == name and folder != now:
            places.add(folder)
    return places
