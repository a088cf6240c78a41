"""The step with a language model as judge, behind a server in this process or another."""

import json
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from contextlib import contextmanager

import pytest

from sicsrec.data.schema import PAIRS, check_schema
from sicsrec.errors import ConfigError, DataError
from sicsrec.steps import get_step
from sicsrec.steps.runner import step_identity
from tests.unit.sampling.chat_server import Hang, Refuse, Say, first_candidate, serving
from tests.unit.sampling.tiny_language_model import save_random_model, save_scripted_model
from tests.unit.steps.killing import PROCESSES
from tests.unit.steps.stage_one_store import World

KEY = "sk-very-secret-0123456789"


class Watched(World):
    """Keeps the pictures too."""

    def __init__(self, root, judge, **section):
        super().__init__(root, sample_pairs={"judge": judge, "n_negatives": 1, **section})
        self.figures = {}
        self.recorder.log_figure = lambda name, figure: self.figures.update({name: figure})

    def digest(self):
        return self.refs["sample_pairs/pairs"].digest

    def key(self):
        return self.refs["sample_pairs/pairs"].key


def behind(url, **values):
    return {"kind": "openai", "base_url": url, "model": "tiny", "concurrency": 3, **values}


def test_answers_become_pairs_with_all_that_a_person_wants_to_know(tmp_path):
    prices = {"prompt": 1.0, "answer": 4.0}
    with serving() as server:
        world = Watched(tmp_path, behind(server.url, prices=prices))
        report = world.run("sample_pairs")
    pairs = check_schema(world.pairs(), PAIRS, "pairs")
    assert set(pairs["source"]) == {"openai:tiny"}
    assert report.rows == pairs.height == server.n_requests == 8
    assert pairs["negative_ids"].list.len().max() == 1
    took = report.content["language_model"]
    assert (took["prompt_tokens"], took["answer_tokens"]) == (800, 80)
    assert took["cost"] == pytest.approx((800 + 4 * 80) / 1e6)
    assert took["plan"]["to_ask"] == took["asked_now"] == 8
    assert took["stopped_by_budget"] is None
    assert world.recorder.metrics["judge/prompt_tokens"] == 800
    assert set(world.figures) == {"sample_pairs", "sample_pairs_answers"}
    # A picture of both items of every pair.
    [axes] = world.figures["sample_pairs"].axes
    words = [text.get_text() for text in axes.texts]
    assert words.count("anchor") == words.count("similar") == pairs.height


def test_what_says_only_where_or_how_fast_changes_no_key(tmp_path):
    def key_parts(**values):
        judge = behind("http://here/v1", **values)
        world = Watched(tmp_path / "same", judge)
        return step_identity(get_step("sample_pairs"), world.config, world.refs)

    first = key_parts()
    how = {
        "base_url": "http://there/v1",
        "api_key_variable": "KEY",
        "concurrency": 99,
        "timeout_seconds": 1.0,
        "max_attempts": 1,
        "max_wait_seconds": 1.0,
        "prices": {"prompt": 1.0, "answer": 1.0},
    }
    assert key_parts(**how) == first
    assert not any(name in json.dumps(first) for name in how)
    for what in (
        {"model": "other"},
        {"revision": "2"},
        {"temperature": 0.5},
        {"language": "zh"},
        {"structured_output": "none"},
        {"repair": False},
        {"max_answer_tokens": 9},
        {"budget": {"max_questions": 3}},
        {"request_fields": {"seed": 1}},
    ):
        assert key_parts(**what) != first
    budget = {"max_cost": 1.0}
    cheap, dear = ({"prompt": price, "answer": 1.0} for price in (1.0, 2.0))
    assert key_parts(budget=budget, prices=cheap) != key_parts(budget=budget, prices=dear)


