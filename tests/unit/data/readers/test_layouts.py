"""Every layout, written on the spot as it is downloaded."""

import json
import os
import re
import unicodedata
from datetime import UTC, datetime, timedelta
from typing import get_args

import polars as pl
import pytest
from PIL import Image

from sicsrec.config import (
    IngestConfig,
    MicroLensReaderConfig,
    MovieLensReaderConfig,
    NineRecReaderConfig,
    ReaderConfig,
    TablesReaderConfig,
)
from sicsrec.data.readers import READERS, read_raw
from sicsrec.data.readers.tables import as_text
from sicsrec.data.validation import check_bad_share
from sicsrec.errors import ConfigError, DataError

FLAGS = "Action,Adventure,Animation,Children,Comedy,Crime,Documentary,Drama,Fantasy,FilmNoir"
FLAGS += ",Horror,Musical,Mystery,Romance,SciFi,Thriller,War,Western"


def put(folder, name, content):
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content if isinstance(content, bytes) else content.encode())


def put_image(folder, name):
    (folder / name).parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (4, 4)).save(folder / name)


def read(folder, reader):
    return read_raw(IngestConfig(path=str(folder), reader=reader), folder)


def rows(frame, *columns):
    return frame.select(*columns).rows()


def test_movielens_with_plots_and_posters(tmp_path):
    flags = ",".join(["0", "1"] + ["0"] * 16)
    put(tmp_path, "u.data", "196\t242\t3\t881250949\n186\t302\t1\t891717742\nbroken\n")
    put(
        tmp_path,
        "items.csv",
        f"movie_id,title,genre_unknown,{FLAGS},year,overview,original_language\n"
        f'242,"Kolya, a film",0,{flags},1996.0,"A plot, with comma",cs\n'
        f"302,L.A.,0,{flags},1997.0,,en\n",
    )
    put_image(tmp_path, "posters/242.jpg")
    put(tmp_path, "posters/readme.txt", "no poster")
    raw = read(tmp_path, MovieLensReaderConfig())
    assert rows(raw.items, "item_id", "title", "description", "language", "topics", "row") == [
        ("242", "Kolya, a film", "A plot, with comma", "cs", ["Adventure"], 1),
        ("302", "L.A.", None, "en", ["Adventure"], 2),
    ]
    assert rows(raw.interactions, "user_id", "item_id", "timestamp", "rating") == [
        ("196", "242", 881250949000, 3.0),
        ("186", "302", 891717742000, 1.0),
    ]
    assert [(cover.item_id, cover.path) for cover in raw.covers] == [("242", "posters/242.jpg")]
    assert raw.counts == {"cover_files_ignored": 1}
    assert rows(raw.quarantine.frame(), "file", "row", "reason") == [
        ("u.data", 3, "wrong_field_count")
    ]


@pytest.mark.parametrize("encoding", ["latin-1", "utf-8", "utf-8-sig"])
def test_movielens_as_released(tmp_path, encoding):
    put(tmp_path, "u.data", "1\t1\t5\t881250949\n")
    line = "1|Les Misérables|01-Jan-1995||http://x|1|" + "|".join(["1"] + ["0"] * 17)
    put(tmp_path, "u.item", line.encode(encoding))
    raw = read(tmp_path, MovieLensReaderConfig())
    assert rows(raw.items, "item_id", "title", "description", "topics") == [
        ("1", "Les Misérables", None, ["Action"])
    ]
    assert raw.covers_root is None


NINEREC_ITEMS = '7,中文，标题,"An English, ""quoted"" title"\n12,二,Two\n'


def test_ninerec_reference_layout(tmp_path):
    put(tmp_path, "X_item.csv", NINEREC_ITEMS)
    put(tmp_path, "sequential_data.txt", "0 7 12 7 \n1 12 7\n")
    raw = read(tmp_path, NineRecReaderConfig(title_language="en"))
    assert rows(raw.items, "item_id", "title", "language") == [
        ("7", 'An English, "quoted" title', "en"),
        ("12", "Two", "en"),
    ]
    assert rows(raw.interactions, "user_id", "item_id", "order", "row") == [
        ("0", "7", 0, 1),
        ("0", "12", 1, 1),
        ("0", "7", 2, 1),
        ("1", "12", 3, 2),
        ("1", "7", 4, 2),
    ]
    assert raw.interactions["timestamp"].null_count() == 5


@pytest.mark.parametrize("header", ["", "user_id,item_id,timestamp\n"])
def test_ninerec_release_layout_with_times(tmp_path, header):
    put(tmp_path, "X_item.csv", NINEREC_ITEMS)
    put(tmp_path, "X_pair.csv", header + "u1,7,1600000000\nu1,12,1600000001000\n")
    put(tmp_path, "X_behaviour.tsv", "u1\t12 7\n")
    put(tmp_path, "X_url.csv", "7,http://x\n")
    put_image(tmp_path, "X_cover/7.jpg")
    raw = read(tmp_path, NineRecReaderConfig())
    assert raw.items["title"].to_list() == ["中文，标题", "二"]
    assert rows(raw.interactions, "item_id", "timestamp", "row") == [
        ("7", 1600000000000, 1),
        ("12", 1600000001000, 2),
    ]
    assert [cover.path for cover in raw.covers] == ["X_cover/7.jpg"]


