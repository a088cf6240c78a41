"""What ``sicsrec gc`` keeps and what it removes; every rule, on a store made by hand."""

import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import time
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from sicsrec.artifacts import ArtifactStore, Manifest
from sicsrec.errors import ConfigError
from sicsrec.retention import RetentionPolicy, list_things, remove_things
from sicsrec.runs import RunRegister

NOW = datetime.now(UTC)


class World:
    """A store whose steps are committed at will."""

    def __init__(self, root: Path) -> None:
        self.store = ArtifactStore(root)
        self.register = RunRegister(root, "d")

    def commit(self, step: str, key: str, *inputs: str, days: float = 0.0, run: str = "") -> str:
        """Commit ``step`` under a key of one repeated digit; ``inputs`` are ``step/digit``."""
        key = key * 16
        pending = self.store.begin("d", step, key)
        (pending.output("out") / "file").write_text(f"{step} {key}")
        self.store.commit(
            pending,
            Manifest(
                "d", step, 1, key, {}, None,
                {name: {"step": name.split("/")[0], "key": name.split("/")[1] * 16}
                 for name in inputs},
                {}, pending.describe({"out": ()}), (NOW - timedelta(days=days)).isoformat(), 1.0,
                {}, {}, {"mlflow_run_id": run},
            ),
            {},
        )  # fmt: skip
        return f"{step}/{key[0]}"

    def good_run(self, name: str, *made: str, preset: str = "d") -> None:
        last = made[-1].split("/")[0]
        with self.register.recording(name, preset, last):
            for place in made:
                step, key = place.split("/")
                self.register.note_step(name, step, key * 16)
        time.sleep(0.002)  # runs are ordered by their end, in milliseconds

    def going(self, **policy: object) -> set[str]:
        """Return what a dry run would remove."""
        things = list_things(self.store, RetentionPolicy(**policy))  # type: ignore[arg-type]
        return {f"{t.step}/{t.name.strip('.')[0]}" for t in things if t.verdict.is_removable}

    def reasons(self, **policy: object) -> dict[str, str]:
        things = list_things(self.store, RetentionPolicy(**policy))  # type: ignore[arg-type]
        return {f"{t.step}/{t.name.strip('.')[0]}": t.verdict.reason for t in things}


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path / "artifacts")


def test_newest_good_run_and_all_it_was_made_of_are_kept(world: World) -> None:
    first = world.commit("ingest", "a")
    old, new = world.commit("split", "b", first), world.commit("split", "c", first)
    world.good_run("one", first, old)
    # The run names what it made last; what went into it is found by the manifests.
    world.good_run("two", new)
    assert world.going() == {old}
    assert world.reasons()[first] == "newest run of d up to split"
    assert world.going(n_runs=2) == set()


def test_of_runs_beside_each_other_the_one_that_ended_last_is_the_newest(world: World) -> None:
    long, short = world.commit("ingest", "a"), world.commit("ingest", "b")
    with world.register.recording("long", "d", "ingest"):
        world.register.note_step("long", "ingest", "a" * 16)
        time.sleep(0.002)
        world.good_run("short", short)
    assert world.going() == {short}
    assert world.reasons()[long] == "newest run of d up to ingest"


def test_runs_of_other_presets_and_of_fewer_steps_do_not_push_each_other_out(world: World) -> None:
    full, other = world.commit("ingest", "a"), world.commit("ingest", "b")
    part = world.commit("ingest", "c")
    end = world.commit("export", "d", full)
    world.good_run("full", full, end)
    world.good_run("other", other, preset="mine.yaml")
    world.good_run("part", part)
    assert world.going() == set()


def test_what_no_run_is_known_of_is_kept_by_lineage(world: World) -> None:
    first = world.commit("ingest", "a", days=9)
    world.commit("split", "c", first)
    older = world.commit("ingest", "b", days=3)
    assert world.going() == set()
    world.commit("ingest", "e", days=1)
    assert world.going() == {older}


def test_without_known_runs_what_others_were_made_of_is_no_end_of_its_own(world: World) -> None:
    """A newer artifact that went into something does not push out an older one that did not."""
    world.commit("split", "c", world.commit("ingest", "a", days=2), days=2)
    world.commit("ingest", "b", days=3)
    assert world.going() == set()


