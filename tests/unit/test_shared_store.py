"""Several stores that share their work through one storage, as on several machines."""

import errno
import json
import logging
import os
import re
import resource
import signal
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from uuid import uuid4

import fsspec
import pytest
from fsspec.implementations.memory import MemoryFileSystem

from sicsrec.artifacts import ArtifactStore, Manifest
from sicsrec.config import PipelineConfig
from sicsrec.data.demo import write_demo
from sicsrec.errors import ConfigError, DiskFullError, SharedStoreError
from sicsrec.shared_store import SharedStore
from sicsrec.steps.lineage import trace_lineage
from sicsrec.steps.plan import plan_steps
from sicsrec.steps.runner import StepResult, run_step
from sicsrec.tracking import NullTracker
from tests.mlflow_server import free_port

KEY = "0123456789abcdef"
CONFIG = PipelineConfig.model_validate(
    {
        "dataset": "t",
        "ingest": {"reader": {"kind": "demo", "n_items": 60, "n_users": 40}},
        "align_encoders": {"text_encoder": {"library": "open_clip", "architecture": {}}},
    }
)


class Failing(MemoryFileSystem):
    """Keeps files in memory, as ``memory://`` does, and fails when it is told to."""

    protocol = "failing"
    cachable = False
    store: dict[str, object] = {}  # noqa: RUF012 - as in its base class
    calls: list[str] = []  # noqa: RUF012
    error: Exception | None = None
    after = 0
    """Calls that still go well."""

    @classmethod
    def _strip_protocol(cls, path):
        return super()._strip_protocol(path.removeprefix("failing://"))

    def _may_fail(self, name: str) -> None:
        type(self).calls.append(name)
        type(self).after -= 1
        if type(self).error is not None and type(self).after < 0:
            raise type(self).error

    def cat_file(self, path, **kwargs):
        self._may_fail("cat")
        return super().cat_file(path, **kwargs)

    def get_file(self, rpath, lpath, **kwargs):
        self._may_fail("get")
        return super().get_file(rpath, lpath, **kwargs)

    def put_file(self, lpath, rpath, **kwargs):
        self._may_fail("put")
        return super().put_file(lpath, rpath, **kwargs)

    def ls(self, path, **kwargs):
        self._may_fail("ls")
        return super().ls(path, **kwargs)


@pytest.fixture
def failing() -> Iterator[type[Failing]]:
    fsspec.register_implementation("failing", Failing, clobber=True)
    Failing.store, Failing.pseudo_dirs = {}, [""]
    Failing.error, Failing.after, Failing.calls = None, 0, []
    yield Failing
    Failing.error = None


