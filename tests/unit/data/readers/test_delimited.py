import csv
import io
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sicsrec.data.quarantine import QuarantineLog
from sicsrec.data.readers import delimited
from sicsrec.data.readers.delimited import Dialect, read_delimited
from sicsrec.errors import DataError

CSV = Dialect()


def read(tmp_path, content, dialect=CSV, wanted=("a", "b")):
    path = tmp_path / "file.csv"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    n_rows, quarantine = Counter(), QuarantineLog()
    table = read_delimited(path, "file.csv", dialect, wanted, "item", n_rows, quarantine)
    refused = quarantine.frame().select("row", "reason").rows()
    return table.frame.select(*wanted, "row").rows(), refused, n_rows["file.csv"]


def test_rows_are_counted_from_one_after_the_header(tmp_path):
    rows, refused, n_rows = read(tmp_path, "a,b\n1,2\n3,4\n")
    assert rows == [("1", "2", 1), ("3", "4", 2)]
    assert refused == []
    assert n_rows == 2


def test_commas_quotes_and_line_breaks_inside_quotes(tmp_path):
    rows, refused, _ = read(tmp_path, 'a,b\n1,"x, ""y"""\n2,"two\nlines"\n3,z\n')
    assert rows == [("1", 'x, "y"', 1), ("2", "two\nlines", 2), ("3", "z", 3)]
    assert refused == []


def test_one_bad_row_does_not_stop_the_file(tmp_path):
    content = b"a,b\n1,x\n2\n3,x,y\n4,\xff\xfe\n5,\x00\n6,z\n"
    rows, refused, n_rows = read(tmp_path, content)
    assert [row[0] for row in rows] == ["1", "6"]
    assert [row[2] for row in rows] == [1, 6]
    assert refused == [
        (2, "wrong_field_count"),
        (3, "wrong_field_count"),
        (4, "invalid_utf8"),
        (5, "null_byte"),
    ]
    assert n_rows == 6


def test_quote_that_never_closes_costs_one_row(tmp_path):
    rows, refused, _ = read(tmp_path, 'a,b\n1,x\n2,"open\n3,y\n4,z\n')
    assert [row[0] for row in rows] == ["1", "3", "4"]
    assert refused == [(2, "unclosed_quote")]


def test_quote_that_never_closes_in_the_last_row(tmp_path):
    rows, refused, _ = read(tmp_path, 'a,b\n1,x\n2,"open')
    assert [row[0] for row in rows] == ["1"]
    assert refused == [(2, "unclosed_quote")]


def test_quote_closed_by_a_later_row_gives_the_rows_between_back(tmp_path):
    content = 'a,b\n1,"open\n2,x\n3,"fine"\n4,z\n'
    rows, refused, _ = read(tmp_path, content)
    assert [row[0] for row in rows] == ["2", "3", "4"]
    assert refused == [(1, "unclosed_quote")]


def test_quoted_record_with_another_number_of_fields_is_one_row(tmp_path):
    content = 'a,b\n1,x\n2,"two\n3,lines\nand more",y\n4,"z\nz"\n5,"u\nu",v,w\n6,t\n'
    rows, refused, n_rows = read(tmp_path, content)
    assert rows == [("1", "x", 1), ("4", "z\nz", 3), ("6", "t", 5)]
    assert refused == [(2, "wrong_field_count"), (4, "wrong_field_count")]
    assert n_rows == 5


def test_quoted_record_with_another_number_of_fields_is_shown_by_its_first_line(tmp_path):
    path = tmp_path / "file.csv"
    path.write_text('a,b\n1,x\n2,"two\nlines",y\n')
    quarantine = QuarantineLog()
    read_delimited(path, "file.csv", CSV, ("a", "b"), "item", Counter(), quarantine)
    detail = "line 3: expected 2 fields, found 3 in 2 lines"
    assert quarantine.frame()["detail"].to_list() == [detail]


def test_rows_between_two_stray_quotes_come_back(tmp_path):
    between = [f"{number},x" for number in range(2, 12)]
    content = "\n".join(["a,b", '1,"open', *between, '12,4 inches",x', "13,y", ""])
    rows, refused, n_rows = read(tmp_path, content)
    assert refused == [(1, "unclosed_quote"), (12, "wrong_field_count")]
    assert [row[0] for row in rows] == [str(number) for number in (*range(2, 12), 13)]
    assert n_rows == 13


