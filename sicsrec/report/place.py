"""Where the report of a run lies, and whether it is there; builds nothing, so it is quick.

::

    <home>/reports/<dataset>/<key>/report.html     the page
    <home>/reports/<dataset>/<key>/explorer.html   where one points at items
    <home>/reports/<dataset>/<key>/about.json      what it was made of

The key is a digest of the steps' keys and outputs: a run that reused everything has the same page.
"""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from sicsrec.artifacts import ArtifactRef, make_key

if TYPE_CHECKING:
    from sicsrec.report.parts import Section

PAGE, EXPLORER, ABOUT = "report.html", "explorer.html", "about.json"
VERSION = 2
"""Raised by whoever changes what a page holds; part of its key."""


@dataclass(frozen=True)
class Report:
    """A page, and the parts it is made of when it was built just now."""

    path: Path
    key: str
    was_reused: bool
    sections: "tuple[Section, ...]" = ()
    """Empty for a page that was there already."""

    @property
    def explorer(self) -> Path | None:
        """The page beside it on which one points at items; None where there are none to show."""
        return explorer_beside(self.path)


def explorer_beside(page: Path) -> Path | None:
    """Return the path of the explorer that lies beside a report, if there is one."""
    path = page.with_name(EXPLORER)
    return path if path.is_file() else None


def report_key(refs: Mapping[str, ArtifactRef]) -> str:
    """Return the key of the report on these outputs."""
    made_of = {name: [ref.key, ref.digest] for name, ref in refs.items()}
    return make_key({"report": VERSION, "outputs": made_of})


def find_report(refs: Mapping[str, ArtifactRef], folder: Path) -> Report | None:
    """Return the report on these outputs, at least one, if it is there.

    Args:
        refs: outputs of the run, keyed by ``step/output``.
        folder: where reports lie.
    """
    key = report_key(refs)
    page = folder / next(iter(refs.values())).dataset / key / PAGE
    return Report(page, key, was_reused=True) if page.is_file() else None


def reports_on_removed_steps(
    folder: Path, dataset: str, is_there: Callable[[str, str], bool]
) -> list[Path]:
    """Return the folders of reports that show a step which the store has no more.

    Args:
        folder: where reports lie.
        dataset: whose reports.
        is_there: whether the store has a step, given its name and its key.
    """
    found = []
    for path in sorted((folder / dataset).glob(f"*/{ABOUT}")):
        try:
            steps = json.loads(path.read_text(encoding="utf-8"))["steps"].items()
        except (OSError, ValueError, KeyError, AttributeError, TypeError):
            # Nobody knows what it shows, so nobody says that it can go.
            continue
        if not all(is_there(step, key) for step, key in steps):
            found.append(path.parent)
    return found
