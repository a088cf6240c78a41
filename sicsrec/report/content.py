"""What stage 1 made of texts and covers: pairs, alignment, maps of items, nearest neighbours."""

from collections import Counter
from collections.abc import Mapping
from typing import Any

import numpy as np
import polars as pl
import torch
from matplotlib.figure import Figure
from numpy.typing import NDArray
from sklearn.manifold import TSNE

from sicsrec.data.catalog import ItemCatalog
from sicsrec.data.vectors import MODALITIES, read_vectors, unit_rows
from sicsrec.report.drawing import INK, MARKERS, SERIES, add_legend, finish, new_figure
from sicsrec.report.models import RunModels
from sicsrec.report.parts import Card, DataTable, Plot, Section, ShownItem, Strip
from sicsrec.report.run_files import RunFiles

ItemMatrix = tuple[NDArray[np.float32], NDArray[np.bool_]]
"""Vectors of unit length [N, D] and which items have one [N]."""

_N_PAIRS = 12
_N_NEIGHBOURS = 5
_N_ANCHORS = 6
_N_TOPICS = 5
_MOST_ON_MAP = 500
_FEWEST_ON_MAP = 12
_OTHER = "others"


def pairs(files: RunFiles, seed: int) -> Section | None:
    """Return some of the pairs that the judge made, with covers, and how all answers came out."""
    if not files.has("sample_pairs/pairs"):
        return None
    report = files.report("sample_pairs")
    frame = pl.read_parquet(files.path("sample_pairs/pairs", "pairs.parquet"), glob=False)
    positive = frame.filter(pl.col("positive_id").is_not_null())
    shown = positive.sample(min(_N_PAIRS, positive.height), seed=seed)
    cards = []
    for anchor, similar, negatives in shown.select(
        "anchor_id", "positive_id", "negative_ids"
    ).iter_rows():
        strips = [
            Strip("item", (files.show(anchor),), "anchor"),
            Strip("similar", (files.show(similar),), "target"),
        ]
        if negatives:
            unrelated = tuple(files.show(item) for item in negatives[:3])
            strips.append(Strip("unrelated", unrelated))
        cards.append(Card(files.title(anchor), tuple(strips)))
    answers = report["answers"]
    outcomes = {
        "a similar item": answers["pair"],
        "none is similar": answers["none"],
        **{f"unusable: {reason}": count for reason, count in answers["unusable"].items()},
        **{f"not asked: {reason}": count for reason, count in report["not_asked"].items()},
    }
    table = pl.DataFrame({"answer": list(outcomes), "items": list(outcomes.values())})
    return Section(
        "pairs",
        "Pairs the judge made",
        words=(
            f"The judge {report['judge']!r} named similar and unrelated items within training "
            f"histories; {report['share_of_items_in_a_pair']:.0%} of the items are in a pair. "
            f"{shown.height} pairs drawn at random:",
        ),
        tables=(DataTable("answers", "All answers", table),),
        cards=tuple(cards),
    )


def alignment(files: RunFiles) -> Section | None:
    """Return how texts and covers lie before and after alignment."""
    report = files.report("align_encoders")
    if not report.get("before"):
        return None
    before, after = report["before"], report["after"]
    frame = pl.DataFrame(
        [
            {"measure": name.replace("_", " "), "before": before[name], "after": after.get(name)}
            for name in before
            if isinstance(before[name], float)
        ]
    )
    plots = []
    if report.get("places"):
        plots.append(_plot_places(files.catalog, report["places"], before, after))
    trained = ", ".join(f"{name} {how}" for name, how in report["trained"].items())
    return Section(
        "alignment",
        "Text and cover, before and after alignment",
        words=(
            f"Trained: {trained.replace('_', ' ')}. t2t, v2v: a pair's other text or cover is "
            "found; t2v, v2t: an item's own cover or text is found; recall at 1 and 10. The "
            "modality gap is the distance between the mean text and the mean cover.",
        ),
        plots=tuple(plots),
        tables=(DataTable("alignment", "All measures", frame, is_open=not plots),),
    )


