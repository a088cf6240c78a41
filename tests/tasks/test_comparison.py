"""What MLflow's page of a comparison says."""

from typing import Any

from sicsrec.evaluation.variants import METRICS
from tasks.comparison import describe_comparison


def row(variant: str, value: float, difference: tuple[float, float, float] | None = None) -> Any:
    ends = difference or (None, None, None)
    figures = dict.fromkeys(METRICS, value) | {
        f"{name}_{end}": number
        for name in METRICS
        for end, number in zip(("difference", "low", "high"), ends, strict=True)
    }
    return {"model": "SICSRec", "variant": variant, "seeds": 2, "users": 1200} | figures


def test_description_has_a_table_whose_differences_beyond_chance_are_bold() -> None:
    rows = [
        row("full", 0.2),
        row("worse", 0.1, (-0.1, -0.15, -0.05)),
        row("a|b", 0.21, (0.01, -0.02, 0.04)),
    ]
    text = describe_comparison("demo", rows, {"broken": "DataError: no such file"})
    lines = text.splitlines()
    assert lines[0].startswith("Variants on **demo**: means over the seeds")
    head, rule, full, worse, other = (
        [cell.strip() for cell in line.split("|")[1:-1]] for line in lines[2:7]
    )
    assert [len(cells) for cells in (head, rule, full, worse, other)] == [5] * 5
    assert head[0] == "SICSRec, test, 1,200 users"
    assert full[1:3] == ["&nbsp; 2", "&nbsp; 0.2000"]
    assert worse[2] == "&nbsp; 0.1000 **-0.1000** (-0.1500 to -0.0500)"
    # A stroke in a name ends no cell.
    assert other[0] == "a&#124;b"
    assert other[2] == "&nbsp; 0.2100 +0.0100 (-0.0200 to +0.0400)"
    assert lines[-1] == "- broken: DataError: no such file"