def test_ninerec_release_layout_with_order_only(tmp_path):
    put(tmp_path, "X_item.csv", NINEREC_ITEMS)
    put(tmp_path, "X_behaviour.tsv", "u1\t12 7\n")
    raw = read(tmp_path, NineRecReaderConfig())
    assert raw.interactions["item_id"].to_list() == ["12", "7"]
    assert raw.n_rows == {"X_item.csv": 2, "X_behaviour.tsv": 2}


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ([], r"no file of items: looked for \*_item.csv, found nothing"),
        (
            ["X_item.csv"],
            r"no file of interactions: looked for \*_pair.csv .*sequential_data.txt, found X_i",
        ),
        (
            ["X_item.csv", "Y_item.csv"],
            "several files that may be the file of items: X_item.csv, Y",
        ),
    ],
)
def test_missing_or_ambiguous_files_are_named(tmp_path, files, message):
    for name in files:
        put(tmp_path, name, NINEREC_ITEMS)
    with pytest.raises(DataError, match=message):
        read(tmp_path, NineRecReaderConfig())


def test_hidden_files_are_not_looked_at(tmp_path):
    put(tmp_path, "X_item.csv", NINEREC_ITEMS)
    put(tmp_path, "X_behaviour.tsv", "u1\t12 7\n")
    put_image(tmp_path, "X_cover/7.jpg")
    # What an archive made by a Mac holds beside them.
    for name in ("._X_item.csv", "._X_behaviour.tsv", "._X_cover", "X_cover/._7.jpg"):
        put(tmp_path, name, "Mac OS X")
    raw = read(tmp_path, NineRecReaderConfig())
    assert raw.items["item_id"].to_list() == ["7", "12"]
    assert [(cover.item_id, cover.path) for cover in raw.covers] == [("7", "X_cover/7.jpg")]
    assert raw.counts == {"cover_files_ignored": 0}
    (tmp_path / "X_item.csv").unlink()
    with pytest.raises(DataError, match=r"no file of items: .*, found X_behaviour.tsv, X_cover$"):
        read(tmp_path, NineRecReaderConfig())


@pytest.mark.parametrize("name", ["X_pairs.csv", "X_pairs.tsv"])
def test_microlens(tmp_path, name):
    put(tmp_path, "X_titles.csv", 'item,title\n1,"One, two"\n2,Two\n')
    put(tmp_path, "X_pairs.csv", "user,item,timestamp\n9,2,1583378629552\n9,1,1583378629553\n")
    put(tmp_path, "X_pairs.tsv", "9\t2 1\n")
    for other in {"X_pairs.csv", "X_pairs.tsv"} - {name}:
        (tmp_path / other).unlink()
    put_image(tmp_path, "X_covers/2.jpg")
    put(tmp_path, "X_videos/2.mp4", "not read")
    raw = read(tmp_path, MicroLensReaderConfig())
    assert rows(raw.items, "item_id", "title") == [("1", "One, two"), ("2", "Two")]
    assert rows(raw.interactions, "user_id", "item_id") == [("9", "2"), ("9", "1")]
    has_times = raw.interactions["timestamp"].null_count() == 0
    assert has_times == name.endswith("csv")
    assert [cover.item_id for cover in raw.covers] == ["2"]


def test_headers_in_another_order_are_read_by_their_names(tmp_path):
    put(tmp_path, "X_item.csv", "item_id,en,zh\n7,One,一\n")
    put(tmp_path, "X_pair.csv", "item,user,timestamp\n7,u1,1600000000\n")
    raw = read(tmp_path, NineRecReaderConfig(title_language="en"))
    assert rows(raw.items, "item_id", "title") == [("7", "One")]
    assert rows(raw.interactions, "user_id", "item_id") == [("u1", "7")]


def test_microlens_header_with_videos_is_no_item(tmp_path):
    put(tmp_path, "ML_titles.csv", "video_id,title\n1,One\n")
    put(tmp_path, "ML_pairs.csv", "video_id,user_id,time\n1,9,1583378629552\n")
    raw = read(tmp_path, MicroLensReaderConfig())
    assert raw.items["item_id"].to_list() == ["1"]
    assert rows(raw.interactions, "user_id", "item_id") == [("9", "1")]


RECORDS = [
    {"id": "1", "name": "One, two", "plot": "p", "lang": "en", "tags": "a|b", "pic": "one.png"},
    {"id": "2", "name": "Tab\tand | bar", "plot": "", "lang": "", "tags": "", "pic": ""},
]
LOG = [
    {"u": "x", "i": "1", "t": "2021-01-01T00:00:00Z", "stars": "4.5"},
    {"u": "x", "i": "2", "t": "1609459201", "stars": "3"},
]
MAPPING = {
    "item_id": "id",
    "title": "name",
    "description": "plot",
    "language": "lang",
    "topics": "tags",
    "interaction_user": "u",
    "interaction_item": "i",
    "timestamp": "t",
    "rating": "stars",
}


def write_table(path, records):
    frame = pl.DataFrame(records)
    if path.suffix == ".csv":
        frame.write_csv(path)
    elif path.suffix == ".tsv":
        frame.write_csv(path, separator="\t")
    elif path.suffix == ".jsonl":
        path.write_text("".join(json.dumps(record) + "\n" for record in records))
    else:
        frame.write_parquet(path)


@pytest.mark.parametrize("suffix", [".csv", ".tsv", ".jsonl", ".parquet"])
def test_tables_of_every_kind_say_the_same(tmp_path, suffix):
    write_table(tmp_path / f"videos{suffix}", RECORDS)
    write_table(tmp_path / f"log{suffix}", LOG)
    put_image(tmp_path, "pictures/1.png")
    reader = TablesReaderConfig(
        items=f"videos{suffix}", interactions=f"log{suffix}", covers="pictures", **MAPPING
    )
    raw = read(tmp_path, reader)
    assert rows(raw.items, "item_id", "title", "description", "language", "topics", "row") == [
        ("1", "One, two", "p", "en", ["a", "b"], 1),
        ("2", "Tab\tand | bar", None, None, [], 2),
    ]
    assert rows(raw.interactions, "item_id", "timestamp", "rating") == [
        ("1", 1609459200000, 4.5),
        ("2", 1609459201000, 3.0),
    ]
    assert [(cover.item_id, cover.path) for cover in raw.covers] == [("1", "pictures/1.png")]
    assert raw.quarantine.frame().height == 0


