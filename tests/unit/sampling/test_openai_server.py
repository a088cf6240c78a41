"""The client against a real server that misbehaves."""

import builtins
import json
import logging
import socket
import threading
import traceback

import pytest

from sicsrec.config.judges import OpenAIJudgeConfig
from sicsrec.errors import BackendError, BackendUnavailableError, ConfigError
from sicsrec.sampling.asking import Surroundings
from sicsrec.sampling.judges.openai_server import ChatServer, build_openai_judge
from sicsrec.sampling.judges.server_trouble import Waiting, read_retry_after
from sicsrec.sampling.language_model import Request
from tests.unit.sampling.chat_server import (
    Cut,
    Drop,
    Hang,
    Raw,
    Refuse,
    Say,
    Trickle,
    first_candidate,
    serving,
)

KEY = "sk-very-secret-0123456789"


def requests(n):
    return [Request(f"k{row}", f'{row}\n1. "a"\n2. "b"', 2, 3) for row in range(n)]


class Client:
    """A client whose waits take no time and are written down."""

    def __init__(self, server, api_key=KEY, **values):
        address = {"base_url": getattr(server, "url", server), "model": "tiny"}
        self.config = OpenAIJudgeConfig(**{"concurrency": 3, **address, **values})
        self.waits = []
        self.model = ChatServer(self.config, api_key, self.waits.append)

    def ask(self, n=1):
        return {request.key: reply for request, reply in self.model.complete(requests(n))}


def faulty(*faults):
    """Show each fault once, in order, then answer."""
    left = list(faults)

    def behave(prompt, n_before, body):
        return left.pop(0) if left else first_candidate(prompt)

    return behave


def test_replies_come_with_what_they_took():
    with serving() as server:
        client = Client(server, request_fields={"chat_template_kwargs": {"enable_thinking": False}})
        replies = client.ask(5)
    assert set(replies) == {f"k{row}" for row in range(5)}
    reply = replies["k0"]
    assert json.loads(reply.text) == {"positive": 1, "negatives": [2]}
    assert (reply.prompt_tokens, reply.answer_tokens, reply.finish_reason) == (100, 10, "stop")
    assert reply.seconds > 0
    assert reply.is_structured
    body = server.bodies[0]
    assert (body["model"], body["temperature"], body["max_tokens"]) == ("tiny", 0.0, 256)
    assert body["chat_template_kwargs"] == {"enable_thinking": False}
    schema = body["response_format"]["json_schema"]["schema"]
    assert schema["properties"]["negatives"]["items"]["enum"] == [1, 2]
    assert schema["properties"]["negatives"]["maxItems"] == 3
    assert server.keys == {f"Bearer {KEY}"}


def test_what_a_model_refuses_is_not_sent():
    with serving() as server:
        Client(server, temperature=None, answer_limit_field="max_completion_tokens").ask()
    assert "temperature" not in server.bodies[0]
    assert "max_tokens" not in server.bodies[0]
    assert server.bodies[0]["max_completion_tokens"] == 256


