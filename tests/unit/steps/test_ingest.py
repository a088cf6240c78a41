import os
import unicodedata
from pathlib import Path

import polars as pl
import pytest
from PIL import Image

from sicsrec.artifacts import ArtifactStore
from sicsrec.config import PipelineConfig
from sicsrec.data.catalog import ItemCatalog
from sicsrec.data.covers import CoverStore
from sicsrec.data.schema import INTERACTIONS, QUARANTINE, check_schema
from sicsrec.errors import DataError
from sicsrec.progress import NoProgress
from sicsrec.steps.context import StepContext
from sicsrec.steps.external import external_inputs
from sicsrec.steps.ingest import run
from sicsrec.steps.runner import run_step
from sicsrec.tracking import NullTracker
from tests.rights import as_anybody, closed


class Record(NullTracker):
    def __init__(self):
        self.tables, self.figures = {}, {}

    def log_table(self, name, frame):
        self.tables[name] = frame

    def log_figure(self, name, figure):
        self.figures[name] = figure


def configuration(folder, reader=None, **ingest):
    section = {
        "path": None if folder is None else str(folder),
        "reader": reader or {"kind": "tables", "items": "items.csv", "interactions": "log.csv"},
        **ingest,
    }
    architecture = {"library": "open_clip", "architecture": {}}
    return PipelineConfig.model_validate(
        {"dataset": "t", "ingest": section, "align_encoders": {"text_encoder": architecture}}
    )


def ingest(tmp_path, config, name="run"):
    store = ArtifactStore(tmp_path / "store")
    pending = store.begin("t", "ingest", name)
    tracker = Record()
    context = StepContext(config, {}, pending, tracker, NoProgress())
    return run(context), pending.folder / "data", tracker


@pytest.fixture
def data(tmp_path):
    root = tmp_path / "data"
    (root / "covers").mkdir(parents=True)
    items = ["item_id,title"] + [f"{number},Video  {number}" for number in range(1, 31)]
    (root / "items.csv").write_text("\n".join(items) + "\n")
    rows = [f"u{n % 7},{1 + n % 30},{1_600_000_000 + n // 2}" for n in range(100)]
    (root / "log.csv").write_text("user_id,item_id,timestamp\n" + "\n".join(rows) + "\n")
    for number in range(1, 11):
        Image.new("RGB", (8, 8), (number, 0, 0)).save(root / "covers" / f"{number}.png")
    return root


def append(path, text):
    path.write_text(path.read_text() + text)


def test_outputs_follow_their_schemas(data, tmp_path):
    reader = {"kind": "tables", "items": "items.csv", "interactions": "log.csv", "covers": "covers"}
    report, out, tracker = ingest(tmp_path, configuration(data, reader))
    catalog = ItemCatalog.read(out / "catalog")
    assert catalog.item_ids.to_list() == [str(number) for number in range(1, 31)]
    assert catalog.texts[0] == "Video 1"
    statuses = catalog.frame["image_status"].to_list()
    assert statuses == ["ok"] * 10 + ["missing"] * 20
    assert catalog.frame["image_path"][0] == "covers/1.png"
    assert catalog.frame["image_path"][10] is None
    log = check_schema(
        pl.read_parquet(out / "interactions" / "interactions.parquet"), INTERACTIONS, "log"
    )
    assert report.rows == log.height == 100
    quarantine = pl.read_parquet(out / "quarantine" / "quarantine.parquet")
    assert check_schema(quarantine, QUARANTINE, "quarantine").height == 0
    covers = CoverStore(out / "covers")
    assert covers.item_ids == catalog.item_ids.head(10).to_list()
    assert covers.read(["7"])[0].getpixel((0, 0)) == (7, 0, 0)
    assert set(tracker.tables) == {"quarantine"}
    assert len(tracker.figures["popularity"].axes) == 2


def test_text_field_that_no_item_has_is_said(data, tmp_path, caplog):
    ingest(tmp_path, configuration(data, text_fields=["title", "description"]))
    assert [record.getMessage() for record in caplog.records if record.levelname == "WARNING"] == [
        "no item has a description, which ingest.text_fields asks for"
    ]


def test_what_is_left_out_is_said(data, tmp_path, caplog):
    append(data / "items.csv", "7,Again\n")
    append(data / "log.csv", "u1,3,soon\nu1,3,later\n,3,1600000000\n")
    ingest(tmp_path, configuration(data, max_bad_row_share=0.2))
    assert [record.getMessage() for record in caplog.records] == [
        "left out and listed in quarantine.parquet (interaction: bad_timestamp 2, empty_id 1; "
        "item: duplicate_id 1)"
    ]