def _plot_places(
    catalog: ItemCatalog,
    places: Mapping[str, Mapping[str, Any]],
    before: Mapping[str, Any],
    after: Mapping[str, Any],
) -> Plot:
    figure, panels = new_figure(7.6, n_rows=2)
    have_topics = False
    for axes, moment, numbers in zip(panels, ("before", "after"), (before, after), strict=True):
        place = places[moment]
        topics, colours = _topics(catalog, np.array(place["items"]))
        have_topics |= len(colours) > 1
        for modality, marker in (("text", "o"), ("image", "^")):
            points = np.array(place[modality])
            for topic in colours:
                chosen = topics == topic
                axes.scatter(
                    points[chosen, 0], points[chosen, 1], s=16, marker=marker,
                    color=colours[topic], linewidths=0,
                    label=f"{modality}: {topic}" if len(colours) > 1 else modality,
                )  # fmt: skip
        finish(axes, grid="both")
        axes.set_title(
            f"{moment}: gap {numbers['modality_gap']:.2f}, "
            f"t2v recall@10 {numbers['t2v_recall_at_10']:.3f}"
        )
        axes.set_aspect("equal", adjustable="datalim")
    handles, labels = panels[0].get_legend_handles_labels()
    legend = figure.legend(
        handles,
        labels,
        loc="outside lower left",
        ncols=2,
        frameon=False,
        fontsize=8,
        labelcolor=INK,
    )
    for text in legend.get_texts():
        # Topics are words of titles, which may hold dollar signs.
        text.set_parse_math(False)
    alt = (
        "Texts and covers of some items in the plane in which they vary most. Modality gap before "
        f"{before['modality_gap']:.2f}, after {after['modality_gap']:.2f}; share of texts whose "
        f"own cover is among the nearest 10 before {before['t2v_recall_at_10']:.3f}, after "
        f"{after['t2v_recall_at_10']:.3f}"
    )
    caption = "Circles are texts, triangles covers"
    caption += ", colours the items' topics." if have_topics else "."
    return Plot("alignment", figure, alt, caption)


def item_matrices(files: RunFiles, models: RunModels) -> dict[str, ItemMatrix]:
    """Return the vectors of all items: ``id``, the modalities there are, ``fused``."""
    n_items = files.catalog.n_items
    model = models.sicsrec
    everybody = np.ones(n_items, dtype=np.bool_)
    has_content = model.content_embedding.has_any().cpu().numpy()
    with torch.no_grad():
        by_id = model.id_encoder.item_vectors().float().cpu().numpy()
        items = torch.arange(1, n_items + 1, device=model.device)
        fused = model.content_embedding(items).float().cpu().numpy()
    found = {"id": (unit_rows(by_id), everybody)}
    for modality in MODALITIES:
        vectors = read_vectors(files.path("encode_items/vectors"), modality, files.catalog)
        if vectors is not None:
            found[modality] = (unit_rows(vectors.matrix), vectors.present)
    return found | {"fused": (unit_rows(fused), has_content)}


SPACES = {
    "id": "ID, who watches it",
    "text": "text",
    "image": "cover",
    "fused": "text and cover, fused",
}
"""The spaces items are looked at in, and their names for people."""


def neighbours(files: RunFiles, matrices: Mapping[str, ItemMatrix], seed: int) -> Section:
    """Return the nearest neighbours of some items in every space.

    Args:
        files: of the run.
        matrices: as :func:`item_matrices` returns them.
        seed: picks the items, one of each popularity.
    """
    catalog, counts = files.catalog, files.train_counts
    watched = np.flatnonzero(counts)[np.argsort(-counts[counts > 0], kind="stable")]
    rng = np.random.default_rng(seed)
    spans = np.array_split(watched, min(_N_ANCHORS, len(watched)))
    anchors = [int(span[rng.integers(len(span))]) for span in spans if len(span)]
    ids = catalog.item_ids
    cards = []
    for anchor in anchors:
        strips = [Strip("item", (files.show(ids[anchor]),), "anchor")]
        for space, (matrix, present) in matrices.items():
            shown: tuple[ShownItem, ...] = ()
            if present[anchor]:
                near = _nearest(matrix, present, anchor)
                shown = tuple(files.show(ids[int(row)]) for row in near)
            strips.append(Strip(SPACES[space], shown))
        times = int(counts[anchor])
        note = f"watched {times:,} times in training" if times > 1 else "watched once in training"
        cards.append(Card(files.title(ids[anchor]), tuple(strips), note))
    return Section(
        "neighbours",
        "Nearest neighbours",
        words=(
            "By cosine: ID, SICSRec's embedding of the item, learned from who watches it after "
            "what; text and cover, the encoders' vectors; fused, the content embedding that "
            "SICSRec makes of both.",
        ),
        cards=tuple(cards),
    )