@pytest.mark.parametrize("place", ["table.parquet", "link/videos.csv"])
def test_tables_behind_a_link_to_a_hidden_folder_are_refused(tmp_path, place):
    put_parquet(tmp_path / ".raw/table.parquet/part-0", id=["1"], name=["A"])
    write_table(tmp_path / ".raw" / "videos.csv", RECORDS)
    (tmp_path / "table.parquet").symlink_to(".raw/table.parquet")
    (tmp_path / "link").symlink_to(".raw")
    write_table(tmp_path / "log.csv", LOG)
    reader = TablesReaderConfig(items=place, interactions="log.csv", **MAPPING)
    message = f"ingest.reader.items: '{place}' leads into the hidden folder '.raw.*rename '.raw'"
    with pytest.raises(DataError, match=message):
        read(tmp_path, reader)


def test_a_link_to_a_hidden_file_is_the_file(tmp_path):
    (tmp_path / ".raw").mkdir()
    write_table(tmp_path / ".raw" / "videos.csv", RECORDS)
    (tmp_path / "videos.csv").symlink_to(".raw/videos.csv")
    write_table(tmp_path / "log.csv", LOG)
    reader = TablesReaderConfig(items="videos.csv", interactions="log.csv", **MAPPING)
    assert read(tmp_path, reader).items.height == len(RECORDS)


def test_topics_are_stripped_and_empty_ones_dropped(tmp_path):
    topics = ["a| |b", "  ", " x | ", "||", ""]
    records = [RECORDS[0] | {"id": str(row), "tags": text} for row, text in enumerate(topics)]
    write_table(tmp_path / "videos.csv", records)
    write_table(tmp_path / "log.csv", LOG)
    reader = TablesReaderConfig(items="videos.csv", interactions="log.csv", **MAPPING)
    raw = read(tmp_path, reader)
    assert raw.items["topics"].to_list() == [["a", "b"], [], ["x"], [], []]


@pytest.mark.parametrize("place", [".raw/videos.csv", ".videos.csv", "a/.b/../../.raw/videos.csv"])
def test_hidden_tables_are_refused(tmp_path, place):
    (tmp_path / ".raw").mkdir()
    write_table(tmp_path / ".raw" / "videos.csv", RECORDS)
    write_table(tmp_path / "log.csv", LOG)
    reader = TablesReaderConfig(items=place, interactions="log.csv", **MAPPING)
    with pytest.raises(DataError, match=r"ingest.reader.items: .* is hidden"):
        read(tmp_path, reader)


def test_items_without_titles(tmp_path):
    write_table(tmp_path / "videos.csv", [{"id": "1"}, {"id": "2"}])
    write_table(tmp_path / "log.csv", LOG)
    of_titles = ("title", "description", "language", "topics")
    mapping = MAPPING | dict.fromkeys(of_titles)
    reader = TablesReaderConfig(items="videos.csv", interactions="log.csv", **mapping)
    assert rows(read(tmp_path, reader).items, "item_id", "title") == [("1", None), ("2", None)]


def test_tables_without_quoting(tmp_path):
    put(tmp_path, "i.tsv", 'item_id\ttitle\n7\t"Unclosed\n8\tmid\n9\t"\n10\t"both"\n')
    put(tmp_path, "l.csv", 'user_id,item_id,timestamp\n"u,7,1\nu",8,2\n')
    reader = TablesReaderConfig(items="i.tsv", interactions="l.csv", quotes=False)
    raw = read(tmp_path, reader)
    assert rows(raw.items, "item_id", "title") == [
        ("7", '"Unclosed'),
        ("8", "mid"),
        ("9", '"'),
        ("10", '"both"'),
    ]
    assert raw.interactions["user_id"].to_list() == ['"u', 'u"']
    assert raw.quarantine.frame().height == 0


@pytest.mark.parametrize("has_quotes", [False, True])
def test_without_quoting_a_backslash_and_n_is_null(tmp_path, has_quotes):
    put(tmp_path, "i.tsv", "id\tname\tpic\n7\t\\N\t\\N\n8\t\\\\N\t\n\\N\tx\t\n9\tNULL\t\n")
    put(tmp_path, "l.csv", "u,i,t\n\\N,7,1\nu,\\N,2\nu,7,\\N\nNone,8,3\n")
    reader = TablesReaderConfig(
        items="i.tsv", interactions="l.csv", image="pic", quotes=has_quotes,
        item_id="id", title="name", interaction_user="u", interaction_item="i", timestamp="t",
    )  # fmt: skip
    raw = read(tmp_path, reader)
    refused = [(row["row"], row["reason"]) for row in raw.quarantine.frame().to_dicts()]
    if has_quotes:
        assert rows(raw.items, "item_id", "title")[0] == ("7", "\\N")
        assert refused == [(3, "bad_timestamp")]
        return
    assert rows(raw.items, "item_id", "title") == [("7", None), ("8", "\\\\N"), ("9", "NULL")]
    assert rows(raw.interactions, "user_id", "item_id") == [("None", "8")]
    assert refused == [(1, "empty_id"), (2, "empty_id"), (3, "bad_timestamp"), (3, "empty_id")]
    assert raw.covers == []


