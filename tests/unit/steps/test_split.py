from pathlib import Path

import polars as pl
import pytest

from sicsrec.artifacts import ArtifactStore
from sicsrec.config import PipelineConfig
from sicsrec.data.split import HeldOut, TrainLog
from sicsrec.errors import DataError, SchemaError
from sicsrec.steps.context import StepContext
from sicsrec.steps.runner import run_step
from sicsrec.steps.split import run
from tests.unit.steps.test_ingest import configuration


def split(tmp_path, config):
    store = ArtifactStore(tmp_path / "store")
    refs = run_step("ingest", config, {}, store).refs
    result = run_step("split", config, refs, store)
    folders = {name: store.open(ref).path() for name, ref in result.refs.items()}
    return result, folders


def put(tmp_path, rows):
    root = tmp_path / "data"
    root.mkdir()
    items = sorted({row[1] for row in rows} | {"z"})
    (root / "items.csv").write_text("item_id,title\n" + "".join(f"{i},t\n" for i in items))
    lines = "".join(",".join(map(str, row)) + "\n" for row in rows)
    (root / "log.csv").write_text("user_id,item_id,timestamp\n" + lines)
    return root


ROWS = [
    ("a", "1", 10), ("a", "2", 20), ("a", "3", 30), ("a", "4", 40),
    ("b", "1", 15), ("b", "2", 25), ("b", "new", 35),
    ("c", "1", 17), ("c", "2", 18),
]  # fmt: skip


def test_leave_one_out_is_written_and_reported(tmp_path):
    result, folders = split(tmp_path, configuration(put(tmp_path, ROWS)))
    train = TrainLog.read(folders["split/train"]).interactions
    assert train.select("user_id", "item_id").rows() == [
        ("a", "1"),
        ("a", "2"),
        ("b", "1"),
        ("c", "1"),
        ("c", "2"),
    ]
    test = HeldOut.read(folders["split/test"]).targets
    assert test.select("user_id", "item_id").rows() == [("a", "4"), ("b", "new")]
    assert result.report.rows == 2
    content = result.report.content
    assert content["users"] == 3
    assert content["users_too_short"] == 1
    assert content["train"] == {"users": 3, "items": 2, "interactions": 5}
    assert content["valid"] == {
        "users": 2,
        "users_without_context": 0,
        "context_interactions": 3,
        "cold_targets": 1,
        "cold_target_share": 0.5,
        "interactions": 2,
    }
    assert content["test"]["cold_targets"] == 2
    assert content["interactions_neither_trained_on_nor_target"] == 0


def test_outputs_say_what_they_have_seen(tmp_path):
    result, _ = split(tmp_path, configuration(put(tmp_path, ROWS)))
    assert {name: set(ref.sees) for name, ref in result.refs.items()} == {
        "split/train": {"train"},
        "split/valid": {"train", "valid"},
        "split/test": {"train", "valid", "test"},
    }


def test_global_time_reports_newcomers_and_unused(tmp_path):
    rows = [*ROWS, ("d", "1", 33), ("e", "2", 50), ("e", "3", 51)]
    by_time = {"strategy": "global_time", "valid_share": 0.25, "test_share": 0.25}
    values = configuration(put(tmp_path, rows)).model_dump() | {"split": by_time}
    config = PipelineConfig.model_validate(values)
    result, folders = split(tmp_path, config)
    train = TrainLog.read(folders["split/train"]).interactions
    # 12 interactions: 10 15 17 18 20 25 | 30 33 35 | 40 50 51.
    assert train["timestamp"].max() == 25_000
    content = result.report.content
    assert content["valid"]["users"] == 3
    assert content["valid"]["users_without_context"] == 1
    assert content["valid"]["interactions"] == 3
    assert content["test"]["users"] == 2
    assert content["test"]["users_without_context"] == 1
    assert content["interactions_neither_trained_on_nor_target"] == 1


def test_global_time_without_times_is_an_error(tmp_path):
    root = put(tmp_path, ROWS)
    reader = {"kind": "tables", "items": "items.csv", "interactions": "log.csv", "timestamp": None}
    values = configuration(root, reader).model_dump() | {"split": {"strategy": "global_time"}}
    with pytest.raises(DataError, match="needs timestamps"):
        split(tmp_path, PipelineConfig.model_validate(values))


@pytest.mark.parametrize(("name", "cold_share"), [("Bili_Food", 0.086), ("Bili_Movie", 0.075)])
def test_ninerec(real_data: Path, tmp_path, name, cold_share):
    config = configuration(real_data / "ninerec" / name, {"kind": "ninerec"})
    result, folders = split(tmp_path, config)
    content = result.report.content
    assert content["users_too_short"] == 0
    assert content["test"]["cold_target_share"] == pytest.approx(cold_share, abs=5e-4)
    targets = HeldOut.read(folders["split/test"]).targets
    lines = (real_data / "ninerec" / name / "sequential_data.txt").read_text().splitlines()
    last = {line.split()[0]: line.split()[-1] for line in lines}
    assert dict(targets.select("user_id", "item_id").iter_rows()) == last


def test_interactions_of_another_table_are_refused(tmp_path):
    store = ArtifactStore(tmp_path / "store")
    config = configuration(put(tmp_path, ROWS))
    refs = run_step("ingest", config, {}, store).refs
    reader = store.open(refs["ingest/interactions"])
    path = reader.path("interactions.parquet")
    path.chmod(0o644)
    pl.DataFrame({"user_id": ["a"]}).write_parquet(path)
    context = StepContext(
        config, {"ingest/interactions": reader}, store.begin("t", "split", "0" * 16)
    )
    with pytest.raises(SchemaError, match="interactions: item_id"):
        run(context)
