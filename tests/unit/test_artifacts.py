import json
import os
import signal
import stat
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sicsrec.artifacts import (
    ArtifactStore,
    Manifest,
    canonical_json,
    digest_file,
    digest_folder,
    make_key,
    resolve_inside,
)
from sicsrec.config import PipelineConfig
from sicsrec.errors import ArtifactCorruptError, ArtifactError, ArtifactMissingError
from sicsrec.runs import RunRegister
from sicsrec.steps import ingest
from sicsrec.steps.runner import run_step
from sicsrec.tracking import NullTracker
from tests.rights import as_anybody, closed

KEY = "0123456789abcdef"

values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)  # fmt: skip


@given(st.dictionaries(st.text(), values, max_size=5))
def test_canonical_json_ignores_the_order_of_keys_and_keeps_the_value(value):
    backwards = dict(reversed(value.items()))
    assert canonical_json(value) == canonical_json(backwards)
    assert json.loads(canonical_json(value)) == value


def test_canonical_json_refuses_what_json_does_not_know():
    with pytest.raises(ValueError, match="Out of range float"):
        canonical_json({"a": float("nan")})


def test_key_is_a_short_digest_that_follows_every_value():
    identity = {"step": "split", "config": {"a": 1}, "inputs": {"x": "d"}}
    key = make_key(identity)
    assert len(key) == 16
    assert int(key, 16) >= 0
    assert key == make_key(dict(reversed(identity.items())))
    assert key != make_key(identity | {"config": {"a": 2}})
    # Written down so that a change of the scheme, which empties every store, is a decision.
    assert make_key({}) == "44136fa355b3678a"


def test_digest_of_a_folder_follows_names_and_contents(tmp_path):
    def digest(**files):
        folder = tmp_path / str(len(list(tmp_path.iterdir())))
        for name, content in files.items():
            path = folder / name.replace("__", "/")
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(content)
        return digest_folder(folder)

    first = digest(a="1", b__c="2")
    assert first == digest(b__c="2", a="1")
    assert len({first, digest(a="2", b__c="1"), digest(a="1", b__d="2"), digest(a="1")}) == 4
    # As a download leaves it there, with the time of the download.
    assert first == digest(a="1", b__c="2", **{".cache__huggingface__a.metadata": "3", ".d": "4"})


def test_digest_of_a_folder_below_a_hidden_one_follows_its_contents(tmp_path):
    folder = tmp_path / ".cache" / "model"
    folder.mkdir(parents=True)
    (folder / "a").write_text("1")
    before = digest_folder(folder)
    (folder / "a").write_text("2")
    assert digest_folder(folder) != before


def test_digest_of_a_folder_follows_where_links_to_folders_lead(tmp_path):
    for day in ("1", "2"):
        (tmp_path / "data" / day).mkdir(parents=True)
        (tmp_path / "data" / day / "items.csv").write_text(day)
    link = tmp_path / "data" / "today"
    digests = {digest_folder(tmp_path / "data")}
    for day in ("1", "2"):
        link.symlink_to(day)
        digests.add(digest_folder(tmp_path / "data"))
        link.unlink()
    assert len(digests) == 3


def test_a_link_that_leads_nowhere_is_no_content(tmp_path):
    (tmp_path / "a").write_text("1")
    before = digest_folder(tmp_path)
    (tmp_path / "b").symlink_to("c")
    assert digest_folder(tmp_path) == before


def test_a_folder_that_may_not_be_looked_into_is_no_empty_one(tmp_path):
    (tmp_path / "covers").mkdir()
    (tmp_path / "covers" / "a.jpg").write_text("one")
    (tmp_path / ".mine").mkdir()
    before = digest_folder(tmp_path)
    for rights in (0o000, 0o444):
        with closed(tmp_path / "covers", rights), pytest.raises(PermissionError):
            as_anybody(digest_folder, tmp_path)
    with closed(tmp_path / ".mine"):
        assert as_anybody(digest_folder, tmp_path) == before, "what is hidden is no content"