def test_covers_named_in_a_column(tmp_path):
    write_table(tmp_path / "videos.csv", RECORDS)
    write_table(tmp_path / "log.csv", LOG)
    put_image(tmp_path, "pictures/one.png")
    reader = TablesReaderConfig(
        items="videos.csv", interactions="log.csv", covers="pictures", image="pic", **MAPPING
    )
    raw = read(tmp_path, reader)
    assert [(cover.item_id, cover.path) for cover in raw.covers] == [("1", "pictures/one.png")]
    assert raw.covers_root == tmp_path / "pictures"


COMPOSED, DECOMPOSED = (unicodedata.normalize(form, "é") for form in ("NFC", "NFD"))


@pytest.mark.parametrize(
    ("in_items", "elsewhere"), [(COMPOSED, DECOMPOSED), (DECOMPOSED, COMPOSED)]
)
@pytest.mark.parametrize("suffix", [".csv", ".jsonl", ".parquet"])
def test_ids_meet_in_every_form_of_unicode(tmp_path, suffix, in_items, elsewhere):
    records = [{**RECORDS[0], "id": in_items}, {**RECORDS[1], "id": "2"}]
    write_table(tmp_path / f"videos{suffix}", records)
    write_table(tmp_path / f"log{suffix}", [{**LOG[0], "u": elsewhere, "i": elsewhere}])
    put_image(tmp_path, f"pictures/{elsewhere}.png")
    put_image(tmp_path, f"pictures/{in_items}.jpg")
    reader = TablesReaderConfig(
        items=f"videos{suffix}", interactions=f"log{suffix}", covers="pictures", **MAPPING
    )
    raw = read(tmp_path, reader)
    assert raw.items["item_id"].to_list() == [COMPOSED, "2"]
    assert rows(raw.interactions, "user_id", "item_id") == [(COMPOSED, COMPOSED)]
    # The first by name as it is on disk, and what opens it is that name.
    first = (
        f"pictures/{DECOMPOSED}.png" if elsewhere == DECOMPOSED else f"pictures/{DECOMPOSED}.jpg"
    )
    assert [(cover.item_id, cover.path) for cover in raw.covers] == [(COMPOSED, first)]
    assert rows(raw.quarantine.frame(), "key", "reason") == [(COMPOSED, "duplicate_cover")]


def test_sequences_of_a_user_in_two_forms_are_those_of_one(tmp_path):
    put(tmp_path, "X_item.csv", f"{COMPOSED},一,One\n12,二,Two\n")
    lines = f"u{DECOMPOSED}\t12 {DECOMPOSED}\nu{COMPOSED}\t12\n"
    put(tmp_path, "X_behaviour.tsv", lines)
    raw = read(tmp_path, NineRecReaderConfig())
    user = f"u{COMPOSED}"
    assert rows(raw.interactions, "user_id", "item_id") == [(user, "12"), (user, COMPOSED)]
    assert rows(raw.quarantine.frame(), "row", "reason") == [(2, "duplicate_id")]


@pytest.mark.parametrize("covers", [f"p{COMPOSED}", None])
def test_named_covers_are_found_in_every_form_of_unicode(tmp_path, covers):
    on_disk = [f"p{COMPOSED}/{DECOMPOSED}.png", f"p{COMPOSED}/{COMPOSED}.jpg"]
    for name in on_disk:
        put_image(tmp_path, name)
    named = [f"{COMPOSED}.png", f"{COMPOSED}.jpg", f"{COMPOSED}.gif", f"../{COMPOSED}.png"]
    if covers is None:
        named = [f"p{DECOMPOSED}/{name}" for name in named]
    records = [{**RECORDS[0], "id": str(row), "pic": name} for row, name in enumerate(named)]
    write_table(tmp_path / "videos.csv", records)
    write_table(tmp_path / "log.csv", LOG)
    reader = TablesReaderConfig(
        items="videos.csv", interactions="log.csv", covers=covers, image="pic", **MAPPING
    )
    found = [cover.path for cover in read(tmp_path, reader).covers]
    assert found[:2] == on_disk
    # What is not there keeps the name that the table gives it.
    prefix = "" if covers is None else f"{covers}/"
    assert found[2:] == [prefix + name for name in named[2:]]


def test_parquet_types_become_the_same_strings(tmp_path):
    pl.DataFrame(
        {"item_id": [1.0, 2.0, None], "title": ["a", "b", "c"], "topics": [["x", "y"], [], None]}
    ).write_parquet(tmp_path / "i.parquet")
    moments = [datetime(2021, 1, 1, tzinfo=UTC), datetime(2021, 1, 1, 0, 0, 1, tzinfo=UTC)]
    pl.DataFrame(
        {"user_id": [7, 7], "item_id": pl.Series([1, 2], dtype=pl.UInt8), "timestamp": moments}
    ).write_parquet(tmp_path / "l.parquet")
    raw = read(
        tmp_path, TablesReaderConfig(items="i.parquet", interactions="l.parquet", topics="topics")
    )
    assert rows(raw.items, "item_id", "topics") == [("1", ["x", "y"]), ("2", [])]
    assert rows(raw.interactions, "user_id", "item_id", "timestamp") == [
        ("7", "1", 1609459200000),
        ("7", "2", 1609459201000),
    ]
    assert rows(raw.quarantine.frame(), "row", "reason") == [(3, "empty_id")]


def test_lists_of_a_fixed_size_are_lists(tmp_path):
    topics = pl.Series([["x", "y"], ["z", None]], dtype=pl.Array(pl.String, 2))
    pl.DataFrame({"item_id": ["a", "b"], "topics": topics}).write_parquet(tmp_path / "i.parquet")
    pl.DataFrame({"user_id": ["u"], "item_id": ["a"]}).write_parquet(tmp_path / "l.parquet")
    config = TablesReaderConfig(
        items="i.parquet", interactions="l.parquet", topics="topics", title=None, timestamp=None
    )
    assert rows(read(tmp_path, config).items, "item_id", "topics") == [
        ("a", ["x", "y"]),
        ("b", ["z"]),
    ]


