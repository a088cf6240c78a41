"""Pictures of alignment."""

from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure
from numpy.typing import NDArray

from sicsrec.figures import BLUE, ORANGE
from sicsrec.training.alignment_quality import Quality

_MAX_ITEMS = 150
"""Items drawn; more would be a blot."""


def plot_modalities(before: Quality, after: Quality) -> Figure:
    """Draw where texts and images lie before and after alignment, an item's two joined by a line.

    Each panel shows the two directions in which its own vectors vary most.

    Args:
        before: with at least two items that have text and image.
        after: of the same items.
    """
    figure = Figure(figsize=(10, 5), layout="constrained")
    first, second = figure.subplots(1, 2)
    for axes, quality, moment in ((first, before, "before"), (second, after, "after")):
        _draw_modalities(axes, quality)
        axes.set_title(
            f"{moment}: gap {quality.numbers['modality_gap']:.2f}, "
            f"t2v recall@1 {quality.numbers['t2v_recall_at_1']:.2f}"
        )
    handles, labels = first.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=2, frameon=False)
    return figure


def place_modalities(quality: Quality) -> dict[str, list[Any]]:
    """Return where some items' texts and images lie, as plain lists for a report.

    Args:
        quality: with at least two items that have text and image.

    Returns:
        ``items`` (item indices), ``text`` and ``image`` (a point each), and ``variance``, the
        shares of the variance that the two directions hold.
    """
    rows, text, image, shares = _places(quality)
    return {
        "items": quality.items[rows].tolist(),
        "text": np.round(text, 4).tolist(),
        "image": np.round(image, 4).tolist(),
        "variance": np.round(shares, 4).tolist(),
    }


def _places(
    quality: Quality,
) -> tuple[NDArray[np.intp], NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """Return the rows that are drawn, their texts' and images' points, the shares of variance."""
    rows = np.unique(
        np.linspace(0, len(quality.text) - 1, min(_MAX_ITEMS, len(quality.text))).astype(np.intp)
    )
    points, shares = _project(np.concatenate([quality.text, quality.image]))
    return rows, points[rows], points[len(quality.text) + rows], shares


def _draw_modalities(axes: Axes, quality: Quality) -> None:
    _, text, image, shares = _places(quality)
    lines = LineCollection(
        list(np.stack([text, image], axis=1)), colors="grey", alpha=0.3, linewidths=0.6
    )
    axes.add_collection(lines)
    axes.scatter(text[:, 0], text[:, 1], s=14, color=BLUE, label="text")
    axes.scatter(image[:, 0], image[:, 1], s=14, color=ORANGE, marker="^", label="image")
    axes.set_xlabel(f"direction 1 ({shares[0]:.0%} of the variance)")
    axes.set_ylabel(f"direction 2 ({shares[1]:.0%})")
    axes.set_aspect("equal", adjustable="datalim")
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)


def _project(vectors: NDArray[np.float32]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return [n, 2], the first two principal components, and the shares of the variance."""
    centred = vectors.astype(np.float64) - vectors.mean(axis=0)
    _, lengths, directions = np.linalg.svd(centred, full_matrices=False)
    # The sign of a direction is arbitrary; fixed, pictures of two runs can be compared.
    signs = np.sign(directions[np.arange(len(directions)), np.abs(directions).argmax(axis=1)])
    points = centred @ (directions * signs[:, None])[:2].T
    total = max(float((lengths**2).sum()), np.finfo(np.float64).tiny)
    return points, (lengths**2)[:2] / total