def test_without_a_key_the_environment_is_not_searched(monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    with serving() as server:
        Client(server, api_key=None).ask()
    assert server.keys == {"Bearer none"}


@pytest.mark.parametrize(
    "fault",
    [
        Refuse(429),
        Refuse(500),
        Refuse(503),
        Refuse(408),
        Drop(),
        Cut(),
        Raw(b'{"id": "1", "choi'),
        Raw(b"{}"),
        Raw(b'{"choices": []}'),
        Raw(b"[]"),
        Raw(b'{"choices": [{"message": {"content": [1]}, "finish_reason": "stop"}]}'),
        Say("", finish_reason="error"),
    ],
    ids=lambda fault: getattr(fault, "body", None) or str(fault),
)
def test_what_may_pass_is_tried_again(fault):
    with serving(faulty(fault, fault)) as server:
        client = Client(server)
        assert json.loads(client.ask()["k0"].text)["positive"] == 1
    assert server.n_requests == 3
    # Half a second, then a whole one, each drawn between half of it and the whole.
    first, second = client.waits
    assert 0.25 <= first <= 0.5 <= second <= 1.0


@pytest.mark.parametrize("what", [Hang(), Trickle()])
def test_a_hanging_server_is_given_up_and_tried_again(what):
    with serving(faulty(what)) as server:
        client = Client(server, timeout_seconds=0.5, max_attempts=99)
        assert client.ask()["k0"].text
    # On a busy machine the answer may come too late as well.
    assert server.n_requests == len(client.waits) + 1 >= 2


def test_the_wait_a_server_asks_for_is_kept_by_all():
    with serving(faulty(Refuse(429, headers={"Retry-After": "50"}))) as server:
        client = Client(server)
        client.ask(3)
    own, *others = client.waits
    assert 50.0 <= own <= 50.1
    # No wait took any time, so the gate is still shut to the first itself and to the others.
    assert len(others) == 3
    assert all(0.0 < wait <= 50.0 for wait in others)


def test_a_wait_that_is_too_long_stops():
    too_long = pytest.raises(BackendUnavailableError, match=r"3600 s.*max_wait_seconds")
    with serving(faulty(Refuse(429, headers={"Retry-After": "3600"}))) as server, too_long:
        Client(server).ask()
    assert server.n_requests == 1


def test_tries_end_and_the_address_is_named():
    with serving(lambda *_: Refuse(500, "out of memory")) as server:
        client = Client(server, max_attempts=3)
        with pytest.raises(BackendUnavailableError, match=rf"{server.url}.*3 tries.*out of memory"):
            client.ask()
    assert server.n_requests == 3
    assert len(client.waits) == 2


def test_an_unreachable_server_is_named():
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{unused.getsockname()[1]}/v1"
        with pytest.raises(BackendUnavailableError, match=rf"{url}.*refused.*base_url"):
            Client(url, max_attempts=2).ask()


@pytest.mark.parametrize(
    ("fault", "error", "words"),
    [
        (Refuse(400, "too long"), BackendError, "400.*too long"),
        (Refuse(422, "what?"), BackendError, "422"),
        (Refuse(401, "bad key"), ConfigError, "401.*MY_KEY"),
        (Refuse(403, "bad key"), ConfigError, "403.*MY_KEY"),
        (Refuse(404, "no such model"), ConfigError, "404.*'tiny'.*/v1"),
        (Refuse(429, "pay", code="insufficient_quota"), BackendError, "429.*pay"),
    ],
    ids=lambda value: str(getattr(value, "status", "")),
)
def test_what_is_our_own_fault_is_never_tried_again(fault, error, words):
    with serving(lambda *_: fault) as server:
        client = Client(server, structured_output="none", api_key_variable="MY_KEY")
        with pytest.raises(error, match=words) as caught:
            client.ask(10)
        assert not isinstance(caught.value, BackendUnavailableError)
        assert server.url in str(caught.value)
    assert server.n_requests == 1
    assert client.waits == []


def test_a_refused_key_without_a_name_says_how_to_name_it():
    without_a_name = pytest.raises(ConfigError, match="api_key_variable")
    with serving(lambda *_: Refuse(401)) as server, without_a_name:
        Client(server, api_key=None).ask()


def test_answers_under_way_are_kept_when_another_request_fails():
    both = threading.Barrier(2, timeout=120)

    def behave(prompt, n_before, body):
        if prompt.startswith("0"):
            return first_candidate(prompt)
        if prompt.startswith(("1", "2")):
            both.wait()
        if prompt.startswith("2"):
            # Long enough for the failure to be seen first.
            server.closing.wait(0.5)
        return Refuse(400) if prompt.startswith("1") else first_candidate(prompt)

    got = []
    with serving(behave) as server:
        client = Client(server, concurrency=2)
        with pytest.raises(BackendError, match="400"):
            got.extend(request.key for request, _ in client.model.complete(requests(50)))
    assert {"k0", "k2"} <= set(got)
    # Both slots were taken; at most one of them was filled again before the failure was seen.
    assert server.n_requests <= 4


def test_requests_under_way_are_bounded():
    three = threading.Barrier(3, timeout=120)

    def behave(prompt, n_before, body):
        if prompt.startswith(("1\n", "2\n", "3\n")):
            three.wait()
        return first_candidate(prompt)

    taken = 0

    def source():
        nonlocal taken
        for request in requests(20):
            taken += 1
            yield request

    with serving(behave) as server:
        done = 0
        for _ in Client(server, concurrency=3).model.complete(source()):
            done += 1
            # Nothing is taken, either, that cannot be sent.
            assert taken <= done + 3 + 2
    assert done == 20
    assert server.most_in_flight == 3


def test_the_first_request_goes_alone():
    with serving(lambda *_: Refuse(401)) as server, pytest.raises(ConfigError):
        Client(server, concurrency=8).ask(20)
    assert server.n_requests == 1


def refuses_schema(prompt, n_before, body):
    if "response_format" in body:
        return Refuse(400, "unknown field response_format")
    return first_candidate(prompt)


def test_a_server_that_refuses_a_schema_is_found_out_once():
    with serving(refuses_schema) as server:
        client = Client(server)
        replies = client.ask(5)
        assert len(replies) == len(client.ask(5)) == 5
    assert not any(reply.is_structured for reply in replies.values())
    assert ["response_format" in body for body in server.bodies] == [True] + 10 * [False]
    assert client.waits == []


def test_a_schema_that_was_asked_for_is_not_given_up():
    refused = pytest.raises(BackendError, match="response_format")
    with serving(refuses_schema) as server, refused:
        Client(server, structured_output="json_schema").ask()
    assert server.n_requests == 1


def test_a_schema_is_not_given_up_once_it_went_through():
    def behave(prompt, n_before, body):
        return Refuse(400) if prompt.startswith("3\n") else first_candidate(prompt)

    with serving(behave) as server, pytest.raises(BackendError):
        Client(server, concurrency=1).ask(6)
    assert all("response_format" in body for body in server.bodies)


@pytest.mark.parametrize("text", [None, ""])
def test_silence_is_a_reply(text):
    with serving(lambda *_: Say(text, "length", usage=None)) as server:
        reply = Client(server).ask()["k0"]
    assert (reply.text, reply.finish_reason, reply.prompt_tokens) == ("", "length", None)


@pytest.mark.parametrize("status", [400, 401, 429, 500])
def test_the_key_appears_nowhere(status, caplog):
    caplog.set_level(logging.DEBUG)
    with serving(lambda *_: Refuse(status, f"wrong key {KEY} given")) as server:
        client = Client(server, max_attempts=2, api_key_variable="MY_KEY")
        with pytest.raises((BackendError, ConfigError)) as caught:
            client.ask()
    shown = "".join(traceback.format_exception(caught.value))
    assert "wrong key *** given" in shown
    assert caught.value.__cause__ is None
    assert caught.value.__context__ is None
    for text in (shown, caplog.text, repr(client.model), str(client.model.identity)):
        assert KEY not in text


@pytest.mark.parametrize("repeated", [f"b'Bearer {KEY}'", KEY[:12], KEY[-10:], f"<{KEY[3:]}>"])
def test_longer_pieces_of_the_key_are_hidden_too(repeated, caplog):
    caplog.set_level(logging.DEBUG, "sicsrec")
    failing = pytest.raises(BackendError)
    with (
        serving(lambda *_: Refuse(500, f"wrong key {repeated} given")) as server,
        failing as caught,
    ):
        Client(server, max_attempts=2).ask()
    for text in (str(caught.value), caplog.text):
        assert "***" in text
        assert not any(KEY[at : at + 8] in text for at in range(len(KEY) - 7))


def test_a_key_that_is_written_with_escapes_is_hidden():
    key = "sk-'quoted\\and\"more%/"
    refusal = Refuse(401, f"wrong {key!r} and {json.dumps(key)}")
    hidden = pytest.raises(ConfigError, match=r"wrong .*[*]{3}.* and")
    with serving(lambda *_: refusal) as server, hidden as caught:
        Client(server, api_key=key).ask()
    assert "quoted" not in str(caught.value)


@pytest.mark.parametrize("key", [f"{KEY}\n", f" {KEY}", f"{KEY}\u00e9", f"sk\n{KEY}", f"{KEY}\x7f"])
def test_a_key_that_cannot_be_sent_is_refused_before_anything_is(key, tmp_path, caplog):
    caplog.set_level(logging.DEBUG)
    config = OpenAIJudgeConfig(base_url="http://x/v1", model="m", api_key_variable="MY_KEY")
    with pytest.raises(ConfigError, match="environment variable MY_KEY") as caught:
        build_openai_judge(config, 3, Surroundings(tmp_path, read_secret=lambda _: key))
    assert "very-secret" not in "".join(traceback.format_exception(caught.value)) + caplog.text


def test_a_variable_that_is_not_set_is_named(tmp_path):
    config = OpenAIJudgeConfig(base_url="http://x/v1", model="m", api_key_variable="MY_KEY")
    with pytest.raises(ConfigError, match=r"MY_KEY.*not set"):
        build_openai_judge(config, 3, Surroundings(tmp_path))


def test_without_the_client_the_extra_is_named(monkeypatch, tmp_path):
    real = builtins.__import__

    def without_openai(name, *arguments):
        if name == "openai":
            raise ModuleNotFoundError(name)
        return real(name, *arguments)

    monkeypatch.setattr(builtins, "__import__", without_openai)
    config = OpenAIJudgeConfig(base_url="http://x/v1", model="m")
    with pytest.raises(ConfigError, match=r"pip install 'sicsrec\[llm\]'"):
        build_openai_judge(config, 3, Surroundings(tmp_path))


def test_the_address_is_no_part_of_what_an_answer_is():
    here, there = Client("http://here/v1").model, Client("http://there/v1").model
    assert here.identity == there.identity
    assert here.identity != Client("http://here/v1", revision="2").model.identity
    assert here.identity != Client("http://here/v1", temperature=0.5).model.identity


def test_retry_after_is_read_as_seconds_and_as_a_date():
    assert read_retry_after("2.5") == 2.5
    assert read_retry_after("-1") == 0.0
    assert read_retry_after("Thu, 01 Jan 1970 00:01:00 GMT", now=20.0) == 40.0
    assert read_retry_after("Thu, 01 Jan 1970 00:01:00 GMT", now=90.0) == 0.0
    for unreadable in (None, "", "soon", "nan", "inf"):
        assert read_retry_after(unreadable) is None


def test_waits_grow_up_to_the_longest_and_never_undercut_the_server():
    waiting = Waiting(max_wait_seconds=10.0)
    for attempt in range(1, 60):
        seconds = waiting.before_next_try(attempt, None)
        assert seconds is not None
        assert seconds <= 10.0
    assert (waiting.before_next_try(60, None) or 0.0) >= 5.0
    assert (waiting.before_next_try(1, 9.0) or 0.0) >= 9.0
    assert waiting.before_next_try(1, 10.1) is None
    assert waiting.before_next_try(1, 10.0) == 10.0


def test_a_longer_rest_holds_those_who_wait_already():
    waiting = Waiting(max_wait_seconds=60.0)
    waiting.before_next_try(1, 5.0)
    waits = []

    def pause(seconds):
        waits.append(seconds)
        waiting.before_next_try(1, 30.0 if len(waits) == 1 else 0.0)

    waiting.pass_gate(pause)
    first, second = waits
    assert first <= 5.0 < 25.0 < second <= 30.0


def test_who_is_stopped_waits_no_longer():
    waiting = Waiting(max_wait_seconds=60.0)
    waiting.before_next_try(1, 5.0)
    waits = []

    def stopped(seconds):
        waits.append(seconds)
        waiting.before_next_try(1, 30.0)
        return True

    waiting.pass_gate(stopped)
    assert len(waits) == 1
