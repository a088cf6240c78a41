import logging
import threading
from dataclasses import dataclass, field

import pytest

from sicsrec.tracking.outbox import Outbox, first_line
from sicsrec.tracking.sampling import sampled


@dataclass
class Sink:
    """A place that may be away, and refuses some records for good."""

    is_away: bool = False
    took: list[str] = field(default_factory=list)

    def answer(self) -> None:
        if self.is_away:
            raise ConnectionError("refused")

    def take(self, word: str) -> None:
        self.answer()
        if word.startswith("bad"):
            raise ValueError(f"{word} is not taken")
        self.took.append(word)


@pytest.fixture
def sink() -> Sink:
    return Sink()


def outbox_for(sink: Sink, retry_seconds: float = 0.0) -> Outbox:
    return Outbox(sink.answer, (ConnectionError, ValueError), retry_seconds)


def send(outbox: Outbox, sink: Sink, *words: str) -> None:
    for word in words:
        outbox.send(word, lambda word=word: sink.take(word))


def test_records_wait_while_the_store_is_away_and_keep_their_order(
    sink: Sink, caplog: pytest.LogCaptureFixture
) -> None:
    outbox = outbox_for(sink)
    send(outbox, sink, "one")
    sink.is_away = True
    send(outbox, sink, "two", "three")
    assert sink.took == ["one"]
    assert len(outbox) == 2
    sink.is_away = False
    send(outbox, sink, "four")
    assert sink.took == ["one", "two", "three", "four"]
    assert [record.levelname for record in caplog.records] == ["WARNING", "WARNING"]
    assert "3 kept records were sent" in caplog.text


def test_a_store_that_is_away_is_left_alone_for_a_while(sink: Sink) -> None:
    outbox = outbox_for(sink, retry_seconds=3600.0)
    sink.is_away = True
    send(outbox, sink, "one")
    sink.is_away = False
    send(outbox, sink, "two")
    assert sink.took == []
    assert outbox.flush(0.0)
    assert sink.took == ["one", "two"]


def test_a_record_that_is_refused_does_not_stop_the_others(
    sink: Sink, caplog: pytest.LogCaptureFixture
) -> None:
    outbox = outbox_for(sink)
    send(outbox, sink, "one", "bad word", "two")
    assert sink.took == ["one", "two"]
    assert "refused bad word: ValueError: bad word is not taken" in caplog.text


def test_what_could_not_be_sent_is_said_and_dropped(
    sink: Sink, caplog: pytest.LogCaptureFixture
) -> None:
    outbox = outbox_for(sink)
    sink.is_away = True
    send(outbox, sink, "one", "two")
    with caplog.at_level(logging.ERROR):
        assert not outbox.flush(0.0)
    assert "2 records were not sent" in caplog.text
    assert len(outbox) == 0


def test_an_error_of_our_own_is_not_swallowed(sink: Sink) -> None:
    outbox = outbox_for(sink)
    with pytest.raises(ZeroDivisionError):
        outbox.send("nonsense", lambda: 1 // 0)


def test_sampling_looks_at_the_end_and_stops() -> None:
    seen: list[tuple[float, int]] = []
    with sampled(lambda: {"load": 1.0}, lambda numbers, n: seen.append((numbers["load"], n)), 60.0):
        assert seen == []
    assert seen == [(1.0, 0)]
    assert not [thread for thread in threading.enumerate() if thread.name == "system-metrics"]


def test_what_a_store_said_is_one_line_without_a_password() -> None:
    error = ConnectionError("asked http://me:p%40ss@host:5000/api and\nmuch more")
    assert first_line(error) == "ConnectionError: asked http://host:5000/api and"
