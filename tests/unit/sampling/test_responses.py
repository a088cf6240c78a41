import json
import threading

import pytest

from sicsrec.errors import BackendError
from sicsrec.sampling.language_model import Reply
from sicsrec.sampling.responses import ResponseLog

IDENTITY = {"model": "m", "temperature": 0.0}


def open_log(folder, model="m"):
    return ResponseLog(folder, model, IDENTITY)


def fill(folder, *keys):
    log = open_log(folder)
    with log.writing():
        for key in keys:
            log.append(key, Reply(f"reply to {key}", "stop", 10, 2, 0.5))
    return log


def test_replies_are_read_again_word_for_word(tmp_path):
    strange = Reply('{"a": 1}\n\ud800 中 \x00', "length", None, None, 1.25, is_structured=True)
    log = open_log(tmp_path)
    assert log.get("k") is None
    with log.writing():
        log.append("k", strange)
        # A line is there before the log is closed: a killed process has lost nothing.
        assert open_log(tmp_path).get("k") == strange
    assert len(open_log(tmp_path)) == 1
    record = json.loads(log.path.read_text())
    assert record["asked"] == IDENTITY
    assert record["prompt_version"] >= 1


@pytest.mark.parametrize("torn", [b'{"key": "c", "rep', b'{"key": "c", "reply": "x", "sec', b"{"])
def test_a_torn_last_line_is_skipped_and_the_next_starts_anew(tmp_path, torn, caplog):
    path = fill(tmp_path, "a", "b").path
    with path.open("ab") as stream:
        stream.write(torn)
    log = open_log(tmp_path)
    assert (len(log), log.n_skipped) == (2, 1)
    assert "1 lines cannot be read" in caplog.text
    with log.writing():
        log.append("c", Reply("new"))
        log.append("d", Reply("new"))
    again = open_log(tmp_path)
    assert again.get("c") == Reply("new")
    assert (len(again), again.n_skipped) == (4, 1)


def test_a_line_cut_before_its_end_mark_is_whole_after_all(tmp_path):
    path = fill(tmp_path, "a").path
    path.write_bytes(path.read_bytes().rstrip(b"\n"))
    fill(tmp_path, "b")
    again = open_log(tmp_path)
    assert (len(again), again.n_skipped) == (2, 0)


@pytest.mark.parametrize(
    "record",
    [
        [],
        1,
        {"key": "k"},
        {"key": 1, "reply": "x", "seconds": 1},
        {"key": "k", "reply": None, "seconds": 1},
        {"key": "k", "reply": "x", "seconds": "1"},
        {"key": "k", "reply": "x", "seconds": 1, "prompt_tokens": "9"},
        {"key": "k", "reply": "x", "seconds": 1, "answer_tokens": 1.5},
        {"key": "k", "reply": "x", "seconds": 1, "finish_reason": 7},
    ],
)
def test_lines_of_another_form_are_skipped(tmp_path, record):
    path = fill(tmp_path, "a").path
    with path.open("a") as stream:
        stream.write(json.dumps(record) + "\n")
    log = open_log(tmp_path)
    assert (len(log), log.n_skipped) == (1, 1)


def test_models_have_files_of_their_own(tmp_path):
    names = {open_log(tmp_path, name).path.name for name in ("a/b", "a-b", "a b", "", "中")}
    assert len(names) == 5
    assert all("/" not in name and name.endswith(".jsonl") for name in names)


def test_nothing_is_written_unless_it_is_open(tmp_path):
    log = fill(tmp_path, "a")
    with pytest.raises(BackendError, match="not open"):
        log.append("b", Reply("x"))
    with pytest.raises(ZeroDivisionError), log.writing():
        _ = 1 / 0
    with pytest.raises(BackendError, match="not open"):
        log.append("b", Reply("x"))


def test_a_second_writer_waits_and_sees_what_the_first_wrote(tmp_path):
    first, second = open_log(tmp_path), open_log(tmp_path)
    seen = []

    def write_second():
        with second.writing():
            seen.append(second.get("a"))

    thread = threading.Thread(target=write_second)
    with first.writing():
        thread.start()
        thread.join(0.2)
        first.append("a", Reply("from the first"))
        assert seen == []
    thread.join(120)
    assert seen == [Reply("from the first")]
