"""polars takes a path for a pattern unless told otherwise."""

import ast
from pathlib import Path

import polars as pl

from sicsrec.config import IngestConfig, TablesReaderConfig
from sicsrec.data.readers import read_raw

REPOSITORY = Path(__file__).parents[2]
READERS = {
    f"{verb}_{kind}"
    for verb in ("read", "scan")
    for kind in ("parquet", "csv", "ndjson", "ipc", "ipc_stream", "avro")
}


def calls_with_pattern(source):
    for node in ast.walk(ast.parse(source)):
        if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Attribute):
            continue
        of_polars = isinstance(node.func.value, ast.Name) and node.func.value.id == "pl"
        glob = [word.value for word in node.keywords if word.arg == "glob"]
        is_off = any(isinstance(value, ast.Constant) and value.value is False for value in glob)
        if of_polars and node.func.attr in READERS and not is_off:
            yield node.lineno


def test_a_call_with_a_pattern_is_found():
    assert list(calls_with_pattern("pl.read_parquet(path)\npl.scan_parquet(path, glob=False)")) == [
        1
    ]


def test_no_path_is_taken_for_a_pattern():
    found = [
        f"{path.relative_to(REPOSITORY)}:{line}"
        for package in ("sicsrec", "tasks", "flows")
        for path in sorted((REPOSITORY / package).rglob("*.py"))
        for line in calls_with_pattern(path.read_text(encoding="utf-8"))
    ]
    assert found == []


def test_brackets_and_stars_in_names_are_read_as_they_stand(tmp_path):
    for folder, title in (("run[1]", "right"), ("run1", "wrong")):
        root = tmp_path / folder
        root.mkdir()
        pl.DataFrame({"item_id": ["1"], "title": [title]}).write_parquet(root / "i.parquet")
        log = pl.DataFrame({"user_id": ["u"], "item_id": ["1"], "timestamp": [1_600_000_000]})
        log.write_parquet(root / "plays*.parquet")
        log.write_parquet(root / "plays_old.parquet")
    layout = TablesReaderConfig(items="i.parquet", interactions="plays*.parquet")
    root = tmp_path / "run[1]"
    raw = read_raw(IngestConfig(path=str(root), reader=layout), root)
    assert raw.items["title"].to_list() == ["right"]
    assert raw.interactions.height == 1


def test_a_table_in_parts_is_still_read_whole(tmp_path):
    parts = tmp_path / "log[1].parquet"
    parts.mkdir()
    for number in (0, 1):
        pl.DataFrame({"user_id": ["u"], "item_id": ["1"], "timestamp": [number]}).write_parquet(
            parts / f"part-{number}.parquet"
        )
    pl.DataFrame({"item_id": ["1"], "title": ["t"]}).write_parquet(tmp_path / "i.parquet")
    layout = TablesReaderConfig(items="i.parquet", interactions=parts.name)
    raw = read_raw(IngestConfig(path=str(tmp_path), reader=layout), tmp_path)
    assert raw.interactions["timestamp"].to_list() == [0, 1000]
