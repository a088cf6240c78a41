"""Questions about one user, one history or one new item, looked into as far as no model is needed.

What is wrong is said here, before torch is imported, which takes seconds.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sicsrec.artifacts import ArtifactStore
from sicsrec.data.images import IMAGE_SUFFIXES
from sicsrec.errors import ArtifactError, ConfigError, DataError
from sicsrec.steps.finished import FinishedExport, newest_export

TEXT_SUFFIXES = (".txt", ".md")
MAX_TEXT_BYTES = 1 << 20


@dataclass(frozen=True)
class Question:
    """What a person asks."""

    user: str | None = None
    history: tuple[str, ...] | None = None
    new_item: tuple[Path, ...] = ()
    """Files of a new item: one text, one cover, or both."""
    k: int = 10
    explain: bool = False

    def check(self) -> None:
        """Refuse what cannot be answered.

        Raises:
            ConfigError: saying what to ask instead.
        """
        if self.user is not None and self.history is not None:
            raise ConfigError("give a user or a history, not both")
        if self.user is None and self.history is None and not self.new_item:
            raise ConfigError("give a user, a history, or the files of a new item")
        if self.history is not None and not self.history:
            raise ConfigError("the history is empty; give item ids, oldest first")
        if self.k < 1:
            raise ConfigError(f"k must be at least 1, got {self.k}")


@dataclass(frozen=True)
class Asked:
    """A question with all that was found for it."""

    question: Question
    model_folder: Path
    finished: FinishedExport | None
    """The export that the model folder is of; None where the folder was named itself."""
    history: tuple[str, ...] | None
    """The history that was given, or that of the user."""
    content: Mapping[str, Any] = field(default_factory=dict)
    """Of the new item: ``texts`` and ``covers``, a list of one each, where there are such."""


def look_into(
    question: Question,
    store: ArtifactStore,
    *,
    dataset: str | None = None,
    key: str | None = None,
    model: Path | None = None,
) -> Asked:
    """Find what a question is about: the newest export of a dataset, a named one, or a folder.

    Args:
        question: what is asked.
        store: where exports are looked for.
        dataset: of which dataset; None: the only one.
        key: the beginning of an export's key, for an older one.
        model: a model folder, in place of an export.

    Raises:
        ConfigError: if the question cannot be answered as it is asked.
        DataError: if the user is not known, or a file is missing or of another kind.
        ArtifactError: if there is no such export or model folder.
    """
    question.check()
    content = _read_files(question.new_item)
    if model is None:
        finished = newest_export(store, dataset, key)
        history = question.history
        if question.user is not None:
            history = tuple(finished.history_of(question.user))
        return Asked(question, finished.model_folder, finished, history, content)
    if dataset is not None or key is not None:
        raise ConfigError(
            "a model folder takes the place of an export; give --model, or --dataset and --export"
        )
    if question.user is not None:
        raise ConfigError("a model folder knows no users; give a history of item ids")
    if not model.is_dir():
        raise ArtifactError(f"there is no model folder {model}; name one that the export wrote")
    return Asked(question, model, None, question.history, content)


def _read_files(files: Sequence[Path]) -> dict[str, Any]:
    """Return texts and covers as a recommender encodes them.

    Raises:
        DataError: if a file is missing, of another kind, or there are two of a kind.
    """
    given: dict[str, Any] = {}
    for path in files:
        suffix = path.suffix.lower()
        if not path.is_file():
            raise DataError(f"there is no file {path}")
        if suffix in TEXT_SUFFIXES:
            name = "texts"
        elif suffix in IMAGE_SUFFIXES:
            name = "covers"
        else:
            raise DataError(
                f"{path} is neither a text ({', '.join(TEXT_SUFFIXES)}) nor a cover "
                f"({', '.join(sorted(IMAGE_SUFFIXES))})"
            )
        if name in given:
            raise DataError(f"a new item has one text and one cover at most; {path} is a second")
        given[name] = [_read_text(path) if name == "texts" else path]
    return given


def _read_text(path: Path) -> str:
    if path.stat().st_size > MAX_TEXT_BYTES:
        raise DataError(f"{path} has more than {MAX_TEXT_BYTES} bytes; give the item's text alone")
    try:
        # Windows begins texts with a mark of their encoding, which is no part of a title.
        return " ".join(path.read_text(encoding="utf-8-sig").split())
    except UnicodeDecodeError as err:
        raise DataError(f"{path} is not a text in UTF-8: {err}") from err