@pytest.mark.parametrize(
    ("dtype", "topics"),
    [
        (pl.List(pl.Float64), [[1.0, 2.5], [1e-5, 3e-7], [float("nan"), None], [1e20], [], None]),
        (pl.Array(pl.Float64, 2), [[1.0, 2.5], [7.0, float("nan")]]),
        (pl.List(pl.List(pl.Float64)), [[[1.0], [2.0, 0.5]], [[]]]),
        (pl.List(pl.Int8), [[1, 2]]),
    ],
)
def test_numbers_in_lists_have_one_name_in_parquet_and_json(tmp_path, dtype, topics):
    ids = [f"i{row}" for row in range(len(topics))]
    table = pl.DataFrame({"item_id": ids, "topics": pl.Series(topics, dtype=dtype)})
    table.write_parquet(tmp_path / "i.parquet")
    # As Python writes JSON, with NaN and all places of small numbers.
    lines = [json.dumps({"item_id": i, "topics": t}) for i, t in zip(ids, topics, strict=True)]
    put(tmp_path, "i.jsonl", "\n".join(lines))
    put(tmp_path, "l.csv", "user_id,item_id\nu,i0\n")
    found = [
        read(
            tmp_path,
            TablesReaderConfig(
                items=name, interactions="l.csv", topics="topics", title=None, timestamp=None
            ),
        )
        .items["topics"]
        .to_list()
        for name in ("i.parquet", "i.jsonl")
    ]
    assert found[0] == found[1]
    assert found[0][0][:2] in (["1", "2.5"], ["1", "2"])


def test_columns_in_names_of_folders_may_begin_with_an_underscore(tmp_path):
    parts = ["_day=1/_SUCCESS", "_day=1/part-0", "_day=2/_x=1/part-0.parquet"]
    parts += ["_temporary/_day=3/part-0.parquet", "_part-0.parquet"]
    for name in parts:
        put(tmp_path, f"log.parquet/{name}", b"")
        pl.DataFrame({"user_id": [name], "item_id": ["7"]}).write_parquet(
            tmp_path / "log.parquet" / name
        )
    raw = read_log(tmp_path, rating="_day")
    assert rows(raw.interactions, "user_id", "rating") == [
        ("_day=1/part-0", 1.0),
        ("_day=2/_x=1/part-0.parquet", 2.0),
    ]


@pytest.mark.parametrize(
    "parts",
    [
        ("part-0.snappy.parquet", "part-1.snappy.parquet"),
        ("part-0", "part-1"),
        ("stars=4/part-0.parquet", "stars=5/part-0.parquet"),
    ],
)
def test_a_table_may_be_a_folder_of_parquet_files(tmp_path, parts):
    write_table(tmp_path / "videos.csv", RECORDS)
    folder = tmp_path / "log.parquet"
    for part, record in zip(parts, LOG, strict=True):
        (folder / part).parent.mkdir(parents=True, exist_ok=True)
        pl.DataFrame({name: record[name] for name in "uit"}).write_parquet(folder / part)
    # What Spark writes beside them, by way of Hadoop.
    for name in ("_SUCCESS", "._SUCCESS.crc", f".{parts[0].replace('/', '-')}.crc"):
        put(folder, name, b"crc\0")
    put(folder, "_delta_log/00000.checkpoint.parquet", b"no part of the table")
    rating = "stars" if "=" in parts[0] else None
    reader = TablesReaderConfig(
        items="videos.csv", interactions="log.parquet", **MAPPING | {"rating": rating}
    )
    raw = read(tmp_path, reader)
    assert rows(raw.interactions, "user_id", "item_id", "rating") == [
        ("x", "1", rating and 4.0),
        ("x", "2", rating and 5.0),
    ]
    assert raw.n_rows["log.parquet"] == 2


def read_log(tmp_path, place="log.parquet", **mapping):
    """Read a log that lies in a folder, as interactions of three items."""
    write_table(tmp_path / "videos.csv", [{"id": item} for item in ("1", "007", "7")])
    reader = TablesReaderConfig(
        items="videos.csv",
        interactions=place,
        **{"item_id": "id", "title": None, "timestamp": None, **mapping},
    )
    return read(tmp_path, reader)


def put_parquet(path, **columns):
    path.parent.mkdir(parents=True, exist_ok=True)
    pl.DataFrame(columns).write_parquet(path)


def test_names_of_folders_above_a_table_are_no_columns_of_it(tmp_path):
    place = "user_id=9/day=2024-03-01/log.parquet"
    put_parquet(tmp_path / place / "part-0", user_id=["a", "b"], item_id=["1", "7"], day=["1", "2"])
    raw = read_log(tmp_path, place, timestamp="day")
    assert rows(raw.interactions, "user_id", "timestamp") == [("a", 1000), ("b", 2000)]


def test_a_column_of_a_file_counts_and_not_the_name_of_its_folder(tmp_path):
    put_parquet(tmp_path / "log.parquet/user_id=x/part-0", user_id=["a", "b"], item_id=["1", "7"])
    assert read_log(tmp_path).interactions["user_id"].to_list() == ["a", "b"]


def test_names_of_folders_are_text_as_it_is_written(tmp_path):
    users = ["007", "1e3", "1000", "2024-1-6", "a%2Fb%3Dc", "__HIVE_DEFAULT_PARTITION__"]
    for user in users:
        put_parquet(tmp_path / f"log.parquet/user_id={user}/item_id=007/part-0", n=[0, 1])
    raw = read_log(tmp_path)
    found = sorted(raw.interactions["user_id"].to_list())
    assert found == sorted(["007", "1e3", "1000", "2024-1-6", "a/b=c"] * 2)
    assert set(raw.interactions["item_id"]) == {"007"}
    assert rows(raw.quarantine.frame(), "reason") == [("empty_id",)] * 2