@pytest.mark.parametrize("name", ["PROMPT_VERSION", "READER_VERSION"])
def test_another_prompt_or_reader_changes_the_keys_of_judges_that_are_prompted_alone(
    tmp_path, monkeypatch, name
):
    judges = [behind("http://here/v1"), {"kind": "similarity"}]

    def identities():
        worlds = [Watched(tmp_path, judge) for judge in judges]
        return [step_identity(get_step("sample_pairs"), w.config, w.refs) for w in worlds]

    prompted, similarity = identities()
    monkeypatch.setattr(f"sicsrec.steps.{name}", -1)
    assert identities()[0] != prompted
    assert identities()[1] == similarity
    assert name.lower() not in similarity["config"]


def test_another_key_of_the_step_asks_nothing_again(tmp_path):
    with serving() as server:
        first = Watched(tmp_path, behind(server.url))
        first.run("sample_pairs")
        n_asked = server.n_requests
        second = Watched(tmp_path, behind(server.url), max_unusable_share=0.3)
        second.run("sample_pairs")
        refreshed = Watched(tmp_path, behind(server.url, timeout_seconds=9.0))
        refreshed.run("sample_pairs", refresh=True)
    assert second.key() != first.key() == refreshed.key()
    assert second.digest() == first.digest() == refreshed.digest()
    assert server.n_requests == n_asked


def test_too_many_unusable_answers_fail_and_the_good_ones_stay(tmp_path):
    def behave(prompt, n_before, body):
        return first_candidate(prompt) if 'Target: "red' in prompt else Say("I do not know")

    with serving(behave) as server:
        judge = behind(server.url, structured_output="none")
        with pytest.raises(DataError, match=r"6 of 8 .*unreadable.*max_unusable_share"):
            Watched(tmp_path, judge).run("sample_pairs")
        # Each of the six was asked for once more.
        assert server.n_requests == 14
        world = Watched(tmp_path, judge, max_unusable_share=0.8)
        content = world.run("sample_pairs").content
        assert server.n_requests == 14
    assert content["answers"] == {"none": 0, "pair": 2, "unusable": {"unreadable": 6}}
    assert sorted(world.pairs()["anchor_id"]) == ["i0", "i1"]


def test_a_budget_commits_what_it_was_enough_for(tmp_path):
    with serving() as server:
        world = Watched(tmp_path, behind(server.url, budget={"max_questions": 3}))
        content = world.run("sample_pairs").content
        assert server.n_requests == world.pairs().height == 3
        assert content["language_model"]["stopped_by_budget"] == "max_questions"
        assert content["not_asked"]["beyond_budget"] == 5
        whole = Watched(tmp_path, behind(server.url))
        whole.run("sample_pairs")
    assert server.n_requests == whole.pairs().height == 8
    assert whole.pairs().head(3).equals(world.pairs())


@pytest.mark.parametrize("status", [200, 401])
def test_the_key_is_sent_and_kept_nowhere(tmp_path, caplog, status):
    def behave(prompt, n_before, body):
        return first_candidate(prompt) if status == 200 else Refuse(401, f"what is {KEY}?")

    caplog.set_level("DEBUG")
    with serving(behave) as server:
        world = Watched(tmp_path, behind(server.url, api_key_variable="MY_KEY"))
        secrets = {"MY_KEY": KEY}
        if status == 200:
            world.run("sample_pairs", read_secret=secrets.get)
        else:
            with pytest.raises(ConfigError, match="MY_KEY") as caught:
                world.run("sample_pairs", read_secret=secrets.get)
            assert KEY not in str(caught.getrepr(style="long"))
    assert server.keys == {f"Bearer {KEY}"}
    written = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert any(path.suffix == ".jsonl" for path in written)
    assert not any(KEY.encode() in path.read_bytes() for path in written)
    assert KEY not in caplog.text


def ask_all(root, url):
    Watched(root, behind(url)).run("sample_pairs")


def wait_for(condition, child):
    while not condition():
        assert child.poll() is None, child.stderr.read()
        time.sleep(0.02)