def test_covers_that_belong_to_no_item_are_said(data, tmp_path, caplog):
    reader = {"kind": "tables", "items": "items.csv", "interactions": "log.csv", "covers": "covers"}
    inner = data / "covers" / "inner"
    inner.mkdir()
    for path in list((data / "covers").glob("*.png")):
        path.rename(inner / path.name)
    ingest(tmp_path, configuration(data, reader), "inner")
    for path in inner.iterdir():
        path.rename(data / "covers" / f"cover_{path.name}")
    ingest(tmp_path, configuration(data, reader), "others")
    first, second = [record.getMessage() for record in caplog.records]
    assert "sub-folders are not searched" in first
    assert "such as 1.jpg; found: no image" in first
    assert "found: covers/cover_1.png, covers/cover_10.png, covers/cover_2.png." in second


def test_file_whose_name_is_no_text_stops_nothing(data, tmp_path):
    name = os.fsdecode(b"\xff\xfe.jpg")
    (data / name).write_bytes(b"anything")
    (data / "covers").rename(data / os.fsdecode(b"\xff_covers"))
    (data / "items.csv").rename(data / "x_titles.csv")
    (data / "log.csv").rename(data / "x_pairs.csv")
    config = configuration(data, {"kind": "microlens"})
    before = external_inputs("ingest", config)
    report, out, _ = ingest(tmp_path, config)
    assert report.rows == 100
    assert ItemCatalog.read(out / "catalog").frame["image_path"][0] == r"\xff_covers/1.png"
    (data / name).write_bytes(b"anything else")
    assert external_inputs("ingest", config) != before


def test_a_wrong_folder_of_named_covers_is_noticed(data, tmp_path):
    (data / "items.csv").write_text("item_id,title,pic\n1,A,covers/1.png\n2,B,2.png\n3,C,\n")
    reader = {"kind": "tables", "items": "items.csv", "interactions": "log.csv", "image": "pic"}
    changes = {"max_bad_row_share": 1.0}
    config = configuration(data, {**reader, "covers": "covers"}, **changes)
    message = r"1 of 2 covers \(50.0%\).*covers/covers/1.png: no_such_file.*names it"
    with pytest.raises(DataError, match=message):
        ingest(tmp_path / "refused", config)
    config = configuration(data, {**reader, "covers": "covers"}, max_bad_cover_share=0.5, **changes)
    _, out, _ = ingest(tmp_path / "taken", config)
    statuses = ItemCatalog.read(out / "catalog").frame["image_status"].to_list()
    assert statuses == ["missing", "ok", "missing"]


def test_hidden_files_are_no_data(data):
    config = configuration(data, {"kind": "microlens"})
    before = external_inputs("ingest", config)
    (data / ".sicsrec" / "logs").mkdir(parents=True)
    (data / ".sicsrec" / "logs" / "run.log").write_text("started")
    assert external_inputs("ingest", config) == before
    (data / "plain.txt").write_text("data")
    assert external_inputs("ingest", config) != before


def test_data_that_may_not_be_read_are_named(data):
    config = configuration(data, {"kind": "microlens"})
    for path in (data / "covers", data / "log.csv"):
        with closed(path), pytest.raises(DataError, match=rf"{path} cannot be read: Permission"):
            as_anybody(external_inputs, "ingest", config)


def test_cover_of_a_doubled_row_goes_with_the_row(data, tmp_path):
    (data / "items.csv").write_text("item_id,title,pic\n1,A,\n1,A,1.png\n2,B,2.png\n2,B,3.png\n")
    reader = {"kind": "tables", "items": "items.csv", "interactions": "log.csv", "image": "pic"}
    config = configuration(data, {**reader, "covers": "covers"}, max_bad_row_share=1.0)
    _, out, _ = ingest(tmp_path, config)
    catalog = ItemCatalog.read(out / "catalog").frame
    assert catalog["image_path"].to_list() == [None, "covers/2.png"]
    quarantine = pl.read_parquet(out / "quarantine" / "quarantine.parquet").filter(kind="item")
    assert quarantine["detail"].to_list() == [
        "differs from row 1, which is kept, in image",
        "differs from row 3, which is kept, in image",
    ]