def _nearest(
    matrix: NDArray[np.float32], present: NDArray[np.bool_], anchor: int
) -> NDArray[np.intp]:
    likeness = np.where(present, matrix @ matrix[anchor], -np.inf)
    likeness[anchor] = -np.inf
    near = np.argsort(-likeness, kind="stable")[:_N_NEIGHBOURS]
    return near[np.isfinite(likeness[near])]


def item_map(files: RunFiles, matrices: Mapping[str, ItemMatrix], seed: int) -> Section | None:
    """Return maps of the items by id, text, cover and fused vector, coloured by topic."""
    topics = files.catalog.frame["topics"]
    has_topic = topics.list.len().fill_null(0).to_numpy() > 0
    is_shown = has_topic & (files.train_counts > 0)
    for _, present in matrices.values():
        is_shown = is_shown & present
    rows = np.flatnonzero(is_shown)
    if len(rows) < _FEWEST_ON_MAP:
        return None
    order = np.argsort(-files.train_counts[rows], kind="stable")
    rows = np.sort(rows[order[:_MOST_ON_MAP]])
    names, colours = _topics(files.catalog, rows + 1)
    plots, near = [], {}
    places: dict[str, NDArray[np.float32]] = {}
    for space, (matrix, _) in matrices.items():
        points = TSNE(
            perplexity=min(30.0, (len(rows) - 1) / 3), init="pca", random_state=seed,
            metric="cosine", max_iter=500,
        ).fit_transform(matrix[rows])  # fmt: skip
        near[space] = _same_topic(matrix[rows], names)
        places[f"{space} x"], places[f"{space} y"] = points[:, 0], points[:, 1]
        alt = (
            f"{len(rows)} items by {SPACES[space]}, coloured by topic; {near[space]:.0%} have a "
            "nearest neighbour of the same topic"
        )
        figure = _draw_map(points, names, colours)
        plots.append(Plot(f"map_{space}", figure, alt, f"By {SPACES[space]}."))
    frame = pl.DataFrame(
        {"space": [SPACES[space] for space in near], "same topic": list(near.values())}
    )
    return Section(
        "map",
        "Maps of the items",
        words=(
            "Items that lie together are alike in that space. Distances between far groups mean "
            "little in such maps, t-SNE of the most watched items; colours are first topics.",
        ),
        plots=tuple(plots),
        tables=(DataTable("same_topic", "Nearest neighbours of the same first topic", frame,
                          digits=3),),
        items=files.name_items(rows).with_columns(pl.Series("topic", names), **places),
    )  # fmt: skip


def _draw_map(
    points: NDArray[np.float32], names: NDArray[Any], colours: Mapping[str, str]
) -> Figure:
    figure, (axes,) = new_figure(3.8)
    for (topic, colour), marker in zip(colours.items(), MARKERS, strict=False):
        chosen = names == topic
        axes.scatter(points[chosen, 0], points[chosen, 1], s=14, color=colour, marker=marker,
                     linewidths=0, label=topic)  # fmt: skip
    finish(axes)
    axes.set(xticks=[], yticks=[])
    add_legend(axes, 3)
    return figure


def _same_topic(matrix: NDArray[np.float32], names: NDArray[Any]) -> float:
    likeness = matrix @ matrix.T
    np.fill_diagonal(likeness, -np.inf)
    return float((names[likeness.argmax(axis=1)] == names).mean())


def _topics(
    catalog: ItemCatalog, items: NDArray[np.integer]
) -> tuple[NDArray[Any], dict[str, str]]:
    """Return the first topic of every item, rare ones as others, and the topics' colours."""
    first = catalog.frame["topics"].gather(items.astype(np.int64) - 1).list.first()
    names = [_OTHER if name is None else name for name in first]
    frequent = [name for name, _ in Counter(n for n in names if n != _OTHER).most_common(_N_TOPICS)]
    kept = np.array([name if name in frequent else _OTHER for name in names])
    colours: dict[str, str] = dict(zip(frequent, SERIES, strict=False))
    if _OTHER in kept:
        colours[_OTHER] = SERIES[-1]
    return kept, colours