def test_a_killed_run_loses_nothing_and_ends_as_if_it_had_not_been_killed(tmp_path):
    is_mended = False

    def behave(prompt, n_before, body):
        may_answer = is_mended or len(server.asked) <= 4
        return first_candidate(prompt) if may_answer else Hang()

    def n_logged():
        try:
            return sum(path.read_bytes().count(b"\n") for path in tmp_path.rglob("*.jsonl"))
        except FileNotFoundError:
            # A folder that the step has just removed.
            return 0

    with serving(behave) as server:
        child = PROCESSES.Process(target=ask_all, args=(tmp_path / "killed", server.url))
        child.start()
        while not (n_logged() == 4 and server.in_flight == 3):
            assert child.exitcode is None, "it ended before it was killed"
            time.sleep(0.02)
        child.kill()
        child.join()
        before = dict(server.asked)
        assert len(before) == 7
        is_mended = True
        resumed = Watched(tmp_path / "killed", behind(server.url))
        content = resumed.run("sample_pairs").content
        assert content["language_model"]["asked_now"] == 4
        # Of the seven prompts sent only the three that were under way are sent again.
        assert sorted(server.asked[prompt] for prompt in before) == [1, 1, 1, 1, 2, 2, 2]
        whole = Watched(tmp_path / "whole", behind(server.url))
        whole.run("sample_pairs")
    assert resumed.digest() == whole.digest()
    assert resumed.pairs().height == 8


@contextmanager
def transformers_serve(model):
    """The server of the transformers library, in a process of its own."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    start = "from transformers.cli.transformers import main; main()"
    options = ["serve", str(model), "--host", "127.0.0.1", "--port", str(port), "--device", "cpu"]
    with subprocess.Popen(
        [sys.executable, "-c", start, *options],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    ) as child:
        try:
            wait_for(lambda: is_up(f"http://127.0.0.1:{port}/health"), child)
            yield f"http://127.0.0.1:{port}/v1"
        finally:
            child.kill()
            child.communicate()


def is_up(url):
    try:
        with urllib.request.urlopen(url, timeout=5) as answer:  # noqa: S310
            return answer.status == 200
    except (urllib.error.URLError, OSError):
        return False


def test_a_real_model_behind_a_real_server(tmp_path):
    model = save_scripted_model(tmp_path / "model", '{"positive": 1, ', '"negatives": []}')
    with transformers_serve(model) as url:
        world = Watched(tmp_path, behind(url, model=str(model)))
        content = world.run("sample_pairs").content
    assert content["answers"] == {"none": 0, "pair": 8, "unusable": {}}
    assert content["language_model"]["prompt_tokens"] > 8 * 300
    assert content["language_model"]["answer_tokens"] == 8 * 3


def local(model, **values):
    return {"kind": "transformers", "model": str(model), "max_answer_tokens": 12, **values}


def test_a_local_model_answers_and_is_not_asked_again(tmp_path, monkeypatch):
    model = save_scripted_model(tmp_path / "model", '{"positive": 1, ', '"negatives": []}')
    world = Watched(tmp_path, local(model, batch_size=3))
    content = world.run("sample_pairs").content
    assert content["answers"] == {"none": 0, "pair": 8, "unusable": {}}
    assert set(world.pairs()["source"]) == {f"transformers:{model}"}
    took = content["language_model"]
    assert (took["answer_tokens"], took["asked_now"]) == (24, 8)
    again = Watched(tmp_path, local(model, batch_size=8), max_unusable_share=0.1)
    content = again.run("sample_pairs").content
    assert content["language_model"]["asked_now"] == 0
    assert again.digest() == world.digest()


def test_other_weights_in_the_folder_are_another_judge(tmp_path):
    save_scripted_model(tmp_path / "model", '{"positive": 1, ', '"negatives": []}')
    first = Watched(tmp_path, local(tmp_path / "model"))
    first.run("sample_pairs")
    save_scripted_model(tmp_path / "model", '{"positive": null, ', '"negatives": []}')
    second = Watched(tmp_path, local(tmp_path / "model"))
    content = second.run("sample_pairs").content
    assert first.key() != second.key()
    assert content["answers"]["none"] == 8


def test_nonsense_of_a_local_model_is_unusable(tmp_path):
    model = save_random_model(tmp_path / "model")
    with pytest.raises(DataError, match=r"8 of 8 .*unreadable"):
        Watched(tmp_path, local(model)).run("sample_pairs")
