"""Training on several hosts, of which this machine plays all."""

import json
import multiprocessing
import os
import re
import shutil
import signal
import socket
import sys
import threading
import time

import psutil
import pytest
import torch

from sicsrec.cluster import Hosts
from sicsrec.data.sequences import Histories
from sicsrec.errors import ConfigError, DataError, TrainingProcessError
from sicsrec.models.storage import load_model
from sicsrec.training import hosts as module
from sicsrec.training import launching
from sicsrec.training.hosts import (
    Announcement,
    announced,
    board_of,
    installed_versions,
    join_trainings,
)
from sicsrec.training.launching import network_interface
from tests.unit.steps.stage_two_store import StageTwoWorld, checkpoints_below
from tests.unit.steps.tiny_store import make_catalog, make_interactions

PROCESSES = multiprocessing.get_context("forkserver")
HISTORIES = Histories.from_interactions(make_interactions(), make_catalog())


def hosts_in(folder, n_hosts=2):
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return Hosts(n_hosts, "127.0.0.1", probe.getsockname()[1], folder)


@pytest.fixture
def second_host(tmp_path):
    process = PROCESSES.Process(target=join_trainings, args=(tmp_path, 1, write_to(tmp_path)))
    process.start()
    yield process
    os.kill(process.pid, signal.SIGINT)
    process.join(60)
    assert process.exitcode is not None


class write_to:  # noqa: N801 - a function that a process can be given
    def __init__(self, folder):
        self.path = folder / "told.txt"

    def __call__(self, line):
        with self.path.open("a") as file:
            file.write(line + "\n")


def announcement(folder, **changes):
    for name in ("job", "work"):
        (folder / name).mkdir(exist_ok=True)
    made = Announcement.make(hosts_in(folder), folder / "job", folder / "work", "cpu", 1)
    return made.model_copy(update=changes)


@pytest.mark.slow
def test_two_hosts_give_the_metrics_of_one(tmp_path, second_host):
    changes = {"dropout": 0.0, "batch_targets": 5, "max_epochs": 2}
    outcomes = []
    for n_hosts in (1, 2):
        world = StageTwoWorld(tmp_path / str(n_hosts), **changes)
        world.config = world.config.model_copy(update={"refit": False})
        report = world.run("pretrain_id", hosts=hosts_in(tmp_path) if n_hosts == 2 else None)
        assert report.content["processes"] == n_hosts
        model = load_model(world.path("pretrain_id/model"))
        outcomes.append((report.content["log"], model.score(HISTORIES)))
    (log_of_one, scores_of_one), (log_of_two, scores_of_two) = outcomes
    for of_one, of_two in zip(log_of_one, log_of_two, strict=True):
        assert of_two == pytest.approx(of_one, rel=1e-4, abs=1e-6)
    torch.testing.assert_close(scores_of_two, scores_of_one, rtol=1e-3, atol=1e-3)
    assert not list(board_of(tmp_path).glob("*/"))
    told = tmp_path / "told.txt"
    deadline = time.monotonic() + 60
    while "\ndone\n" not in told.read_text():
        assert time.monotonic() < deadline, told.read_text()
        time.sleep(0.05)


@pytest.mark.slow
def test_a_host_that_dies_ends_the_training_and_the_next_run_goes_on(tmp_path, caplog):
    hosts = hosts_in(tmp_path)
    world = StageTwoWorld(tmp_path / "world", max_epochs=400, patience=400)
    second = PROCESSES.Process(target=join_trainings, args=(tmp_path, 1, write_to(tmp_path)))
    second.start()

    def kill_it():
        while not checkpoints_below(tmp_path):
            time.sleep(0.01)
        os.kill(second.pid, signal.SIGKILL)

    killer = threading.Thread(target=kill_it)
    killer.start()
    with pytest.raises(TrainingProcessError, match="one of 2 training processes died"):
        world.run("pretrain_id", hosts=hosts)
    killer.join()
    second.join()
    world = StageTwoWorld(tmp_path / "world", max_epochs=400, patience=400)
    assert checkpoints_below(tmp_path)
    caplog.set_level("INFO", logger="sicsrec")
    world.run("pretrain_id")
    assert "continuing after epoch" in caplog.text