def test_path_that_leaves_its_root_is_refused(tmp_path):
    root = tmp_path / "root"
    root.mkdir()
    (root / "link").symlink_to(tmp_path)
    assert resolve_inside(root, "a/../b") == root / "b"
    for relative in ("..", "a/../../b", "/etc", "link/x"):
        with pytest.raises(ArtifactError, match="leaves its root"):
            resolve_inside(root, relative)


def commit(store, content="hello", report=None):
    pending = store.begin("d", "split", KEY)
    (pending.output("train") / "a.txt").write_text(content)
    (pending.output("train") / "sub").mkdir()
    (pending.output("train") / "sub" / "b.bin").write_bytes(bytes(1000))
    (pending.work / "checkpoint").write_text("half")
    outputs = pending.describe({"train": ("train",)})
    manifest = Manifest(
        "d", "split", 1, KEY, {}, None, {}, {}, outputs, "2025-01-01T00:00:00", 1.0, {}, {}
    )
    return store.commit(pending, manifest, report or {"rows": 1})


@pytest.fixture
def store(tmp_path):
    return ArtifactStore(tmp_path / "store")


def test_commit_is_found_read_and_verified(store):
    manifest = commit(store)
    assert store.find("d", "split", KEY) == manifest
    store.verify(manifest)
    ref = manifest.refs()["split/train"]
    assert ref.sees == ("train",)
    assert store.open(ref).path("a.txt").read_text() == "hello"
    assert store.report("d", "split", KEY) == {"rows": 1}
    assert store.manifests("d", "split") == [manifest]
    assert manifest.n_bytes == 1005
    assert [path.name for path in (store.root / "d" / "split").iterdir()] == [KEY]


def test_committed_files_are_read_only_and_checkpoints_gone(store):
    commit(store)
    folder = store.folder("d", "split", KEY)
    modes = {stat.S_IMODE(path.stat().st_mode) for path in folder.rglob("*") if path.is_file()}
    assert modes == {0o444}
    assert not (folder / "work").exists()


def test_nothing_is_visible_before_the_commit(store):
    pending = store.begin("d", "split", KEY)
    (pending.output("train") / "a.txt").write_text("x")
    assert store.find("d", "split", KEY) is None
    assert store.manifests("d", "split") == []
    with pytest.raises(ArtifactMissingError):
        store.report("d", "split", KEY)


def test_second_commit_replaces_the_first(store):
    commit(store, "old")
    manifest = commit(store, "new")
    store.verify(manifest)
    assert store.open(manifest.refs()["split/train"]).path("a.txt").read_text() == "new"
    assert [path.name for path in (store.root / "d" / "split").iterdir()] == [KEY]


def test_all_is_on_the_disk_before_it_is_seen(store, monkeypatch):
    folder, fsync, rename = store.folder("d", "split", KEY), os.fsync, Path.rename
    synced, missing = set(), []

    def noting(handle):
        fsync(handle)
        synced.add(os.fstat(handle).st_ino)

    def looking(path, target):
        if target == folder:
            missing.append([p.name for p in path.rglob("*") if p.stat().st_ino not in synced])
        return rename(path, target)

    monkeypatch.setattr(os, "fsync", noting)
    monkeypatch.setattr(Path, "rename", looking)
    commit(store)
    assert missing == [[]]
    assert folder.parent.stat().st_ino in synced
    synced.clear()
    commit(store)  # the same once more: its manifest takes the place of the old one
    assert missing == [[]]
    assert {folder.stat().st_ino, (folder / "manifest.json").stat().st_ino} <= synced


def test_a_store_that_may_not_be_read_is_not_taken_for_an_empty_one(store):
    assert ArtifactStore(store.root / "none" / "yet").datasets() == []
    store.root.mkdir()
    with closed(store.root), pytest.raises(PermissionError):
        as_anybody(store.datasets, "split")