def test_where_no_run_ended_well_what_is_there_is_kept_by_lineage(world: World) -> None:
    first = world.commit("ingest", "a", days=9)
    world.commit("split", "c", first, days=9)
    fail(world, "bad")
    let_a_day_pass(world, "bad", "started", "failed")
    assert world.going() == set()
    list(remove_things(world.store, RetentionPolicy()))
    assert world.register.entries() == []
    assert world.going() == set()


def test_a_run_that_failed_before_its_first_step_is_remembered_for_a_day(world: World) -> None:
    world.good_run("good", world.commit("ingest", "a"))
    fail(world, "bad")
    list(remove_things(world.store, RetentionPolicy()))
    assert {entry.id for entry in world.register.entries()} == {"good", "bad"}
    let_a_day_pass(world, "bad", "started", "failed")
    list(remove_things(world.store, RetentionPolicy()))
    assert [entry.id for entry in world.register.entries()] == ["good"]


def test_age_marks_and_datasets(world: World) -> None:
    kept = world.commit("ingest", "a")
    old = world.commit("ingest", "b", days=10, run="of-step")
    young = world.commit("ingest", "c", days=2)
    world.good_run("good", kept)
    assert world.going() == {old, young}
    assert world.going(older_than=timedelta(days=5)) == {old}
    assert world.going(pinned_runs={"of-step"}) == {young}
    with pytest.raises(ConfigError, match=r"no dataset e in .*there are: d"):
        list_things(world.store, RetentionPolicy(), ["e"])


def test_only_the_datasets_that_are_named_are_looked_at(world: World) -> None:
    old = world.commit("ingest", "a", days=2)
    world.good_run("good", world.commit("ingest", "b"))
    shutil.copytree(world.store.root / "d", world.store.root / "e")
    assert {thing.dataset for thing in list_things(world.store, RetentionPolicy(), ["d"])} == {"d"}
    gone = list(remove_things(world.store, RetentionPolicy(), ["e"]))
    assert [(thing.dataset, thing.name) for thing in gone] == [("e", "a" * 16)]
    assert {thing.dataset for thing in list_things(world.store, RetentionPolicy())} == {"d", "e"}
    assert world.going() == {old}


def test_marked_run_of_a_step_keeps_what_its_artifact_was_made_of(world: World) -> None:
    first = world.commit("ingest", "a", days=9)
    marked = world.commit("split", "b", first, days=9, run="of-step")
    world.good_run("good", world.commit("ingest", "c"))
    assert world.going() == {first, marked}
    assert world.going(pinned_runs={"of-step"}) == set()


def test_marked_run_of_a_pipeline_keeps_its_steps(world: World) -> None:
    first, second = world.commit("ingest", "a"), world.commit("ingest", "b")
    world.good_run("marked", first)
    world.good_run("newest", second)
    assert world.going() == {first}
    assert world.going(pinned_runs={"marked"}) == set()


def test_torn_artifacts_and_leftovers_go_whatever_their_age(world: World) -> None:
    places = [world.commit("ingest", key) for key in "abc"]
    world.good_run("good", *places)
    steps = world.store.root / "d" / "ingest"
    (steps / ("a" * 16) / "data" / "out" / "file").unlink()
    (steps / ("b" * 16) / "manifest.json").chmod(0o644)
    (steps / ("b" * 16) / "manifest.json").write_text("{")
    (steps / f".{'f' * 16}.removed" / "data").mkdir(parents=True)
    (steps / "notes of somebody").mkdir()
    assert world.going(older_than=timedelta(days=99)) == {"ingest/a", "ingest/b", "ingest/f"}
    gone = list(remove_things(world.store, RetentionPolicy()))
    assert len(gone) == 3
    left = {path.name for path in steps.iterdir()}
    assert left == {"c" * 16, "notes of somebody"}


def test_file_that_was_cut_short_makes_its_artifact_torn(world: World) -> None:
    place = world.commit("ingest", "a")
    world.good_run("good", place)
    path = world.store.root / "d" / "ingest" / ("a" * 16) / "data" / "out" / "file"
    path.chmod(0o644)
    path.write_bytes(path.read_bytes()[:-1])
    assert world.going() == {place}
    assert world.reasons()[place] == "out/file is missing or cut short"