def test_a_host_that_never_comes_is_named(tmp_path):
    with (
        pytest.raises(TrainingProcessError, match=r"host 1 of 0 to 1 did not.*sicsrec join"),
        announced(hosts_in(tmp_path), announcement(tmp_path), patience=0.1),
    ):
        pass
    assert not list(board_of(tmp_path).glob("*/"))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"versions": installed_versions() | {"torch": "1.0"}}, r"it has .* install the same"),
        ({"job": "elsewhere"}, "does not see .*SICSREC_HOME must be one folder"),
        ({"job": "../outside"}, "leaves its root"),
        ({"n_hosts": 1}, "this one is 1; set SICSREC_HOSTS"),
        ({"device": "cuda", "n_processes": 99}, "GPUs for 99 processes"),
    ],
)
def test_a_host_that_cannot_take_part_says_why(tmp_path, monkeypatch, changes, message):
    hosts, made = hosts_in(tmp_path), announcement(tmp_path, **changes)
    monkeypatch.setattr(module, "_SECONDS_BETWEEN_BEATS", 0.05)
    monkeypatch.setattr(module, "_SECONDS_BETWEEN_LOOKS", 0.02)
    told = []
    errors = []

    def ask():
        try:
            with announced(hosts, made, patience=30.0):
                pass
        except TrainingProcessError as err:
            errors.append(str(err))

    class Enough(Exception):  # noqa: N818
        pass

    def tell(line):
        told.append(line)
        raise Enough

    asking = threading.Thread(target=ask)
    asking.start()
    with pytest.raises(Enough):
        join_trainings(tmp_path, 1, tell)
    asking.join()
    assert len(told) == len(errors) == 1
    assert re.search(message, told[0]), told
    assert re.search(r"host 1 cannot take part in training: .*" + message, errors[0]), errors


def test_what_a_dead_host_left_is_not_joined_but_cleared(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "_SECONDS_BETWEEN_LOOKS", 0.01)
    left = board_of(tmp_path) / "left"
    left.mkdir(parents=True)
    path = left / "announcement.json"
    path.write_text(json.dumps(vars(announcement(tmp_path))))
    looks = 0

    def look(_seconds):
        nonlocal looks
        looks += 1
        if looks > 5:
            raise KeyboardInterrupt

    monkeypatch.setattr(module.time, "sleep", look)
    with pytest.raises(KeyboardInterrupt):
        join_trainings(tmp_path, 1, pytest.fail)
    monkeypatch.undo()
    (board_of(tmp_path) / "killed before it announced").mkdir()
    with (
        pytest.raises(TrainingProcessError),
        announced(hosts_in(tmp_path), announcement(tmp_path), patience=0.0),
    ):
        pass
    assert not [path for path in board_of(tmp_path).iterdir() if path.is_dir()]


@pytest.mark.parametrize(
    "content", ["", "[]", "{}", '{"job": 1}', json.dumps({"job": "a", "work": "b"})]
)
def test_a_file_that_is_no_announcement_is_named(tmp_path, content):
    path = tmp_path / "announcement.json"
    path.write_text(content)
    with pytest.raises(DataError, match=r"announcement\.json is no announcement"):
        Announcement.read(path)


def test_an_announcement_is_read_as_it_was_written(tmp_path):
    made = announcement(tmp_path)
    path = tmp_path / "announcement.json"
    path.write_text(json.dumps(vars(made)))
    assert Announcement.read(path) == made
    path.write_text(json.dumps(vars(made) | {"device": "cuda; rm"}))
    with pytest.raises(DataError):
        Announcement.read(path)


def test_a_job_outside_of_what_hosts_share_is_refused(tmp_path):
    shared = tmp_path / "shared"
    shared.mkdir()
    with pytest.raises(ConfigError, match="which they share, not in"):
        Announcement.make(hosts_in(shared), tmp_path / "job", shared / "work", "cpu", 1)


