import contextvars
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


def wait_until_tried(outbox: Outbox) -> None:
    """Wait until the store is known to be away, or everything is sent."""
    outbox.wait_for(lambda: False)


def test_records_wait_while_the_store_is_away_and_keep_their_order(
    sink: Sink, caplog: pytest.LogCaptureFixture
) -> None:
    outbox = outbox_for(sink, retry_seconds=3600.0)
    send(outbox, sink, "one")
    assert outbox.flush(0.0)
    sink.is_away = True
    send(outbox, sink, "two", "three")
    wait_until_tried(outbox)
    assert sink.took == ["one"]
    assert len(outbox) == 2
    sink.is_away = False
    send(outbox, sink, "four")
    assert outbox.flush(60.0)
    assert sink.took == ["one", "two", "three", "four"]
    assert [record.levelname for record in caplog.records] == ["WARNING", "WARNING"]
    assert "3 kept records are sent" in caplog.text


def test_whoever_records_does_not_wait_for_the_store() -> None:
    goes_on, took = threading.Event(), []
    outbox = Outbox(lambda: None, (ConnectionError,))

    def take_long() -> None:
        goes_on.wait(60.0)
        took.append("slow")

    outbox.send("slow", take_long)
    outbox.send("quick", lambda: took.append("quick"))
    assert took == []
    goes_on.set()
    assert outbox.flush(0.0)
    assert took == ["slow", "quick"]


def test_a_store_that_is_away_is_left_alone_for_a_while_but_tried_at_the_end(sink: Sink) -> None:
    outbox = outbox_for(sink, retry_seconds=3600.0)
    sink.is_away = True
    send(outbox, sink, "one")
    wait_until_tried(outbox)
    sink.is_away = False
    send(outbox, sink, "two")
    wait_until_tried(outbox)
    assert sink.took == []
    assert outbox.flush(0.0)
    assert sink.took == ["one", "two"]


def test_a_store_is_tried_again_by_itself(sink: Sink) -> None:
    outbox = outbox_for(sink, retry_seconds=0.01)
    sink.is_away = True
    send(outbox, sink, "one")
    wait_until_tried(outbox)
    sink.is_away = False
    arrived = threading.Event()
    outbox.send("two", arrived.set)
    assert arrived.wait(60.0)
    assert sink.took == ["one"]


def test_a_record_that_is_refused_does_not_stop_the_others(
    sink: Sink, caplog: pytest.LogCaptureFixture
) -> None:
    outbox = outbox_for(sink)
    send(outbox, sink, "one", "bad word", "two")
    assert outbox.flush(0.0)
    assert sink.took == ["one", "two"]
    assert "refused bad word: ValueError: bad word is not taken" in caplog.text


def test_what_could_not_be_sent_is_said_and_dropped(
    sink: Sink, caplog: pytest.LogCaptureFixture
) -> None:
    outbox = outbox_for(sink, retry_seconds=0.01)
    sink.is_away = True
    send(outbox, sink, "one", "two")
    with caplog.at_level(logging.ERROR):
        assert not outbox.flush(0.1)
    assert "2 records were not sent" in caplog.text
    assert len(outbox) == 0
    sink.is_away = False
    send(outbox, sink, "three")
    assert outbox.flush(60.0)
    assert sink.took == ["three"]


def test_an_error_of_our_own_is_raised_when_everything_else_is_sent(
    sink: Sink, caplog: pytest.LogCaptureFixture
) -> None:
    outbox = outbox_for(sink)
    outbox.send("nonsense", lambda: 1 // 0)
    send(outbox, sink, "one")
    with pytest.raises(ZeroDivisionError):
        outbox.flush(0.0)
    assert sink.took == ["one"]
    assert "nonsense could not be recorded" in caplog.text
    assert outbox.flush(0.0)


def test_what_a_record_brings_can_be_waited_for(sink: Sink) -> None:
    outbox = outbox_for(sink, retry_seconds=3600.0)
    send(outbox, sink, "id")
    assert outbox.wait_for(lambda: "id" in sink.took)
    assert not outbox.wait_for(lambda: "what nobody sends" in sink.took)
    sink.is_away = True
    send(outbox, sink, "other")
    assert not outbox.wait_for(lambda: "other" in sink.took)


def test_messages_of_the_thread_are_in_the_context_of_who_records(sink: Sink) -> None:
    word, seen = contextvars.ContextVar("word", default="none"), []
    outbox = outbox_for(sink)
    word.set("mine")
    outbox.send("word", lambda: seen.append(word.get()))
    outbox.flush(0.0)
    assert seen == ["mine"]


def test_sampling_looks_at_the_end_and_stops() -> None:
    seen: list[tuple[float, int]] = []
    with sampled(lambda: {"load": 1.0}, lambda numbers, n: seen.append((numbers["load"], n)), 60.0):
        assert seen == []
    assert seen == [(1.0, 0)]
    assert not [thread for thread in threading.enumerate() if thread.name == "system-metrics"]


def test_what_a_store_said_is_one_line_without_a_password() -> None:
    error = ConnectionError("asked http://me:p%40ss@host:5000/api and\nmuch more")
    assert first_line(error) == "ConnectionError: asked http://host:5000/api and"