def test_files_of_a_folder_may_differ_in_types_and_in_what_is_not_read(tmp_path):
    folder = tmp_path / "log.parquet"
    put_parquet(folder / "part-0", user_id=["a"], item_id=[7], extra=[1.5])
    put_parquet(folder / "part-1", item_id=["007"], user_id=["b"])
    put_parquet(folder / "part-2", user_id=["c"], item_id=pl.Series([1.0]))
    decimals = pl.Series(["1.00", "7.00"]).cast(pl.Decimal(10, 2))
    put_parquet(folder / "day=1/part-3", user_id=["d", "e"], item_id=decimals)
    found = rows(read_log(tmp_path).interactions, "user_id", "item_id")
    assert sorted(found) == [("a", "7"), ("b", "007"), ("c", "1"), ("d", "1"), ("e", "7")]


@pytest.mark.parametrize(
    ("name", "target", "what"), [("day=2", "old/day=2", "a folder"), ("part-1", "old/x", "nothing")]
)
def test_a_link_among_the_parts_leads_to_a_file(tmp_path, name, target, what):
    put_parquet(tmp_path / "old/day=2/part-0", user_id=["b"], item_id=["7"])
    put_parquet(tmp_path / "log.parquet/day=1/part-0", user_id=["a"], item_id=["1"])
    (tmp_path / "log.parquet/part-9").symlink_to(tmp_path / "old/day=2/part-0")
    (tmp_path / "log.parquet/_delta_log").symlink_to(tmp_path / "old")
    assert read_log(tmp_path).interactions["user_id"].to_list() == ["a", "b"]
    (tmp_path / "log.parquet" / name).symlink_to(tmp_path / target)
    with pytest.raises(DataError, match=f"log.parquet/{name} is a link to {what}"):
        read_log(tmp_path)


def test_the_file_of_a_folder_that_lacks_a_column_is_named(tmp_path):
    put_parquet(tmp_path / "log.parquet/day=1/part-0", user_id=["a"], item_id=["1"])
    put_parquet(tmp_path / "log.parquet/day=2/part-1", user_id=["a"], item=["1"])
    message = r"part-1 has no column \['item_id'\]; it has \['user_id', 'item', 'day'\]"
    with pytest.raises(DataError, match=message):
        read_log(tmp_path)


@pytest.mark.parametrize("place", ["log.parquet", "./log.parquet"])
def test_a_refused_row_of_a_folder_is_named_by_its_file(tmp_path, place):
    put_parquet(tmp_path / "log.parquet/day=1/part-0", user_id=["a", "b", "c"], item_id=["1"] * 3)
    put_parquet(tmp_path / "log.parquet/day=2/part-0", user_id=["a", None], item_id=["1", "7"])
    raw = read_log(tmp_path, place)
    part = f"{place}/day=2/part-0"
    assert rows(raw.quarantine.frame(), "file", "row", "reason") == [(part, 2, "empty_id")]
    assert rows(raw.interactions, "file", "row")[2:] == [(f"{place}/day=1/part-0", 3), (part, 1)]
    assert raw.interactions["order"].to_list() == [0, 1, 2, 3]
    assert raw.n_rows[place] == 5
    check_bad_share(raw.quarantine, raw.n_rows, 0.2, "max")
    with pytest.raises(DataError, match=rf"1 of 5 rows of {place} .*{part} row 2: empty_id"):
        check_bad_share(raw.quarantine, raw.n_rows, 0.1, "max")


def test_decimals_keep_what_their_scale_adds_nothing_to(tmp_path):
    numbers = pl.Series(["12.00", "12.50", "12.05", "100.00"]).cast(pl.Decimal(10, 2))
    whole = pl.Series(["100", "0", "7", "1"]).cast(pl.Decimal(10, 0))
    schema = {"a": numbers.dtype, "b": whole.dtype}
    frame = pl.DataFrame({"a": numbers, "b": whole}).select(as_text(name, schema) for name in "ab")
    assert frame["a"].to_list() == ["12", "12.5", "12.05", "100"]
    assert frame["b"].to_list() == ["100", "0", "7", "1"]


@pytest.mark.parametrize(("factor", "unit"), [(1_000_000, "micro"), (1_000_000_000, "nano")])
def test_times_in_finer_units_are_refused_by_their_name(tmp_path, factor, unit):
    write_table(tmp_path / "videos.csv", RECORDS)
    times = [{**record, "t": 1_700_000_000 * factor} for record in LOG]
    write_table(tmp_path / "log.csv", times)
    reader = TablesReaderConfig(items="videos.csv", interactions="log.csv", **MAPPING)
    with pytest.raises(DataError, match=rf"column 't' look like {unit}seconds, e\.g\. 17000"):
        read(tmp_path, reader)


@pytest.mark.parametrize("odd", ["9223372036854775807", "20210304101112123", "1e300"])
def test_an_odd_number_among_times_is_refused_by_itself(tmp_path, odd):
    write_table(tmp_path / "videos.csv", RECORDS)
    times = [{**LOG[0], "t": "2021-03-04T00:00:00"}, {**LOG[1], "t": odd}]
    write_table(tmp_path / "log.csv", times)
    raw = read(tmp_path, TablesReaderConfig(items="videos.csv", interactions="log.csv", **MAPPING))
    assert raw.interactions.height == 1
    assert rows(raw.quarantine.frame(), "row", "reason") == [(2, "bad_timestamp")]