def test_commits_are_listed_from_the_oldest_whatever_their_keys(store):
    for key, day in (("a" * 16, 3), ("b" * 16, 1), ("c" * 16, 2)):
        started = f"2025-01-0{day}T00:00:00"
        manifest = Manifest("d", "split", 1, key, {}, None, {}, {}, {}, started, 1.0, {}, {})
        store.commit(store.begin("d", "split", key), manifest, {})
    assert [manifest.key[0] for manifest in store.manifests("d", "split")] == ["b", "c", "a"]


def test_starting_again_clears_half_outputs_but_keeps_checkpoints(store):
    pending = store.begin("d", "split", KEY)
    (pending.output("train") / "half").write_text("x")
    (pending.work / "checkpoint").write_text("epoch 3")
    again = store.begin("d", "split", KEY)
    assert again.output_names() == set()
    assert (again.work / "checkpoint").read_text() == "epoch 3"


def test_a_step_that_is_stopped_gives_its_space_back_and_keeps_checkpoints(store):
    pending = store.begin("d", "split", KEY)
    (pending.output("train") / "half").write_text("x")
    (pending.work / "checkpoint").write_text("epoch 3")
    with pytest.raises(KeyboardInterrupt), pending.discarded_on_error():
        raise KeyboardInterrupt
    assert [path.name for path in pending.folder.rglob("*")] == ["work", "checkpoint"]


def break_missing(path):
    path.unlink()


def break_truncated(path):
    path.chmod(0o644)
    path.write_bytes(path.read_bytes()[:-1])


def break_edited(path):
    path.chmod(0o644)
    path.write_bytes(b"\1" + path.read_bytes()[1:])


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (break_missing, "sub/b.bin is missing"),
        (break_truncated, "sub/b.bin has 999 bytes, expected 1000"),
        (break_edited, "sub/b.bin was edited"),
    ],
)
def test_verify_names_the_damaged_file(store, damage, message):
    manifest = commit(store)
    damage(store.open(manifest.refs()["split/train"]).path("sub/b.bin"))
    with pytest.raises(ArtifactCorruptError, match=rf"split/train {KEY}: {message}"):
        store.verify(manifest)


@pytest.mark.parametrize("content", ["", "{", "[]", '{"schema_version": 99}', '{"outputs": {}}'])
def test_manifest_that_cannot_be_read(store, content):
    commit(store)
    path = store.folder("d", "split", KEY) / "manifest.json"
    path.chmod(0o644)
    path.write_text(content)
    with pytest.raises(ArtifactCorruptError, match="not a readable manifest"):
        store.find("d", "split", KEY)
    assert store.manifests("d", "split") == []


def test_manifest_of_another_release_is_not_read_as_one_of_this(store):
    commit(store)
    path = store.folder("d", "split", KEY) / "manifest.json"
    path.chmod(0o644)
    path.write_text(json.dumps(json.loads(path.read_text()) | {"schema_version": 2}))
    with pytest.raises(ArtifactCorruptError, match="schema_version 2, this release reads 1"):
        store.find("d", "split", KEY)


def test_reader_gives_one_output_and_nothing_beside_it(store):
    reader = store.open(commit(store).refs()["split/train"])
    for name in ("../../manifest.json", "../valid", "/etc/passwd"):
        with pytest.raises(ArtifactError, match="leaves its root"):
            reader.path(name)
    with pytest.raises(ArtifactMissingError, match=r"has no file 'c\.txt'"):
        reader.path("c.txt")


def test_ref_to_nothing_is_missing(store):
    ref = commit(store).refs()["split/train"]
    empty = ArtifactStore(store.root / "elsewhere")
    with pytest.raises(ArtifactMissingError, match="is not in the store"):
        empty.open(ref)


# ------------------------------------------------------- real processes, real kills

CONFIG = {
    "dataset": "t",
    "ingest": {"reader": {"kind": "demo", "n_items": 60, "n_users": 40}},
    "align_encoders": {"text_encoder": {"library": "open_clip", "architecture": {}}},
}