def test_text_after_a_closing_quote_is_forgiven_within_a_line(tmp_path):
    rows, refused, _ = read(tmp_path, 'a,b\n1,"A" Team\n2,"B" "open\n3,c\n')
    assert [row[:2] for row in rows] == [("1", "A Team"), ("2", 'B "open'), ("3", "c")]
    assert refused == []


def test_unclosed_quote_in_a_long_file(tmp_path):
    lines = [f"{number},x" for number in range(1000)]
    lines[10] = '10,"open'
    rows, refused, n_rows = read(tmp_path, "a,b\n" + "\n".join(lines) + "\n")
    assert n_rows == 1000
    assert refused == [(11, "unclosed_quote")]
    assert [row[2] for row in rows] == [*range(1, 11), *range(12, 1001)]


def test_quoted_text_of_many_lines_stays_one_row(tmp_path):
    text = "\n".join(f"line {number}" for number in range(500))
    rows, refused, n_rows = read(tmp_path, f'a,b\n1,"{text}"\n2,y\n')
    assert [row[:2] for row in rows] == [("1", text), ("2", "y")]
    assert refused == []
    assert n_rows == 2


def test_none_of_many_quoted_lines_becomes_a_row(tmp_path):
    text = "\n".join(f"line {number}, of many" for number in range(500))
    rows, refused, n_rows = read(tmp_path, f'a,b\n1,"{text}"\n2,y\n')
    assert [row[:2] for row in rows] == [("2", "y")]
    assert refused == [(1, "doubtful_quote")]
    assert n_rows == 2


def test_long_field_is_read_and_one_beyond_all_measure_costs_one_row(tmp_path):
    content = "a,b\n1," + "x" * 200_000 + "\n2,y\n3," + "x" * (16 << 20) + "y\n4,z\n"
    rows, refused, _ = read(tmp_path, content)
    assert [(row[0], len(row[1])) for row in rows] == [("1", 200_000), ("2", 1), ("4", 1)]
    assert refused == [(3, "field_too_long")]


def test_limit_of_the_process_stays(tmp_path):
    before = csv.field_size_limit(1234)
    try:
        read(tmp_path, "a,b\n1,x\n")
        assert csv.field_size_limit() == 1234
    finally:
        csv.field_size_limit(before)


def test_a_file_is_put_together_from_chunks_of_rows(tmp_path, monkeypatch):
    content = "a,b\n" + "".join(f"{n},x\n" if n != 4 else "4\n" for n in range(10))
    whole = read(tmp_path, content)
    monkeypatch.setattr(delimited, "_ROWS_PER_CHUNK", 3)
    assert read(tmp_path, content) == whole
    assert [row[0] for row in whole[0]] == [str(n) for n in range(10) if n != 4]


def test_blank_lines_are_no_rows(tmp_path):
    rows, refused, n_rows = read(tmp_path, "a,b\r\n1,x\r\n\r\n2,y\r\n\r\n")
    assert [(row[0], row[2]) for row in rows] == [("1", 1), ("2", 2)]
    assert refused == []
    assert n_rows == 2


def test_byte_order_mark_is_no_part_of_the_first_name(tmp_path):
    assert read(tmp_path, "\ufeffa,b\n1,2\n")[0] == [("1", "2", 1)]


def test_file_without_header(tmp_path):
    words = {"a": frozenset({"id", "item_id"}), "b": frozenset({"title"})}
    dialect = Dialect(columns=("a", "b"), header_words=words)
    assert read(tmp_path, "7,x\n8,y\n", dialect)[0] == [("7", "x", 1), ("8", "y", 2)]
    assert read(tmp_path, "id,title\n8,y\n", dialect)[0] == [("8", "y", 1)]
    assert read(tmp_path, " ID,headline\n8,y\n", dialect)[0] == [("8", "y", 1)]
    assert read(tmp_path, "Title,id\ny,8\n", dialect)[0] == [("8", "y", 1)]


def test_a_header_may_name_the_id_in_a_way_nobody_foresaw(tmp_path):
    words = {"a": frozenset({"id"}), "b": frozenset({"title"}), "c": frozenset({"english"})}
    dialect = Dialect(columns=("a", "b"), header_words=words)
    assert read(tmp_path, "Video ID,Title\n8,y\n", dialect)[0] == [("8", "y", 1)]
    three = Dialect(columns=("a", "b", "c"), header_words=words)
    assert read(tmp_path, "nr,title,english\n8,y,z\n", three)[0] == [("8", "y", 1)]
    # An item may be called "title".
    for row in ("17,A title", "x,title", "17,title"):
        assert read(tmp_path, f"{row}\n", dialect)[0] == [(*row.split(","), 1)]