def test_rows_whose_ids_differ_in_form_alone_are_doubled(data, tmp_path):
    composed, decomposed = (unicodedata.normalize(form, "é") for form in ("NFC", "NFD"))
    append(data / "items.csv", f"{decomposed},A\n{composed},A\n")
    append(data / "log.csv", f"u1,{composed},1600000000\nu1,{decomposed},1600000000\n")
    Image.new("RGB", (8, 8)).save(data / "covers" / f"{decomposed}.png")
    reader = {"kind": "tables", "items": "items.csv", "interactions": "log.csv", "covers": "covers"}
    report, out, _ = ingest(tmp_path, configuration(data, reader, max_bad_row_share=1.0))
    item = ItemCatalog.read(out / "catalog").frame.filter(item_id=composed)
    assert item["image_path"].to_list() == [f"covers/{decomposed}.png"]
    assert CoverStore(out / "covers").item_ids[-1] == composed
    assert report.content["duplicate_item_rows"] == 1
    assert report.content["quarantine"] == {"item": {"duplicate_id": 1}}
    log = pl.read_parquet(out / "interactions" / "interactions.parquet")
    assert log.filter(item_id=composed)["user_id"].to_list() == ["u1", "u1"]


def test_faults_of_a_table_of_many_files_are_summed_up(data, tmp_path):
    folder = data / "items.parquet"
    folder.mkdir()
    for part in range(4):
        titles = {"item_id": [str(part), "9", "9"], "title": ["A", "B", "C"]}
        pl.DataFrame(titles).write_parquet(folder / f"part-{part}")
    reader = {"kind": "tables", "items": "items.parquet", "interactions": "log.csv"}
    _, out, tracker = ingest(tmp_path, configuration(data, reader, max_bad_row_share=1.0))
    refused = pl.read_parquet(out / "quarantine" / "quarantine.parquet").filter(kind="item")
    assert refused.select("file", "row", "detail").rows()[:2] == [
        ("items.parquet/part-0", 3, "differs from row 2, which is kept, in title"),
        (
            "items.parquet/part-1",
            2,
            "identical to row 2 of items.parquet/part-0, which is kept",
        ),
    ]
    summary = tracker.tables["quarantine"].filter(kind="item")
    assert summary.rows() == [
        ("item", "items.parquet/part-0", "duplicate_id", 7, 3, refused["detail"][0])
    ]


def test_report_counts_everything(data, tmp_path):
    append(data / "items.csv", "3,Video  3\n31,\n")
    append(data / "log.csv", "u1,999,1600000000\n")
    (data / "covers" / "1.png").write_bytes(b"")
    Image.new("CMYK", (90, 90)).save(data / "covers" / "2.jpg")
    (data / "covers" / "2.png").unlink()
    Image.new("RGB", (8, 8)).save(data / "covers" / "777.png")
    (data / "covers" / "Thumbs.db").write_bytes(b"x")
    reader = {"kind": "tables", "items": "items.csv", "interactions": "log.csv", "covers": "covers"}
    report, out, tracker = ingest(
        tmp_path, configuration(data, reader, filters={"min_history_length": 15})
    )
    content = report.content
    assert content["rows_read"] == {"items.csv": 32, "log.csv": 101}
    assert content["items"] == 31
    assert content["duplicate_item_rows"] == 1
    assert content["missing_titles"] == content["missing_texts"] == 1
    assert content["missing_descriptions"] == 31
    assert content["covers"] == {
        "ok": 9,
        "missing": 21,
        "broken": 1,
        "converted": 1,
        "changes": {"cmyk": 1},
        "files_without_item": 1,
    }
    assert content["cover_files_ignored"] == 1
    assert content["quarantine"] == {
        "cover": {"empty_file": 1},
        "interaction": {"item_not_in_catalog": 1},
        "item": {"duplicate_id": 1},
    }
    assert content["users"] == 2
    assert content["interactions"] == 30
    assert content["history_length"]["q50"] == 15
    assert content["density"] == pytest.approx(30 / (2 * 31))
    assert [entry["name"] for entry in content["filters"]] == ["min_history_length"]
    assert content["filters"][0]["interactions_before"] == 100
    assert tracker.tables["quarantine"]["rows"].sum() == 3
    broken = ItemCatalog.read(out / "catalog").frame.filter(image_status="broken")
    assert broken["item_id"].to_list() == ["1"]


def test_catalogue_keeps_items_whose_interactions_are_filtered_out(data, tmp_path):
    config = configuration(data, filters={"until": "2020-09-13T12:26:50Z"})
    _, out, _ = ingest(tmp_path, config)
    assert ItemCatalog.read(out / "catalog").n_items == 30
    log = pl.read_parquet(out / "interactions" / "interactions.parquet")
    assert log["item_id"].n_unique() == 20


def test_order_of_rows_decides_nothing_but_ties(data, tmp_path):
    header, *rows = (data / "log.csv").read_text().splitlines()
    times = [f"u{n % 7},{1 + n % 30},{1_600_000_000 + n}" for n in range(100)]
    tables = []
    for name, order in (("a", times), ("b", times[::-1])):
        (data / "log.csv").write_text("\n".join([header, *order]) + "\n")
        _, out, _ = ingest(tmp_path, configuration(data), name)
        tables.append((out / "interactions" / "interactions.parquet").read_bytes())
    assert tables[0] == tables[1]
    assert len(rows) == 100