def test_an_artifact_without_a_readable_report_is_torn(world: World) -> None:
    place = world.commit("ingest", "a")
    world.good_run("good", place)
    path = world.store.root / "d" / "ingest" / ("a" * 16) / "report.json"
    path.chmod(0o644)
    path.write_text("{")
    assert world.going() == {place}
    assert world.reasons()[place] == "its report cannot be read"


def test_good_run_of_which_a_part_was_torn_keeps_the_rest(world: World) -> None:
    older = world.commit("ingest", "a", days=9)
    world.good_run("older", older, world.commit("split", "b", older, days=9))
    newer = world.commit("ingest", "c", days=9)
    world.good_run("newer", newer, world.commit("split", "d", newer, days=9))
    (world.store.root / "d" / "split" / ("d" * 16) / "manifest.json").unlink()
    list(remove_things(world.store, RetentionPolicy()))
    assert "newer" in {entry.id for entry in world.register.entries()}
    assert set(world.reasons()) == {newer}
    assert world.going() == set()


def test_checkpoints_are_kept_for_a_day_and_caches_until_they_are_named(world: World) -> None:
    place = world.commit("ingest", "a")
    world.good_run("good", place)
    pending = world.store.begin("d", "ingest", "b" * 16)
    checkpoint = pending.work / "checkpoint.pt"
    checkpoint.write_text("x")
    pending.cache.mkdir()
    (pending.cache / "responses.jsonl").write_text("{}")
    assert world.going() == set()
    assert world.going(with_caches=True) == {"ingest/c"}
    assert world.going(with_caches=True, older_than=timedelta(days=5)) == set()
    long_ago = time.time() - 2 * 86400
    for path in (pending.folder, pending.work):
        os.utime(path, (long_ago, long_ago))
    assert world.going() == set(), "the newest of its files counts"
    os.utime(checkpoint, (long_ago, long_ago))
    assert world.going() == {"ingest/b"}
    assert world.going(older_than=timedelta(days=5)) == set()