PROGRAM = """
import json, os, sys, time
from contextlib import contextmanager
from pathlib import Path
from sicsrec.artifacts import ArtifactStore
from sicsrec.config import (PipelineConfig)
from sicsrec.steps.runner import run_step
from sicsrec.tracking import NullTracker

root, config, mode = Path(sys.argv[1]), json.loads(sys.argv[2]), sys.argv[3]

class Hang:
    @contextmanager
    def stage(self, description, total):
        def advance(n=1, note=""):
            if mode == "hang":
                (root / "hanging").touch()
                time.sleep(600)
        yield advance

@contextmanager
def record(step, key):
    with open(root / "made.txt", "a") as stream:
        stream.write(f"{os.getpid()}\\n")
    time.sleep(0.5)
    yield NullTracker()

(root / f"ready-{os.getpid()}").touch()
while mode == "race" and not (root / "go").exists():
    time.sleep(0.01)
result = run_step(
    "ingest", PipelineConfig.model_validate(config), {}, ArtifactStore(root / "store"),
    open_tracker=record, progress=Hang(),
)
print(json.dumps([result.manifest.key, result.was_reused]))
"""


def start(root: Path, mode: str) -> subprocess.Popen:
    return subprocess.Popen(
        [sys.executable, "-c", PROGRAM, str(root), json.dumps(CONFIG), mode],
        stdout=subprocess.PIPE,
        text=True,
    )


def wait_for(condition, seconds=60.0):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited too long"
        time.sleep(0.02)


def test_killed_step_leaves_no_commit_and_the_next_run_repairs_the_store(tmp_path):
    process = start(tmp_path, "hang")
    try:
        wait_for((tmp_path / "hanging").exists)
    finally:
        os.kill(process.pid, signal.SIGKILL)
        process.communicate()
    store = ArtifactStore(tmp_path / "store")
    folder = store.root / "t" / "ingest"
    leftovers = [path.name for path in folder.iterdir() if path.name.endswith(".partial")]
    assert len(leftovers) == 1
    assert store.manifests("t", "ingest") == []

    config = PipelineConfig.model_validate(CONFIG)
    result = run_step("ingest", config, {}, store)
    assert not result.was_reused
    store.verify(result.manifest)
    assert not [path for path in folder.iterdir() if path.name.endswith(".partial")]
    fresh = run_step("ingest", config, {}, ArtifactStore(tmp_path / "fresh"))
    assert {name: ref.digest for name, ref in result.refs.items()} == {
        name: ref.digest for name, ref in fresh.refs.items()
    }
    assert run_step("ingest", config, {}, store).was_reused


def test_two_processes_that_want_the_same_key_make_it_once(tmp_path):
    processes = [start(tmp_path, "race") for _ in range(2)]
    wait_for(lambda: len(list(tmp_path.glob("ready-*"))) == 2)
    (tmp_path / "go").touch()
    answers = [json.loads(process.communicate(timeout=60)[0]) for process in processes]
    assert [process.returncode for process in processes] == [0, 0]
    assert len({key for key, _ in answers}) == 1
    assert sorted(was_reused for _, was_reused in answers) == [False, True]
    assert len((tmp_path / "made.txt").read_text().splitlines()) == 1


def test_a_step_that_runs_is_known_to_use_its_dataset(tmp_path):
    register, seen = RunRegister(tmp_path, "t"), []

    @contextmanager
    def record(step, key):
        seen.append(register.is_in_use())
        yield NullTracker()

    config = PipelineConfig.model_validate(CONFIG)
    run_step("ingest", config, {}, ArtifactStore(tmp_path), open_tracker=record)
    assert seen == [True]
    assert not register.is_in_use()


def test_an_output_that_was_not_declared_is_refused(tmp_path, monkeypatch):
    run = ingest.run

    def with_more(context):
        context.output("more")
        return run(context)

    monkeypatch.setattr(ingest, "run", with_more)
    store = ArtifactStore(tmp_path)
    with pytest.raises(ArtifactError, match=r"wrote the outputs .*'more'.*declared"):
        run_step("ingest", PipelineConfig.model_validate(CONFIG), {}, store)
    assert store.manifests("t", "ingest") == []