def test_too_many_bad_rows_stop_the_step(data, tmp_path):
    append(data / "log.csv", "broken\n" * 10)
    with pytest.raises(DataError, match=r"10 of 110 rows of log.csv.*ingest.max_bad_row_share"):
        ingest(tmp_path, configuration(data))
    report, _, _ = ingest(tmp_path, configuration(data, max_bad_row_share=0.1))
    assert report.rows == 100


def test_broken_items_are_named_before_the_log_that_lacks_them(data, tmp_path):
    (data / "items.csv").rename(data / "videos.csv")
    (data / "videos.csv").write_text("item_id,title\n" + ",A\n" * 30)
    reader = {"kind": "tables", "items": "videos.csv", "interactions": "log.csv"}
    with pytest.raises(DataError, match=r"30 of 30 rows of videos\.csv"):
        ingest(tmp_path, configuration(data, reader))


def test_too_many_bad_covers_stop_the_step(data, tmp_path):
    for number in (1, 2, 3):
        (data / "covers" / f"{number}.png").write_bytes(b"text")
    reader = {"kind": "tables", "items": "items.csv", "interactions": "log.csv", "covers": "covers"}
    with pytest.raises(DataError, match=r"3 of 10 covers .*3 not_an_image.*max_bad_cover_share"):
        ingest(tmp_path, configuration(data, reader))


@pytest.mark.parametrize(
    ("file", "content", "limit", "message"),
    [
        ("items.csv", "item_id,title\n", 0.05, "no usable item: no rows.* in items.csv; give"),
        ("items.csv", "item_id,title\n,A\n", 0.05, "1 of 1 rows of items.csv .* 1 empty_id"),
        ("items.csv", "item_id,title\n,A\n", 1.0, "no usable item is left"),
        ("items.csv", "item_id,title\nx,t\n", 1.0, r"no usable interaction .* e\.g\. \['x'\]"),
        ("log.csv", "user_id,item_id,timestamp\n", 1.0, "no usable interaction"),
        ("log.csv", "user_id,item_id,timestamp\n", 0.05, "no rows.* in log.csv; .* interactions"),
    ],
)
def test_nothing_usable_is_a_clear_error(data, tmp_path, file, content, limit, message):
    (data / file).write_text(content)
    with pytest.raises(DataError, match=message):
        ingest(tmp_path, configuration(data, max_bad_row_share=limit))


def test_filters_that_leave_nothing_are_named(data, tmp_path):
    with pytest.raises(DataError, match=r"leave nothing of 100 interactions"):
        ingest(tmp_path, configuration(data, filters={"user_core": 1000}))


def test_scratch_files_do_not_stay(tmp_path):
    config = configuration(None, {"kind": "demo", "n_items": 60, "n_users": 40})
    _, out, _ = ingest(tmp_path, config)
    assert sorted(path.name for path in out.iterdir()) == [
        "catalog", "covers", "interactions", "quarantine",
    ]  # fmt: skip
    assert not list((out.parent / "work").iterdir())


def test_demo_gives_equal_digests_twice(tmp_path):
    config = configuration(None, {"kind": "demo", "n_items": 80, "n_users": 60})
    first, second = (
        run_step("ingest", config, {}, ArtifactStore(tmp_path / name)).refs for name in "ab"
    )
    assert {name: ref.digest for name, ref in first.items()} == {
        name: ref.digest for name, ref in second.items()
    }


def test_movielens(real_data: Path, tmp_path):
    config = configuration(real_data / "movielens-100k", {"kind": "movielens_100k"})
    report, _, _ = ingest(tmp_path, config)
    content = report.content
    assert (content["items"], content["users"], content["interactions"]) == (1682, 943, 100_000)
    assert content["duplicate_item_rows"] == 64
    assert content["missing_descriptions"] == 18
    assert content["covers"]["missing"] == 19
    assert content["covers"]["ok"] == 1663


@pytest.mark.parametrize(
    ("name", "counts"),
    [("Bili_Food", (1579, 6549, 39_740)), ("Bili_Movie", (3509, 16_525, 115_576))],
)
def test_ninerec(real_data: Path, tmp_path, name, counts):
    report, _, _ = ingest(
        tmp_path, configuration(real_data / "ninerec" / name, {"kind": "ninerec"})
    )
    content = report.content
    assert (content["items"], content["users"], content["interactions"]) == counts
    assert content["quarantine"] == {}
