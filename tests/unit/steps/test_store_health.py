import json
import shutil
from pathlib import Path

import pytest
from filelock import FileLock

from sicsrec.artifacts import ArtifactStore, Manifest
from sicsrec.config import (
    DemoReaderConfig,
    EncodeItemsConfig,
    GivenSourceConfig,
    IngestConfig,
    PipelineConfig,
)
from sicsrec.steps.plan import plan_steps
from sicsrec.steps.runner import run_step
from sicsrec.steps.store_health import examine_store
from tests.rights import as_anybody, closed

CONFIG = PipelineConfig(
    dataset="demo",
    ingest=IngestConfig(reader=DemoReaderConfig(n_items=60, n_users=40)),
    encode_items=EncodeItemsConfig(source=GivenSourceConfig(text="given.npy")),
)


@pytest.fixture
def store(tmp_path: Path) -> ArtifactStore:
    """A store with a real catalogue in it."""
    store = ArtifactStore(tmp_path / "store")
    run_step("ingest", CONFIG, {}, store)
    return store


def a_file(store: ArtifactStore) -> Path:
    return next(store.root.rglob("interactions.parquet"))


def test_sound_store_and_empty_store(store: ArtifactStore, tmp_path: Path) -> None:
    health = examine_store(store)
    assert health.n_artifacts == 1
    assert health.n_bytes > 0
    assert (health.broken, health.leftovers, health.in_progress) == ([], [], [])
    assert examine_store(ArtifactStore(tmp_path / "none")).n_artifacts == 0


def test_edited_file_is_found_by_its_digest_alone(store: ArtifactStore) -> None:
    path = a_file(store)
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.chmod(0o644)
    path.write_bytes(content)
    assert examine_store(store, with_digests=False).broken == []
    (message,) = examine_store(store).broken
    assert path.name in message
    assert "edited" in message


@pytest.mark.parametrize("with_digests", [True, False])
@pytest.mark.parametrize("is_there", [True, False])
def test_missing_and_torn_files_are_found(
    store: ArtifactStore, with_digests: bool, is_there: bool
) -> None:
    path = a_file(store)
    path.chmod(0o644)
    path.write_bytes(path.read_bytes()[:-1]) if is_there else path.unlink()
    (message,) = examine_store(store, with_digests=with_digests).broken
    assert path.name in message


@pytest.mark.parametrize("with_digests", [True, False])
@pytest.mark.parametrize("content", [None, '{"rows"', "[]"])
def test_a_broken_report_is_found_and_the_step_runs_again(
    store: ArtifactStore, content: str | None, with_digests: bool
) -> None:
    path = next(store.root.rglob("report.json"))
    whole = path.read_bytes()
    path.unlink()
    if content is not None:
        path.write_text(content)
    (message,) = examine_store(store, with_digests=with_digests).broken
    assert "report.json" in message
    assert next(entry.state for entry in plan_steps(CONFIG, store)) == "to do"
    assert not run_step("ingest", CONFIG, {}, store).was_reused
    assert path.read_bytes() == whole
    assert examine_store(store).broken == []


def test_an_edited_report_is_found_and_the_step_runs_again(store: ArtifactStore) -> None:
    path = next(store.root.rglob("report.json"))
    whole = path.read_bytes()
    path.chmod(0o644)
    path.write_text(json.dumps(json.loads(whole) | {"rows": 1_000_000}, indent=2) + "\n")
    (message,) = examine_store(store).broken
    assert "report.json was edited: its digest differs" in message
    assert not run_step("ingest", CONFIG, {}, store).was_reused
    assert path.read_bytes() == whole
    assert examine_store(store).broken == []


def test_a_step_whose_manifest_knows_no_digest_of_its_report_is_reused(
    store: ArtifactStore,
) -> None:
    path = next(store.root.rglob("manifest.json"))
    content = json.loads(path.read_bytes())
    assert len(content.pop("report_sha256")) == 64
    path.chmod(0o644)
    path.write_text(json.dumps(content))
    assert run_step("ingest", CONFIG, {}, store).was_reused


class BesideRemoval(ArtifactStore):
    """A store of which somebody removes every step just after its manifest was read."""

    def find(self, dataset: str, step: str, key: str) -> Manifest | None:
        manifest = super().find(dataset, step, key)
        shutil.rmtree(self.folder(dataset, step, key), ignore_errors=True)
        return manifest


def test_a_step_that_is_removed_meanwhile_is_to_do(store: ArtifactStore) -> None:
    beside = BesideRemoval(store.root)
    assert next(entry.state for entry in plan_steps(CONFIG, beside)) == "to do"


def test_a_step_that_is_removed_meanwhile_ends_no_examination(store: ArtifactStore) -> None:
    assert "is not in the store" in examine_store(BesideRemoval(store.root)).broken[0]


def test_unreadable_and_missing_manifests_are_found(store: ArtifactStore) -> None:
    manifest = next(store.root.rglob("manifest.json"))
    manifest.chmod(0o644)
    manifest.write_text("{")
    (message,) = examine_store(store).broken
    assert "manifest" in message
    manifest.unlink()
    (message,) = examine_store(store).broken
    assert "manifest.json is missing" in message


def test_folder_of_a_killed_run_is_left_over_and_that_of_a_living_one_is_not(
    store: ArtifactStore,
) -> None:
    pending = store.begin("demo", "split", "0123456789abcdef")
    (pending.work / "checkpoint").write_bytes(b"12345")
    lock = FileLock(pending.folder.parent / ".0123456789abcdef.lock")
    with lock:
        health = examine_store(store)
        assert health.in_progress == ["demo/split 0123456789abcdef"]
        assert health.leftovers == []
    health = examine_store(store)
    assert health.leftovers == [pending.folder]
    assert health.leftover_bytes == 5
    assert pending.work.exists()


def test_folder_whose_lock_may_not_be_asked_is_nobodys_leftover(store: ArtifactStore) -> None:
    pending = store.begin("demo", "split", "0123456789abcdef")
    lock = pending.folder.parent / ".0123456789abcdef.lock"
    lock.touch()
    with closed(lock, 0o444):
        health = as_anybody(examine_store, store)
    assert health.in_progress == ["demo/split 0123456789abcdef"]
    assert health.leftovers == []


def test_an_artifact_without_a_manifest_counts(store: ArtifactStore) -> None:
    next(store.root.rglob("manifest.json")).unlink()
    health = examine_store(store)
    assert (health.n_artifacts, len(health.broken)) == (1, 1)