def test_a_folder_without_parquet_files_is_named(tmp_path):
    write_table(tmp_path / "videos.csv", RECORDS)
    put(tmp_path, "log.parquet/_SUCCESS", "")
    reader = TablesReaderConfig(items="videos.csv", interactions="log.parquet", **MAPPING)
    with pytest.raises(DataError, match=r"the folder log.parquet holds no Parquet file"):
        read(tmp_path, reader)


def test_ids_that_are_no_number_are_empty(tmp_path):
    nothing = float("nan")
    pl.DataFrame({"item_id": [1.0, nothing], "title": [nothing, 2.5]}).write_parquet(
        tmp_path / "i.parquet"
    )
    put(
        tmp_path,
        "l.jsonl",
        '{"user_id": "u", "item_id": 1, "timestamp": 1}\n'
        '{"user_id": NaN, "item_id": 1, "timestamp": 1}\n',
    )
    raw = read(tmp_path, TablesReaderConfig(items="i.parquet", interactions="l.jsonl"))
    assert rows(raw.items, "item_id", "title") == [("1", None)]
    assert rows(raw.interactions, "user_id", "item_id") == [("u", "1")]
    assert rows(raw.quarantine.frame(), "file", "row", "reason") == [
        ("l.jsonl", 2, "empty_id"),
        ("i.parquet", 2, "empty_id"),
    ]


def test_bad_json_lines_are_refused_one_by_one(tmp_path):
    lines = [b'{"item_id": 5, "title": "A"}', b"{broken", b"", b"[1]", b'{"item_id": "\xff"}']
    lines += [b'{"item_id": "a\\u0000", "title": "B"}', b'{"item_id": "6"}']
    put(tmp_path, "i.jsonl", b"\n".join(lines))
    put(tmp_path, "l.csv", "user_id,item_id,timestamp\nu,5,1\n")
    raw = read(tmp_path, TablesReaderConfig(items="i.jsonl", interactions="l.csv"))
    assert rows(raw.items, "item_id", "title", "row") == [("5", "A", 1), ("6", None, 6)]
    assert rows(raw.quarantine.frame(), "row", "reason") == [
        (2, "invalid_json"),
        (3, "invalid_json"),
        (4, "invalid_utf8"),
        (5, "null_byte"),
    ]


def read_json_items(tmp_path, *lines):
    put(tmp_path, "i.jsonl", "".join(line + "\n" for line in lines))
    put(tmp_path, "l.csv", "user_id,item_id,timestamp\nu,5,1\n")
    return read(
        tmp_path, TablesReaderConfig(items="i.jsonl", interactions="l.csv", topics="topics")
    )


def test_json_values_become_the_texts_of_other_formats(tmp_path):
    raw = read_json_items(
        tmp_path,
        '{"item_id": 1.0, "title": "\\ud83d\\ude00", "topics": ["a", null, 2.0]}',
        r'{"item_id": 12345678901234567890, "title": "C:\\u0000dir", "topics": 1.5}',
    )
    assert rows(raw.items, "item_id", "title", "topics") == [
        ("1", "😀", ["a", "2"]),
        ("12345678901234567890", r"C:\u0000dir", ["1.5"]),
    ]
    assert raw.quarantine.frame().height == 0


@pytest.mark.parametrize(
    ("line", "reason", "detail"),
    [
        (r'{"item_id": "1", "title": "V \ud83d"}', "invalid_utf8", "'title' holds half a char"),
        (r'{"item_id": "1", "title": "\\\u0000"}', "null_byte", "null byte"),
        ('{"item_id": true}', "not_a_text", "'item_id' is neither text nor number: true"),
        ('{"item_id": "1", "title": {"en": "x"}}', "not_a_text", r"""'title' .*: {"en": "x"}"""),
        ('{"item_id": "1", "topics": [{"id": 5}]}', "not_a_text", "'topics' is neither"),
    ],
)
def test_json_line_without_texts_is_refused(tmp_path, line, reason, detail):
    raw = read_json_items(tmp_path, '{"item_id": "0", "title": "A", "topics": null}', line)
    assert raw.items["item_id"].to_list() == ["0"]
    refused = raw.quarantine.frame()
    assert rows(refused, "row", "reason") == [(2, reason)]
    assert re.search("line 2: .*" + detail, refused["detail"][0])


def test_file_of_which_no_line_is_json_is_said_to_be_none(tmp_path):
    with pytest.raises(
        DataError, match=r"i.jsonl: none of its 2 lines is a JSON .*line 1: Expecting"
    ):
        read_json_items(tmp_path, "item_id,title", "1,A")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"items": "none.csv"}, r"ingest.reader.items: the data folder .* has no 'none.csv'"),
        ({"items": "../secret.csv"}, r"'../secret.csv' leads out of the data folder"),
        ({"items": "/etc/passwd"}, "leads out of the data folder"),
        ({"covers": "../covers"}, "ingest.reader.covers: .* leads out of the data folder"),
        ({"interactions": "log.xlsx"}, r"'log.xlsx' has an unknown extension; known: .csv, .tsv"),
        ({"item_id": "row"}, "ingest.reader.items: the column 'row' of videos.csv .* rename it"),
        ({"title": "headline"}, r"videos.csv has no column \['headline'\]; it has \['id', 'name'"),
    ],
)
def test_wrong_configuration_is_named(tmp_path, change, message):
    root = tmp_path / "data"
    root.mkdir()
    write_table(root / "videos.csv", RECORDS)
    write_table(root / "log.csv", LOG)
    put(root, "log.xlsx", "x")
    put(tmp_path, "secret.csv", "id,name\n")
    reader = {"items": "videos.csv", "interactions": "log.csv", **MAPPING, **change}
    with pytest.raises(DataError, match=message):
        read(root, TablesReaderConfig(**reader))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"covers": "items.csv"}, "items.csv is a file, and covers are read from a folder"),
        ({"covers": "items.csv", "image": "pic"}, "items.csv is a file, and covers are read"),
        ({"items": "folder.jsonl"}, "folder.jsonl cannot be read: .*[Dd]irectory"),
        ({"items": "folder.csv"}, "folder.csv cannot be read: .*[Dd]irectory"),
    ],
)
def test_file_in_place_of_a_folder_and_the_reverse(tmp_path, change, message):
    put(tmp_path, "items.csv", "item_id,title,pic\n1,A,1.png\n")
    put(tmp_path, "log.csv", "user_id,item_id,timestamp\nu,1,1\n")
    for name in ("folder.jsonl", "folder.csv"):
        (tmp_path / name).mkdir()
    with pytest.raises(DataError, match=message):
        read(
            tmp_path,
            TablesReaderConfig(**{"items": "items.csv", "interactions": "log.csv", **change}),
        )


