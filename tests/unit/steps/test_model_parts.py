"""What a logged model holds beside its folder, made by the real steps."""

from pathlib import Path

import polars as pl
import pytest

from sicsrec.config import EvaluateConfig, ExportConfig
from sicsrec.evaluation.promotion import judge_files
from sicsrec.steps.model_parts import make_model_parts
from sicsrec.steps.runner import run_step
from tests.unit.steps.tiny_store import N_ITEMS, make_config, make_tiny_store


@pytest.mark.parametrize("score", ["sicsrec", "blend"])
def test_a_switch_of_the_protocol_makes_no_champion(tmp_path: Path, score: str) -> None:
    """The same weights rank better where watched items are left out."""
    tiny = make_tiny_store(tmp_path / "artifacts")
    ranks: dict[bool, Path] = {}
    for remove_seen in (False, True):
        config = make_config(
            evaluate=EvaluateConfig(n_bootstrap=10, remove_seen=remove_seen),
            export=ExportConfig(top_k=5, score=score),
        )
        refs = dict(tiny.refs)
        for step in ("evaluate", "export"):
            refs |= run_step(step, config, refs, tiny.store).refs
        work = tmp_path / f"{remove_seen}"
        work.mkdir()
        ranks[remove_seen] = make_model_parts(tiny.store, refs, config, work).validation
    for remove_seen, path in ranks.items():
        protocol = pl.read_parquet(path, columns=["remove_seen", "n_items"]).unique()
        assert protocol.rows() == [(remove_seen, N_ITEMS)]
        assert "not better" in judge_files(path, path).reason
        verdict = judge_files(path, ranks[not remove_seen])
        assert not verdict.promoted
        assert "not comparable: remove_seen is" in verdict.reason