def test_what_vanishes_while_it_is_looked_at_is_passed_over(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    pending = world.store.begin("d", "ingest", "b" * 16)
    (pending.work / "kept").write_text("12345")
    (pending.work / "replaced").write_text("x")
    (pending.work / "folder").mkdir()
    other = world.store.begin("d", "ingest", "c" * 16)
    real = Path.lstat

    def vanishing(path: Path) -> os.stat_result:
        if path.name in {"replaced", "folder", other.folder.name}:
            raise FileNotFoundError(path)
        return real(path)

    monkeypatch.setattr(Path, "lstat", vanishing)
    [thing] = list_things(world.store, RetentionPolicy())
    assert (thing.name, thing.n_bytes) == (pending.folder.name, 5)


def test_a_step_that_is_removed_while_it_is_looked_at_is_passed_over(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.commit("ingest", "a")
    find = world.store.find

    def find_before_removal(dataset: str, step: str, key: str) -> Manifest | None:
        manifest = find(dataset, step, key)
        shutil.rmtree(world.store.folder(dataset, step, key))
        return manifest

    monkeypatch.setattr(world.store, "find", find_before_removal)
    assert list_things(world.store, RetentionPolicy()) == []


def test_nothing_goes_while_a_run_uses_the_dataset(world: World) -> None:
    first, second = world.commit("ingest", "a", days=2), world.commit("ingest", "b")
    world.good_run("good", second)
    with world.register.using():
        assert world.going() == set()
        assert world.reasons()[first] == "a run that uses this dataset is in progress"
        told: list[str] = []
        assert list(remove_things(world.store, RetentionPolicy(), when_in_use=told.append)) == []
        assert told == ["d"]
    assert [thing.name for thing in remove_things(world.store, RetentionPolicy())] == ["a" * 16]
    assert [entry.id for entry in world.register.entries()] == ["good"]


def fail(world: World, name: str, *made: str) -> None:
    with suppress(ValueError), world.register.recording(name, "d", "export"):
        for place in made:
            step, key = place.split("/")
            world.register.note_step(name, step, key * 16)
        raise ValueError


def let_a_day_pass(world: World, name: str, *moments: str) -> None:
    """Move moments of a run's entry back by more than a day."""
    path = world.register.folder / f"{name}.json"
    entry = json.loads(path.read_text())
    long_ago = (NOW - timedelta(days=1.1)).isoformat()
    path.write_text(json.dumps(entry | dict.fromkeys(moments, long_ago)))


def test_what_a_failed_run_used_is_kept_for_a_day_and_then_forgotten(world: World) -> None:
    used, good = world.commit("ingest", "a", days=9), world.commit("ingest", "b", days=8)
    world.good_run("old", used)
    world.good_run("good", good)
    assert world.going() == {used}
    made = world.commit("align_encoders", "c", used, days=1.5)
    fail(world, "bad", used, made)
    assert world.going() == set()
    for place in (used, made):
        assert "a run that did not end well used it" in world.reasons()[place]
    assert world.register.killed() == []
    list(remove_things(world.store, RetentionPolicy()))
    assert {entry.id for entry in world.register.entries()} == {"old", "good", "bad"}

    let_a_day_pass(world, "bad", "started")  # however long it took until it failed
    assert world.going() == set()
    let_a_day_pass(world, "bad", "started", "failed")
    assert world.going() == {used, made}
    list(remove_things(world.store, RetentionPolicy()))
    assert [entry.id for entry in world.register.entries()] == ["good"]


def test_what_was_finished_is_kept_for_a_day_though_no_run_noted_it(world: World) -> None:
    world.good_run("older", world.commit("ingest", "a"))
    world.good_run("good", world.commit("ingest", "b"))
    used = world.commit("ingest", "c", days=9)
    young = world.commit("align_encoders", "d", used)
    old = world.commit("pretrain_id", "e", days=1.1)
    # What good runs made goes at any age, so that a full disk can be helped.
    assert world.going() == {"ingest/a", old}
    assert "finished not long ago" in world.reasons()[young]
    # Begun long ago and finished just now.
    path = world.store.folder("d", "pretrain_id", "e" * 16) / "manifest.json"
    manifest = json.loads(path.read_text())
    path.chmod(0o644)
    path.write_text(json.dumps(manifest | {"seconds": 86400.0}))
    assert world.going() == {"ingest/a"}


def test_what_a_killed_run_used_is_kept_as_long_as_checkpoints_are(world: World) -> None:
    used, good = world.commit("ingest", "a", days=9), world.commit("ingest", "b", days=8)
    world.good_run("old", used)
    world.good_run("good", good)
    fail(world, "killed", used)
    path = world.register.folder / "killed.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"failed": None}))
    assert [entry.id for entry in world.register.killed()] == ["killed"]
    assert world.going() == set()

    let_a_day_pass(world, "killed", "started")
    assert world.going() == {used}
    pending = world.store.begin("d", "pretrain_id", "c" * 16)
    assert world.going() == set()
    long_ago = time.time() - 2 * 86400
    for folder in (pending.work, pending.folder):
        os.utime(folder, (long_ago, long_ago))
    assert world.going() == {used, "pretrain_id/c"}

    world.register.note_failure("killed")  # as the next run or status does
    assert world.register.killed() == []
    assert world.going() == {"pretrain_id/c"}


def test_run_that_fails_where_nothing_can_be_written_says_why_and_leaves_its_steps(
    world: World,
) -> None:
    used, good = world.commit("ingest", "a", days=9), world.commit("ingest", "b", days=8)
    world.good_run("old", used)
    world.good_run("good", good)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    before = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)

    def run() -> None:
        with world.register.recording("bad", "d", "split"):
            world.register.note_step("bad", "ingest", "a" * 16)
            resource.setrlimit(resource.RLIMIT_FSIZE, (0, limits[1]))
            raise ValueError("why")

    try:
        with pytest.raises(ValueError, match="why"):
            run()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, before)
    assert world.going() == set()
    assert not list(world.register.folder.glob("*.tmp"))
    assert [entry.id for entry in world.register.killed()] == ["bad"]


USER = """
import sys
from pathlib import Path
from sicsrec.runs import RunRegister

with RunRegister(Path(sys.argv[1]), "d").recording("theirs", "d", "ingest"):
    print("in", flush=True)
    sys.stdin.read()
"""