def test_damaged_commit_is_made_anew_by_the_next_run(tmp_path):
    store, config = ArtifactStore(tmp_path / "store"), PipelineConfig.model_validate(CONFIG)
    first = run_step("ingest", config, {}, store)
    path = store.open(first.refs["ingest/catalog"]).path("items.parquet")
    digest = digest_file(path)
    break_truncated(path)
    again = run_step("ingest", config, {}, store)
    assert not again.was_reused
    assert digest_file(path) == digest
    assert run_step("ingest", config, {}, store).was_reused


def test_what_a_kill_left_beside_a_commit_goes_when_it_is_reused(tmp_path):
    store, config = ArtifactStore(tmp_path), PipelineConfig.model_validate(CONFIG)
    key = run_step("ingest", config, {}, store).manifest.key
    folder = tmp_path / "t" / "ingest"
    for name in (f".{key}.partial", f".{key}.removed"):
        (folder / name / "work").mkdir(parents=True)
    assert run_step("ingest", config, {}, store).was_reused
    assert {path.name for path in folder.iterdir()} <= {key, f".{key}.lock"}


DYING_PROGRAM = """
import os, signal, sys
from pathlib import Path
from sicsrec.artifacts import ArtifactStore
from tests.flows.dying import Death, arm
from tests.unit.test_artifacts import KEY, commit

root, before = Path(sys.argv[1]), sys.argv[2]

def forked(work):
    pid = os.fork()
    if not pid:
        work()
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])

def dying(store, number):
    arm(Death(str(store.root), number=number))
    commit(store, "new")

for number in range(1, 1000):
    store = ArtifactStore(root / str(number))
    if before:
        commit(store, before, {"rows": 2})
    status = forked(lambda: dying(store, number))
    # A refresh that was killed leaves the old commit, the new one, or none: never half of one.
    manifest = store.find("d", "split", KEY)
    if manifest is not None:
        store.verify(manifest)
    else:
        assert forked(lambda: commit(store, "new")) == 0, number
    store.clear_leftovers("d", "split", KEY)
    manifest = store.find("d", "split", KEY)
    store.verify(manifest)
    assert [path.name for path in (store.root / "d" / "split").iterdir()] == [KEY], number
    if status == 0:
        break
    assert status == -signal.SIGKILL, status
print(number)
"""


@pytest.mark.parametrize("before", ["", "old", "new"])
def test_commit_killed_at_every_one_of_its_moments(tmp_path, before):
    done = subprocess.run(
        [sys.executable, "-c", DYING_PROGRAM, str(tmp_path), before],
        check=False,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) > 20


LIMITED_PROGRAM = """
import json, resource, sys
from pathlib import Path
from sicsrec.artifacts import ArtifactStore
from sicsrec.config import PipelineConfig
from sicsrec.errors import DiskFullError
from sicsrec.steps.runner import run_step

root, config, limit = Path(sys.argv[1]), json.loads(sys.argv[2]), int(sys.argv[3])
resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
try:
    run_step("ingest", PipelineConfig.model_validate(config), {}, ArtifactStore(root))
except DiskFullError as err:
    print(err)
"""


@pytest.mark.parametrize("limit", [100, 5_000])
def test_files_that_cannot_be_made_longer_give_one_clear_error(tmp_path, limit):
    """The limit on the size of files stands for a full disk; both stop real writes."""
    root = tmp_path / "store"
    done = subprocess.run(
        [sys.executable, "-c", LIMITED_PROGRAM, str(root), json.dumps(CONFIG), str(limit)],
        check=False,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    for words in (str(root), "ingest", "Free space", "run the same command again", "Cause: "):
        assert words in done.stdout
    store, config = ArtifactStore(root), PipelineConfig.model_validate(CONFIG)
    assert store.manifests("t", "ingest") == []
    # What had been written gives its space back at once.
    assert not list(root.glob("t/ingest/.*.partial/data"))
    result = run_step("ingest", config, {}, store)
    fresh = run_step("ingest", config, {}, ArtifactStore(tmp_path / "fresh"))
    assert {name: ref.digest for name, ref in result.refs.items()} == {
        name: ref.digest for name, ref in fresh.refs.items()
    }
