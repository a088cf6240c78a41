import doctest
import io

import numpy as np
import pytest

from sicsrec.evaluation import plots
from sicsrec.evaluation.plots import plot_cohorts, plot_differences, plot_results

MODELS = ("ours", "rival", "test_only")


def row(model: str, split: str, value: float | None, **further: object) -> dict[str, object]:
    ends = {"": 0.0, "_low": -0.01, "_high": 0.01}
    figures = {
        f"{metric}{end}": None if value is None else value + shift
        for metric in ("hr_at_10", "ndcg_at_10")
        for end, shift in ends.items()
    }
    return {"model": model, "split": split, "users": 0 if value is None else 7} | figures | further


@pytest.fixture
def results() -> list[dict[str, object]]:
    return [
        row("ours", "valid", 0.3),
        row("ours", "test", 0.2),
        row("rival", "valid", 0.1),
        row("rival", "test", 0.05),
        row("test_only", "test", 0.15),
    ]


def test_bars_are_as_long_as_the_metric(results: list[dict[str, object]]) -> None:
    figure = plot_results(results, MODELS, ("hr_at_10", "ndcg_at_10"))
    assert len(figure.axes) == 2
    widths = sorted(patch.get_width() for patch in figure.axes[0].patches)
    np.testing.assert_allclose(widths, [0.05, 0.1, 0.15, 0.2, 0.3])
    assert [tick.get_text() for tick in figure.axes[0].get_yticklabels()] == list(MODELS)
    assert figure.axes[1].get_xlabel() == "NDCG@10"
    png = io.BytesIO()
    figure.savefig(png)
    assert png.getvalue().startswith(b"\x89PNG")


def test_dollar_signs_in_names_are_no_mathematics() -> None:
    rows = [
        row("ours", "test", 0.2, variant=name, hr_at_10_difference=0.2)
        for name in ("b $\\wrong{$", "c $", "$x$")
    ]
    figure = plot_differences(rows, "a $\\first$", ("hr_at_10",))
    figure.savefig(io.BytesIO(), format="png")
    (axes,) = figure.axes
    assert [tick.get_text() for tick in axes.get_yticklabels()] == ["b $\\wrong{$", "c $", "$x$"]
    assert axes.get_xlabel().endswith("first$'")


def test_cohorts_without_users_are_named_but_not_drawn() -> None:
    cohorts = [
        row("ours", "test", 0.2, cohort="warm"),
        row("rival", "test", 0.1, cohort="warm"),
        row("ours", "test", None, cohort="cold"),
        row("rival", "test", None, cohort="cold"),
    ]
    figure = plot_cohorts(cohorts, ("ours", "rival"), {"warm": "seen", "cold": "new"}, "ndcg_at_10")
    axes = figure.axes[0]
    assert [tick.get_text() for tick in axes.get_yticklabels()] == [
        "seen\n(7 users)",
        "new\n(0 users)",
    ]
    points = [
        np.asarray(container.lines[0].get_xdata(), dtype=float) for container in axes.containers
    ]
    np.testing.assert_allclose(points, [[0.2], [0.1]])
    figure.savefig(io.BytesIO())


def test_examples_in_the_docstrings() -> None:
    assert doctest.testmod(plots) == (0, 1)