def test_file_named_like_the_folder_of_covers(tmp_path):
    put(tmp_path, "x_titles.csv", "1,One\n")
    put(tmp_path, "x_pairs.csv", "9,1,1583378629552\n")
    put(tmp_path, "x_covers", "a file")
    with pytest.raises(DataError, match="x_covers is a file, and covers are read from a folder"):
        read(tmp_path, MicroLensReaderConfig())


def test_file_that_is_no_parquet_is_an_error(tmp_path):
    put(tmp_path, "i.parquet", "no parquet")
    put(tmp_path, "l.csv", "user_id,item_id,timestamp\n")
    with pytest.raises(DataError, match="cannot be read as Parquet"):
        read(tmp_path, TablesReaderConfig(items="i.parquet", interactions="l.csv"))


@pytest.mark.parametrize(
    ("titles", "type_"),
    [
        ([{"en": "x"}], "Struct"),
        ([[{"en": "x"}]], "List.Struct"),
        ([True], "Boolean"),
        ([timedelta(1)], "Duration"),
    ],
)
def test_parquet_column_without_texts_is_refused(tmp_path, titles, type_):
    """As in JSON; an object became the title '{"x"}'."""
    pl.DataFrame({"item_id": [1], "title": titles}).write_parquet(tmp_path / "i.parquet")
    put(tmp_path, "l.csv", "user_id,item_id,timestamp\n")
    with pytest.raises(DataError, match=f"the column 'title' has the type {type_}"):
        read(tmp_path, TablesReaderConfig(items="i.parquet", interactions="l.csv"))


def test_linked_file_that_leaves_the_folder_is_refused(tmp_path):
    root = tmp_path / "data"
    root.mkdir()
    put(tmp_path, "X_item.csv", NINEREC_ITEMS)
    (root / "X_item.csv").symlink_to(tmp_path / "X_item.csv")
    with pytest.raises(DataError, match="leads out of the data folder"):
        read(root, NineRecReaderConfig())


def test_second_cover_of_an_item_is_refused(tmp_path):
    put(tmp_path, "X_item.csv", NINEREC_ITEMS)
    put(tmp_path, "sequential_data.txt", "0 7\n")
    put_image(tmp_path, "X_cover/7.jpg")
    put_image(tmp_path, "X_cover/7.png")
    raw = read(tmp_path, NineRecReaderConfig())
    assert [cover.path for cover in raw.covers] == ["X_cover/7.jpg"]
    assert rows(raw.quarantine.frame(), "file", "key", "reason", "detail") == [
        ("X_cover/7.png", "7", "duplicate_cover", "7.jpg is kept")
    ]


def test_names_that_are_no_text_are_read_and_shown_with_escapes(tmp_path):
    name = os.fsdecode(b"\xff")
    put(tmp_path, f"{name}_item.csv", NINEREC_ITEMS + "13\n")
    put(tmp_path, f"{name}_behaviour.tsv", "u1\t12 7\n")
    for cover in ("7.jpg", f"{name}.jpg", f"{name}.png"):
        put_image(tmp_path, f"X_cover/{cover}")
    raw = read(tmp_path, NineRecReaderConfig())
    assert raw.items["file"].unique().to_list() == [r"\xff_item.csv"]
    assert rows(raw.quarantine.frame(), "file", "key", "detail") == [
        (r"X_cover/\xff.png", r"\xff", r"\xff.jpg is kept"),
        (r"\xff_item.csv", None, "line 3: expected 3 fields, found 1"),
    ]
    put(tmp_path, f"{name}{name}_item.csv", NINEREC_ITEMS)
    with pytest.raises(DataError, match=r"several files .*: \\xff_item.csv, \\xff\\xff_item.csv"):
        read(tmp_path, NineRecReaderConfig())


def test_folder_that_does_not_exist(tmp_path):
    with pytest.raises(DataError, match="there is no folder"):
        read(tmp_path / "none", NineRecReaderConfig())


def test_every_kind_of_reader_is_registered():

    kinds = {
        section.model_fields["kind"].default for section in get_args(get_args(ReaderConfig)[0])
    }
    assert kinds == set(READERS.names())
    assert all(callable(READERS.get(kind)) for kind in kinds)
    with pytest.raises(ConfigError, match="known: demo"):
        READERS.get("csv")


def test_parquet_under_a_name_that_is_not_in_utf8_is_named(tmp_path):
    put_parquet(tmp_path / "log.parquet" / "plate" / "part-0", user_id=["u"], item_id=["7"])
    (tmp_path / "log.parquet" / "plate").rename(tmp_path / "log.parquet" / "plat\udce9")
    with pytest.raises(DataError, match=r"plat\\xe9/part-0: the path is not in UTF-8") as found:
        read_log(tmp_path)
    str(found.value).encode()
