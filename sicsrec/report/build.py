"""Builds the report of a run, unless it is where :mod:`sicsrec.report.place` looks for it."""

import importlib.metadata
import json
import logging
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

from filelock import FileLock
from markupsafe import Markup

from sicsrec.artifacts import ArtifactRef, ArtifactStore
from sicsrec.errors import DataError
from sicsrec.evaluation.plots import metric_label
from sicsrec.report.content import alignment, item_map, item_matrices, neighbours, pairs
from sicsrec.report.drawing import DARK_SERIES, SERIES, to_element
from sicsrec.report.explorer import explorer_page
from sicsrec.report.habits import habits
from sicsrec.report.models import NEEDED, RunModels
from sicsrec.report.overview import what_it_was
from sicsrec.report.parts import Plot, Section
from sicsrec.report.people import people
from sicsrec.report.place import (
    ABOUT,
    EXPLORER,
    PAGE,
    VERSION,
    Report,
    find_report,
    report_key,
)
from sicsrec.report.quality import cohorts, curves, results, towers
from sicsrec.report.raw_data import raw_data
from sicsrec.report.rendering import new_environment
from sicsrec.report.run_files import RunFiles
from sicsrec.report.thumbnails import SIZES, Thumbnails
from sicsrec.steps.evaluate import SICSREC, SICSREC_BLENDED, WITH_VALID

logger = logging.getLogger(__name__)

MAX_BYTES = 4_900_000
"""Of a page; a mail has to take it."""


def build_report(
    refs: Mapping[str, ArtifactRef],
    store: ArtifactStore,
    folder: Path,
    device: str = "cpu",
) -> Report:
    """Build the report of a run unless it is there.

    Args:
        refs: outputs of the run, keyed by ``step/output``; of at least one step.
        store: where they lie.
        folder: where reports go.
        device: torch device of the models.

    Raises:
        DataError: if there is nothing to report on.
        ArtifactError: if an output is not in the store any more.
    """
    if not refs:
        raise DataError("there is no finished step to report on; run `sicsrec run` first")
    dataset, key = next(iter(refs.values())).dataset, report_key(refs)
    place = folder / dataset / key
    place.mkdir(parents=True, exist_ok=True)
    with FileLock(place.parent / f".{key}.lock"):
        if (found := find_report(refs, folder)) is not None:
            return found
        started = time.monotonic()
        files = RunFiles(store, refs)
        score = _score(files)
        sections = tuple(_sections(files, score, device))
        page = _write_small_enough(files, sections, score)
        _commit(place, page, explorer_page(dataset, sections), files)
        seconds = time.monotonic() - started
        logger.info("report: %d bytes in %.1f s, %s", len(page), seconds, place / PAGE)
    return Report(place / PAGE, key, was_reused=False, sections=sections)


def _score(files: RunFiles) -> str:
    """Return what ranks in the recommendations: ``export.score``, ``sicsrec`` without an export."""
    export = files.manifests.get("export")
    return str(export.config["score"]) if export else "sicsrec"


def _sections(files: RunFiles, score: str, device: str) -> Iterator[Section]:
    models = RunModels(files, device) if files.has(*NEEDED) else None
    seed = next((m.seed for m in reversed(files.manifests.values()) if m.seed is not None), 0)
    made: list[Section | None] = [results(files)]
    if models is not None and files.has("split/test"):
        scorer = models.blend() if score == "blend" else models.sicsrec
        asked = files.held_out("test")
        made.append(people(files, scorer, asked, seed=seed, remove_seen=True))
        made += [cohorts(files), towers(files, models, seed)]
        made.append(habits(files, models, asked, seed, remove_seen=True))
    made.append(curves(files))
    if models is not None and files.has("encode_items/vectors"):
        matrices = item_matrices(files, models)
        made += [neighbours(files, matrices, seed), item_map(files, matrices, seed)]
    made += [alignment(files), pairs(files, seed), raw_data(files), what_it_was(files, score)]
    return (section for section in made if section is not None)


def _write_small_enough(files: RunFiles, sections: tuple[Section, ...], score: str) -> bytes:
    page = b""
    for size in SIZES:
        page = _render(files, sections, score, Thumbnails(files.covers, size))
        if len(page) <= MAX_BYTES:
            return page
        logger.info("the report has %d bytes; written again with smaller covers", len(page))
    return page


def _render(
    files: RunFiles, sections: tuple[Section, ...], score: str, thumbnails: Thumbnails
) -> bytes:
    environment = new_environment()
    environment.filters |= {"cell": _cell, "svg": _svg}
    dataset = next(iter(files.manifests.values())).dataset
    lead, tiles = _headline(files, score)
    page = environment.get_template("report.html.j2").render(
        title=f"{dataset}: report of a sicsrec run",
        lead=lead,
        tiles=tiles,
        sections=sections,
        thumbnail=thumbnails.of,
        light=SERIES,
        dark=DARK_SERIES,
        version=importlib.metadata.version("sicsrec"),
    )
    return page.encode()


def _headline(files: RunFiles, score: str) -> tuple[str, list[tuple[str, str, str]]]:
    """Return a sentence on the outcome and the figures that matter most."""
    report = files.report("evaluate")
    if not report:
        done = ", ".join(files.manifests)
        return f"A run as far as {list(files.manifests)[-1]} (steps: {done}).", []
    ours = SICSREC_BLENDED if score == "blend" else SICSREC
    test = {row["model"]: row for row in report["results"] if row["split"] == "test"}
    row = test[ours]
    # Compared with what was trained on the same interactions.
    rivals = [name for name in test if SICSREC not in name and not name.endswith(WITH_VALID)]
    rival = max(rivals, key=lambda model: test[model]["ndcg_at_10"])
    lead = (
        f"{ours} finds what a user watched next among its first 10 for {row['hr_at_10']:.1%} of "
        f"{row['users']:,} users; the best rival, {rival}, for {test[rival]['hr_at_10']:.1%}."
    )
    tiles = [
        (
            f"{ours}, {metric_label(metric)}",
            f"{row[metric]:.4f}",
            f"{row[f'{metric}_low']:.4f} to {row[f'{metric}_high']:.4f}",
        )
        for metric in ("hr_at_10", "ndcg_at_10")
    ]
    tiles += [
        (f"{rival}, NDCG@10", f"{test[rival]['ndcg_at_10']:.4f}", "the best rival"),
        (
            "seconds to make",
            f"{sum(m.seconds for m in files.manifests.values()):,.0f}",
            "all steps",
        ),
    ]
    return lead, tiles


def _cell(value: object, digits: int) -> str:
    if value is None:
        return "–"
    if isinstance(value, float):
        return f"{value:,.{digits}f}"
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value)


def _svg(plot: Plot) -> Markup:
    return to_element(plot.svg, plot.name, plot.alt)


def _commit(place: Path, page: bytes, explorer: bytes | None, files: RunFiles) -> None:
    """Write all files, the page last and in one rename: where there is a page all is whole."""
    steps = {step: manifest.key for step, manifest in files.manifests.items()}
    about = json.dumps({"report": VERSION, "steps": steps}, indent=2) + "\n"
    (place / ABOUT).write_text(about, encoding="utf-8")
    if explorer is not None:
        (place / EXPLORER).write_bytes(explorer)
    partial = place / f".{PAGE}.partial"
    partial.write_bytes(page)
    partial.replace(place / PAGE)