def test_use_ends_with_the_process_that_is_killed(world: World) -> None:
    first, second = world.commit("ingest", "a", days=2), world.commit("ingest", "b")
    world.good_run("good", second)
    process = subprocess.Popen(
        [sys.executable, "-c", USER, str(world.store.root)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "in\n"
    assert world.register.killed() == []
    assert world.going() == set()
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert [entry.id for entry in world.register.killed()] == ["theirs"]
    assert world.going() == {first}


MAKER = """
import sys
from pathlib import Path
from sicsrec.artifacts import ArtifactStore
from sicsrec.runs import RunRegister

store = ArtifactStore(Path(sys.argv[1]))
with RunRegister(store.root, "d").using(), store.lock("d", "ingest", "b" * 16):
    print("in", flush=True)
    sys.stdin.read()
"""


def test_locks_stay_while_a_process_holds_them_and_go_after_it_was_killed(world: World) -> None:
    world.good_run("good", world.commit("ingest", "a"))
    of_key = world.store.folder("d", "ingest", f".{'b' * 16}.lock")
    of_nobody = of_key.with_name(f".{'c' * 16}.lock")
    of_others = of_key.with_name(".mine.lock")
    for path in (of_nobody, of_others):
        path.touch()
    process = subprocess.Popen(
        [sys.executable, "-c", MAKER, str(world.store.root)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "in\n"
    (of_user,) = set(world.register.folder.glob("*.lock")) - {
        world.register.folder / "entrance.lock"
    }
    list(remove_things(world.store, RetentionPolicy()))
    assert of_key.exists()
    assert of_user.exists()
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert of_key.exists()
    list(remove_things(world.store, RetentionPolicy()))
    assert not any(path.exists() for path in (of_key, of_user, of_nobody))
    assert of_others.exists()
    assert world.going() == set()


RUNNING = """
import sys
from pathlib import Path
from tests.unit.test_retention import World

world = World(Path(sys.argv[1]))
for number in range(15):
    with world.register.using():
        place = world.commit("ingest", "a", days=2)
        (manifest,) = world.store.manifests("d", "ingest")
        other = world.commit("split", "b", place, days=2)
        world.store.verify(manifest)
        path = world.store.open(manifest.refs()["ingest/out"]).path("file")
        assert path.read_text() == "ingest " + "a" * 16
print("done")
"""


def test_removing_beside_runs_takes_nothing_from_them(world: World) -> None:
    # A good run of something else, so that nothing of the runs below is kept for its own sake.
    world.good_run("good", world.commit("export", "f"))
    process = subprocess.Popen(
        [sys.executable, "-c", RUNNING, str(world.store.root)], stdout=subprocess.PIPE, text=True
    )
    n_gone = 0
    while process.poll() is None:
        n_gone += len(list(remove_things(world.store, RetentionPolicy())))
    assert process.communicate()[0] == "done\n"
    assert process.returncode == 0
    assert n_gone > 0


DYING = """
import os, signal, sys
from pathlib import Path
from sicsrec.retention import RetentionPolicy, remove_things
from tests.flows.dying import Death, arm
from tests.unit.test_retention import World

root = Path(sys.argv[1])
for number in range(1, 1000):
    world = World(root / str(number))
    first = world.commit("ingest", "a")
    old, new = world.commit("split", "b", first), world.commit("split", "c", first)
    world.good_run("one", first, old)
    world.good_run("two", first, new)
    pid = os.fork()
    if not pid:
        arm(Death(str(world.store.root), number=number))
        list(remove_things(world.store, RetentionPolicy()))
        os._exit(0)
    status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    for step in ("ingest", "split"):
        for manifest in world.store.manifests("d", step):
            world.store.verify(manifest)
    list(remove_things(world.store, RetentionPolicy()))
    assert world.going() == set()
    names = {path.parent.name + "/" + path.name[0] for path in (root / str(number)).glob("d/*/*")}
    assert {n for n in names if not n.startswith(".runs")} == {first, new}, (number, names)
    if status == 0:
        break
    assert status == -signal.SIGKILL
print(number)
"""


def test_removing_killed_at_every_one_of_its_moments_leaves_a_good_store(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", DYING, str(tmp_path)], check=False, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) > 5


def test_entry_that_cannot_be_read_is_passed_over(world: World) -> None:
    world.good_run("good", world.commit("ingest", "a"))
    (world.register.folder / "torn.json").write_text("{")
    (world.register.folder / "other.json").write_text(json.dumps({"a": 1}))
    assert [entry.id for entry in world.register.entries()] == ["good"]
