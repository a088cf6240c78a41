"""A real Dask cluster of two worker processes gives what one process gives."""

import os
import signal
import time
from functools import partial
from pathlib import Path

import pytest

from sicsrec.encoders.encoding import EncodingSettings
from sicsrec.encoders.spread import ShardSource, encode_shard
from sicsrec.errors import ConfigError
from tasks import cluster as cluster_module
from tasks.cluster import open_cluster
from tests.unit.sampling.tiny_language_model import save_scripted_model
from tests.unit.steps.stage_one_store import World

STEPS = ("sample_pairs", "align_encoders", "encode_items")
SECTIONS = {"encode_items": {"shard_items": 3, "batch_size": 2}}


@pytest.fixture(scope="module")
def cluster():
    with open_cluster("local:2") as opened:
        yield opened


def run_all(root, sections, **arguments):
    world = World(root, **sections)
    reports = {name: world.run(name, **arguments) for name in STEPS}
    return world, reports


def local_judge(tmp_path):
    folder = tmp_path / "model"
    folder.mkdir()
    save_scripted_model(folder, '{"positive": 1, ', '"negatives": [2]}')
    judge = {"kind": "transformers", "model": str(folder), "batch_size": 2}
    return {"judge": judge, "max_unusable_share": 1.0}


def meet(folder, number):
    """Wait until another process works on something too, however busy the machine is."""
    (folder / str(os.getpid())).touch()
    deadline = time.monotonic() + 60
    while len(list(folder.iterdir())) < 2 and time.monotonic() < deadline:
        time.sleep(0.05)
    return os.getpid()


def test_work_goes_to_both_processes(cluster, tmp_path):
    assert cluster.n_workers == 2
    found = dict(cluster.spread(partial(meet, tmp_path), iter(range(8))))
    assert set(found) == set(range(8))
    assert len(set(found.values()) - {os.getpid()}) == 2


@pytest.mark.parametrize(
    "kind", ["similarity", pytest.param("transformers", marks=pytest.mark.slow)]
)
def test_pairs_and_vectors_are_those_of_one_process(cluster, tmp_path, kind):
    sections = dict(SECTIONS)
    if kind == "transformers":
        sections["sample_pairs"] = local_judge(tmp_path)
    alone, reports_alone = run_all(tmp_path / "alone", sections)

    class Opened:
        def __enter__(self):
            return cluster

        def __exit__(self, *error):
            return None

    spread, reports = run_all(tmp_path / "spread", sections, open_cluster=Opened)
    for name in ("sample_pairs/pairs", "encode_items/vectors"):
        assert spread.refs[name].digest == alone.refs[name].digest
    assert spread.pairs().height > 0
    assert reports["encode_items"] == reports_alone["encode_items"]


def test_a_worker_that_does_not_see_the_store_says_so(cluster):
    nowhere = Path("/nowhere")
    source = ShardSource(
        *(nowhere, nowhere, nowhere, nowhere, "cpu"), EncodingSettings(2, normalise=True), 3
    )
    with pytest.raises(ConfigError, match=r"sees no /nowhere; SICSREC_HOME must be a folder"):
        list(cluster.spread(partial(encode_shard, source), iter([0])))


def die_once(mark, number):
    if number == 3 and not mark.exists():
        mark.touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return number


@pytest.mark.slow
def test_what_a_killed_worker_was_doing_is_done_by_another(cluster, tmp_path):
    mark = tmp_path / "died"
    found = dict(cluster.spread(partial(die_once, mark), iter(range(6))))
    assert mark.exists()
    assert found == {number: number for number in range(6)}


@pytest.mark.parametrize("where", ["local:0", "local", "host:8786", "http://host:8786", "tcp://a"])
def test_what_is_no_cluster_is_named(where):
    with pytest.raises(ConfigError, match="expected local:<processes> or the address"):
        open_cluster(where).__enter__()


def test_a_scheduler_that_does_not_answer_is_named(monkeypatch):
    monkeypatch.setattr(cluster_module, "_SECONDS_TO_CONNECT", 1)
    with pytest.raises(ConfigError, match=r"no Dask scheduler answers at .*tcp://127.0.0.1:1"):
        open_cluster("tcp://127.0.0.1:1").__enter__()


def test_without_a_setting_there_is_none():
    with open_cluster(None) as opened:
        assert opened is None


def test_the_environment_is_put_back(monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    before = dict(os.environ)
    with open_cluster("local:1"):
        pass
    assert dict(os.environ) == before