def test_the_first_host_cannot_join(tmp_path):
    with pytest.raises(ConfigError, match="is 0, others count from 1"):
        join_trainings(tmp_path, 0, print)


def test_one_host_is_not_several(tmp_path):
    with pytest.raises(ConfigError, match="two at least"):
        Hosts(1, "127.0.0.1", 29400, tmp_path)


def test_the_loopback_is_reached_by_the_loopback():
    assert network_interface("127.0.0.1", 29400) in ("lo", "lo0")


def test_an_address_without_a_way_to_it_is_named(monkeypatch):
    def refuse(self, address):
        raise OSError("Network is unreachable")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    with pytest.raises(
        ConfigError, match=r"no way from this host to 10\.0\.0\.1.*TRAINING_ADDRESS"
    ):
        network_interface("10.0.0.1", 29400)


def test_a_first_host_that_is_held_up_goes_on_beating(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "_SECONDS_BETWEEN_BEATS", 0.02)
    monkeypatch.setattr(module, "_wait_for_answers", lambda *_arguments: None)
    with announced(hosts_in(tmp_path), announcement(tmp_path)):
        (path,) = board_of(tmp_path).glob("*/announcement.json")
        beats = set()
        deadline = time.monotonic() + 30
        # Nothing in the block does anything, as when a record waits for its server.
        while len(beats) < 3:
            assert time.monotonic() < deadline
            beats.add(path.stat().st_mtime_ns)
    assert not list(board_of(tmp_path).glob("*/"))


@pytest.fixture
def sleeping(tmp_path, monkeypatch):
    """An announcement whose training sleeps for ever; returns its file and what takes part."""
    (board_of(tmp_path) / "one").mkdir(parents=True)
    path = board_of(tmp_path) / "one" / "announcement.json"
    path.write_text(json.dumps(vars(announcement(tmp_path, address="127.0.0.1"))))
    command = [sys.executable, "-c", "import time; time.sleep(600)"]
    monkeypatch.setattr(module, "peer_command", lambda *_arguments: command)
    monkeypatch.setattr(module, "_SECONDS_BETWEEN_LOOKS", 0.02)
    return path, lambda: module._take_part(tmp_path, path, 1, lambda _line: None)


def children():
    return [child for child in psutil.Process().children() if "time.sleep(600)" in child.cmdline()]


def test_a_host_ends_its_processes_when_the_first_one_is_silent(sleeping, monkeypatch):
    monkeypatch.setattr(module, "_SILENCE", 0.2)
    path, take_part = sleeping
    assert "is gone; ended" in take_part()
    assert json.loads(path.with_name("host-1.json").read_text()) == {"error": ""}
    assert not children()


def test_a_host_ends_its_processes_when_the_training_is_announced_no_more(sleeping, monkeypatch):
    monkeypatch.setattr(module, "_GRACE", 0.2)
    path, take_part = sleeping
    timer = threading.Timer(0.5, shutil.rmtree, (path.parent,))
    timer.start()
    assert "has ended the training" in take_part()
    assert not children()


def test_a_host_outlives_an_announcement_that_vanishes(tmp_path):
    path = board_of(tmp_path) / "one" / "announcement.json"
    assert "cannot take part" in module._take_part(tmp_path, path, 1, pytest.fail)
    assert not path.parent.exists()


def test_a_host_that_cannot_write_its_log_says_why(sleeping, tmp_path):
    path, take_part = sleeping
    (tmp_path / "job" / "processes-1.log").mkdir()
    assert "cannot take part" in take_part()
    assert "processes-1.log" in json.loads(path.with_name("host-1.json").read_text())["error"]


def test_a_name_that_leads_to_the_own_loopback_is_refused(monkeypatch):
    class Probe(socket.socket):
        def connect(self, address):
            super().connect(("127.0.1.1", address[1]))

    monkeypatch.setattr(launching.socket, "socket", Probe)
    with pytest.raises(ConfigError, match="which no other host reaches"):
        network_interface("myhost", 29400)