@pytest.fixture(params=["file", "memory"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    return f"file://{tmp_path}/shared" if request.param == "file" else f"memory://{uuid4().hex}"


@pytest.fixture
def warnings(caplog: pytest.LogCaptureFixture) -> Iterator[list[str]]:
    caplog.set_level(logging.WARNING, logger="sicsrec")
    found: list[str] = []

    class Keep(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            # Demo has broken rows and covers, of which its step says so.
            if record.name != "sicsrec.steps.ingest":
                found.append(record.getMessage())

    keep = Keep(logging.WARNING)
    logging.getLogger("sicsrec").addHandler(keep)
    yield found
    logging.getLogger("sicsrec").removeHandler(keep)


class Machine:
    """A store of its own, and a count of what was really made there."""

    def __init__(self, folder: Path, url: str, pause_seconds: float = 300.0) -> None:
        self.store = ArtifactStore(folder)
        self.shared = SharedStore(url, pause_seconds)
        self.made: list[str] = []

    @contextmanager
    def _record(self, step, key):
        self.made.append(step.name)
        yield NullTracker()

    def run(self, *names: str, config: PipelineConfig = CONFIG) -> list[StepResult]:
        results, refs = [], {}
        for name in names or ("ingest", "split"):
            results.append(
                run_step(
                    name, config, refs, self.store, open_tracker=self._record, shared=self.shared
                )
            )
            refs |= results[-1].refs
            self.store.verify(results[-1].manifest)
        return results

    def leftovers(self) -> list[Path]:
        return [path for path in self.store.root.rglob(".*") if path.suffix == ".partial"]


def commit(store: ArtifactStore, **files: str) -> Manifest:
    pending = store.begin("d", "split", KEY)
    for name, content in files.items():
        (pending.output("train") / name).write_text(content)
    outputs = pending.describe({"train": ("train",)})
    manifest = Manifest(
        "d", "split", 1, KEY, {}, None, {}, {}, outputs, "2025-01-01T00:00:00", 1.0, {}, {}
    )
    return store.commit(pending, manifest, {"rows": 1})


def files_of(url: str) -> list[str]:
    files, root = fsspec.url_to_fs(url)
    return sorted(path for path in files.find(root))


def test_second_machine_makes_nothing_and_has_the_same(tmp_path, url):
    first, second = Machine(tmp_path / "1", url), Machine(tmp_path / "2", url)
    made = first.run()
    assert first.made == ["ingest", "split"]
    assert [result.fetched_from for result in made] == ["", ""]

    planned = plan_steps(CONFIG, second.store, second.shared)
    assert [step.state for step in planned[:3]] == ["shared", "shared", "to do"]
    assert planned[0].rows == made[0].report.rows
    assert second.store.datasets() == []  # a plan fetches nothing

    fetched = second.run()
    assert second.made == []
    assert [result.fetched_from for result in fetched] == [url, url]
    assert all(result.was_reused for result in fetched)
    assert [result.manifest for result in fetched] == [result.manifest for result in made]
    assert [result.report for result in fetched] == [result.report for result in made]
    assert second.leftovers() == []
    assert [result.fetched_from for result in second.run()] == ["", ""]  # now it is here
    assert second.shared.look() == ["t"]


def test_what_is_fetched_names_the_inputs_that_are_here(tmp_path, url):
    runs = []
    for name, changed in (("1", 1_000_000_000), ("2", 1_100_000_000)):
        data = tmp_path / f"data {name}"
        data.mkdir()
        write_demo(data, n_items=60, n_users=40, seed=1)
        for cover in data.glob("covers/*"):
            os.utime(cover, (changed, changed))
        reader = {
            "kind": "tables",
            "items": "items.csv",
            "interactions": "interactions.csv",
            "covers": "covers",
        }
        ingest = {"path": str(data), "reader": reader, "max_bad_row_share": 0.2}
        config = PipelineConfig.model_validate(CONFIG.model_dump() | {"ingest": ingest})
        machine = Machine(tmp_path / name, url)
        runs.append((machine, machine.run(config=config)))
    (first, made), (second, fetched) = runs
    assert first.made == ["ingest", "split"]
    assert second.made == ["ingest"]
    assert fetched[1].fetched_from == url
    assert fetched[0].manifest.key != made[0].manifest.key
    assert fetched[1].manifest.key == made[1].manifest.key

    lineage = trace_lineage(second.store, fetched[1].manifest)
    assert lineage == {step.manifest.step: step.manifest for step in fetched}
    for name, entry in fetched[1].manifest.inputs.items():
        assert entry == made[1].manifest.inputs[name] | {"key": fetched[0].manifest.key}
    # What others fetch is still as the first machine made it.
    found = second.shared.find("t", "split", made[1].manifest.key)
    assert found is not None
    assert found.manifest == made[1].manifest


def test_step_that_is_asked_for_again_runs_here_and_replaces_what_was_there(tmp_path, url):
    first, second = Machine(tmp_path / "1", url), Machine(tmp_path / "2", url)
    first.run("ingest")
    result = run_step(
        "ingest", CONFIG, {}, second.store, refresh=True, open_tracker=second._record,
        shared=second.shared,
    )  # fmt: skip
    assert second.made == ["ingest"]
    found = second.shared.find("t", "ingest", result.manifest.key)
    assert found is not None
    assert found.manifest == result.manifest


def test_upload_that_was_cut_off_is_not_seen_and_made_good_by_the_next_run(
    tmp_path, failing, warnings
):
    first = Machine(tmp_path / "1", "failing://shared")
    failing.error, failing.after = ConnectionResetError("cut off"), 4
    first.run()
    assert first.made == ["ingest", "split"]
    assert len(warnings) == 1
    assert "the shared store failing://shared cannot be used: ConnectionResetError" in warnings[0]
    assert "goes on with the local store" in warnings[0]

    failing.error = None
    assert len(files_of("failing://shared")) == 3  # and no artifact.json
    second = Machine(tmp_path / "2", "failing://shared")
    second.run("ingest")
    assert second.made == ["ingest"]

    again = Machine(tmp_path / "1", "failing://shared")
    again.run()
    assert again.made == []
    third = Machine(tmp_path / "3", "failing://shared")
    third.run()
    assert third.made == []
    assert len(warnings) == 1


def cut_short(content: bytes) -> bytes:
    return content[:-1]


def edit(content: bytes) -> bytes:
    return bytes([content[0] ^ 1]) + content[1:]


def climb(content: bytes) -> bytes:
    document = json.loads(content)
    document["manifest"]["outputs"]["catalog"]["files"][0]["path"] = "../../../../climbed"
    return json.dumps(document).encode()


def start_at_the_root(content: bytes) -> bytes:
    document = json.loads(content)
    document["manifest"]["outputs"]["catalog"]["files"][0]["path"] = "/proc/climbed"
    return json.dumps(document).encode()


def rename(content: bytes) -> bytes:
    document = json.loads(content)
    document["manifest"]["outputs"]["../catalog"] = document["manifest"]["outputs"].pop("catalog")
    return json.dumps(document).encode()


def point_elsewhere(content: bytes) -> bytes:
    document = json.loads(content)
    document["manifest"]["outputs"]["catalog"]["files"][0]["sha256"] = "../artifact.json"
    return json.dumps(document).encode()


def flatter(content: bytes) -> bytes:
    document = json.loads(content)
    document["report"]["rows"] += 1
    return json.dumps(document).encode()


@pytest.mark.parametrize(
    ("name", "damage", "message"),
    [
        ("files", cut_short, "was cut short or edited"),
        ("files", edit, "was cut short or edited"),
        ("files", None, "is missing"),
        ("artifact.json", cut_short, "cannot be used"),
        ("artifact.json", lambda _: b"[]", "cannot be used"),
        ("artifact.json", lambda content: content.replace(b'"t"', b'"u"', 1), "it is of u/ingest/"),
        ("artifact.json", flatter, "the report was edited: its digest differs"),
        ("artifact.json", climb, "leaves its root"),
        ("artifact.json", start_at_the_root, "leaves its root"),
        ("artifact.json", rename, "is no name of an output"),
        ("artifact.json", point_elsewhere, "is no digest"),
    ],
)
def test_what_is_broken_is_told_made_again_and_replaced(
    tmp_path, url, warnings, name, damage, message
):
    Machine(tmp_path / "1", url).run("ingest")
    files, root = fsspec.url_to_fs(url)
    place = next(path for path in files.find(root) if f"/{name}" in path)
    if damage is None:
        files.rm_file(place)
    else:
        files.pipe_file(place, damage(files.cat_file(place)))

    second = Machine(tmp_path / "2", url)
    (result,) = second.run("ingest")
    assert second.made == ["ingest"]
    assert not result.was_reused
    (warning,) = warnings
    assert message in warning
    assert "the step runs again and replaces it" in warning
    assert second.leftovers() == []
    assert not list(tmp_path.rglob("climbed"))

    third = Machine(tmp_path / "3", url)
    third.run("ingest")
    assert third.made == []
    assert len(warnings) == 1


def test_storage_that_is_away_is_told_once_and_left_alone_for_a_while(tmp_path, failing, warnings):
    failing.error = TimeoutError("no answer\nfrom somewhere")
    away = Machine(tmp_path / "1", "failing://shared")
    away.run()
    assert away.made == ["ingest", "split"]
    assert failing.calls == ["cat"]
    (warning,) = warnings
    assert warning.startswith("the shared store failing://shared cannot be used: TimeoutError: no")
    assert "from somewhere" not in warning
    with pytest.raises(SharedStoreError, match="TimeoutError"):
        away.shared.look()

    impatient = Machine(tmp_path / "1", "failing://shared", pause_seconds=0.0)
    impatient.run()
    assert len(warnings) == 3  # once for each step that would be uploaded
    failing.error = None
    impatient.run()
    other = Machine(tmp_path / "2", "failing://shared")
    other.run()
    assert other.made == []


def test_what_cannot_be_read_there_is_replaced_by_who_has_it(tmp_path, url):
    store, shared = ArtifactStore(tmp_path / "1"), SharedStore(url)
    manifest = commit(store, a="one")
    shared.push(store, manifest, replaces=True)
    files, root = fsspec.url_to_fs(url)
    files.pipe_file(f"{root}/d/split/{KEY}/artifact.json", b"{")
    shared.push(store, manifest, replaces=False)
    found = shared.find("d", "split", KEY)
    assert found is not None
    assert found.manifest == manifest


def test_upload_to_a_full_folder_leaves_nothing_half_written(tmp_path, warnings):
    """The limit on the size of files stands for a full disk; both stop real writes."""
    url = f"file://{tmp_path}/shared"
    store, shared = ArtifactStore(tmp_path / "1"), SharedStore(url)
    manifest = commit(store, a="one")
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    before = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (1, limits[1]))
        shared.push(store, manifest, replaces=True)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, before)
    assert "File too large" in warnings[0]
    assert files_of(url) == []


def test_full_disk_is_no_fault_of_the_storage(tmp_path, failing):
    Machine(tmp_path / "1", "failing://shared").run("ingest")
    failing.error, failing.after = OSError(errno.ENOSPC, "No space left on device"), 1
    second = Machine(tmp_path / "2", "failing://shared")
    with pytest.raises(DiskFullError, match="Free space"):
        second.run("ingest")
    assert second.made == []
    assert not list(tmp_path.glob("2/*/*/.*.partial/data"))


def test_machines_that_make_one_key_differently_do_not_mix_their_files(tmp_path, url):
    stores = [ArtifactStore(tmp_path / name) for name in ("1", "2", "3")]
    shared = SharedStore(url)
    one = commit(stores[0], a="one", b="same")
    shared.push(stores[0], one, replaces=True)
    two = commit(stores[1], a="two", b="same")
    shared.push(stores[1], two, replaces=True)
    assert shared.fetch(stores[2], "d", "split", KEY, {}) == two
    stores[2].verify(two)
    # What somebody who has read the older artifact.json is about to fetch is still there.
    contents = {path.rpartition("/")[2] for path in files_of(url)}
    assert {file.sha256 for file in one.outputs["train"].files} <= contents


def test_what_is_there_is_not_uploaded_again(tmp_path, failing):
    store, shared = ArtifactStore(tmp_path), SharedStore("failing://shared")
    manifest = commit(store, a="one", b="one", c="two")
    shared.push(store, manifest, replaces=False)
    assert failing.calls == ["cat", "put", "put"]  # equal files once
    shared.push(store, manifest, replaces=False)
    assert failing.calls == ["cat", "put", "put", "cat"]


def test_address_that_cannot_be_used_is_an_error_at_once():
    with pytest.raises(ConfigError, match=r"'bucket/prefix' is no URL; write s3://"):
        SharedStore("bucket/prefix")
    with pytest.raises(ConfigError, match=r"nosuch://host/x cannot be used: .*nosuch") as raised:
        SharedStore("nosuch://someone:hidden@host/x")
    assert "hidden" not in str(raised.value)


@pytest.mark.parametrize("sign", ["/", "?", "#"])
def test_password_with_a_sign_that_ends_the_host_is_refused_and_not_shown(sign):
    with pytest.raises(ConfigError, match=r"ftp://host/x .* FSSPEC_FTP_PASSWORD") as raised:
        SharedStore(f"ftp://someone:hid{sign}den@host/x")
    assert not {"hid", "den"} & set(re.findall(r"\w+", str(raised.value)))
    assert raised.value.__cause__ is raised.value.__context__ is None


def test_password_that_the_storage_names_is_not_passed_on(tmp_path, failing, warnings):
    failing.error = ConnectionError("no answer from https://someone:hidden@host/x")
    Machine(tmp_path, "failing://shared").run("ingest")
    (warning,) = warnings
    assert "ConnectionError: no answer from https://host/x" in warning


def test_storage_that_is_away_when_the_run_begins_does_not_stop_it(tmp_path, warnings):
    """Some kinds connect as soon as they are named; here to a port where nobody listens."""
    url = f"ftp://someone:hidden@127.0.0.1:{free_port()}/x"
    away = Machine(tmp_path, url)
    away.run("ingest")
    assert away.made == ["ingest"]
    (warning,) = warnings
    assert "the shared store ftp://127.0.0.1:" in warning
    assert "ConnectionRefusedError" in warning
    with pytest.raises(SharedStoreError, match="ConnectionRefusedError"):
        away.shared.look()
    manifest = commit(away.store, a="one")
    away.shared._away_until = 0.0
    away.shared.push(away.store, manifest, replaces=True)
    assert len(warnings) == 2


def test_storage_with_nothing_in_it_has_no_datasets(url):
    assert SharedStore(url).look() == []


def test_a_file_that_is_uploaded_again_is_whole_at_every_moment(tmp_path):
    url = f"file://{tmp_path}/shared"
    store, shared = ArtifactStore(tmp_path / "1"), SharedStore(url)
    manifest = commit(store, a="one")
    shared.push(store, manifest, replaces=True)
    before = files_of(url)
    with ExitStack() as stack:
        readers = [stack.enter_context(Path(path).open()) for path in before]
        shared.push(store, manifest, replaces=True)
        assert files_of(url) == before
        # What was there is replaced and not written over, so who has it open reads on.
        old = {os.fstat(reader.fileno()).st_ino for reader in readers}
        assert not old & {Path(path).stat().st_ino for path in before}