@pytest.mark.parametrize("header", ["title,number", "id,item_id", "title,title"])
def test_header_in_an_order_that_nothing_explains(tmp_path, header):
    words = {"a": frozenset({"id", "item_id"}), "b": frozenset({"title"})}
    dialect = Dialect(columns=("a", "b"), header_words=words)
    with pytest.raises(DataError, match=r"file.csv: the header .* expected order \['a', 'b'\]"):
        read(tmp_path, f"{header}\n8,y\n", dialect)


def test_first_row_of_a_file_without_header_may_be_broken(tmp_path):
    rows, refused, _ = read(tmp_path, "7\n8,y\n", Dialect(columns=("a", "b")))
    assert rows == [("8", "y", 2)]
    assert refused == [(1, "wrong_field_count")]


HEADED = Dialect(columns=("a", "b"), header_words={"a": frozenset("x"), "b": frozenset("y")})


@pytest.mark.parametrize(
    ("dialect", "header"),
    [(CSV, "a, b"), (CSV, '"a",b'), (CSV, "\ufeffa,b"), (HEADED, "x,y"), (HEADED, "y,x")],
)
def test_a_header_between_joined_files_is_no_row(tmp_path, dialect, header):
    content = f"{header}\n1,2\n{header}\n3,4\na,5\n6,b\n"
    rows, refused, n_rows = read(tmp_path, content, dialect)
    data = [("1", "2", 1), ("3", "4", 3), ("a", "5", 4), ("6", "b", 5)]
    is_turned = header == "y,x"
    assert rows == [(b, a, row) if is_turned else (a, b, row) for a, b, row in data]
    assert refused == [(2, "repeated_header")]
    assert n_rows == 5


def test_latin_1(tmp_path):
    dialect = Dialect("|", has_quotes=False, encoding="latin-1", columns=("a", "b"))
    rows, refused, _ = read(tmp_path, 'Misérables|"5\n'.encode("latin-1"), dialect)
    assert rows == [("Misérables", '"5', 1)]
    assert refused == []


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "file.csv is empty"),
        ("a,c\n1,2\n", r"file.csv has no column \['b'\]; it has \['a', 'c'\]"),
        ("a,b,a\n1,2,3\n", r"names a column twice: \['a'\] in \['a', 'b', 'a'\]"),
    ],
)
def test_unusable_file_is_an_error(tmp_path, content, message):
    with pytest.raises(DataError, match=message):
        read(tmp_path, content)


def test_columns_that_nobody_reads_may_have_one_name(tmp_path):
    """Spreadsheets write the empty columns beside a table too."""
    rows, refused, _ = read(tmp_path, "a,c,c,b,,\n1,2,3,4,,\n")
    assert (rows, refused) == ([("1", "4", 1)], [])


def test_header_alone_gives_no_rows(tmp_path):
    assert read(tmp_path, "a,b\n") == ([], [], 0)


@given(
    st.lists(
        st.tuples(
            st.text(st.characters(codec="utf-8", exclude_characters="\0"), min_size=1),
            st.text(st.characters(codec="utf-8", exclude_characters="\0")),
        ),
        max_size=20,
    )
)
def test_what_csv_writes_is_read_back(tmp_path_factory, pairs):
    buffer = io.StringIO()
    csv.writer(buffer).writerows([("a", "b"), *pairs])
    rows, refused, n_rows = read(tmp_path_factory.mktemp("csv"), buffer.getvalue().encode())
    assert [row[:2] for row in rows] == pairs
    assert refused == []
    assert n_rows == len(pairs)


@given(st.lists(st.sampled_from(["1,x", "2", '3,"open', '4,"a""b"', "5,y,z", '6,x"y', "7,\0"])))
def test_no_row_vanishes(tmp_path_factory, lines):
    content = "a,b\n" + "".join(line + "\n" for line in lines)
    rows, refused, n_rows = read(tmp_path_factory.mktemp("csv"), content)
    assert len(rows) + len(refused) == n_rows
    kept = [row[0] for row in rows if "\n" not in row[1]]
    # Only a quote may take following lines along, and only when it closes again.
    if not any("open" in line for line in lines):
        assert n_rows == len(lines)
        assert kept == [line[0] for line in lines if line[0] in "146"]
