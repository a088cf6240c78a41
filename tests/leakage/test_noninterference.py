"""Other held-out items in the raw data leave all that training sees as it is, byte for byte."""

import csv
from dataclasses import dataclass

import pytest

from sicsrec.artifacts import ArtifactRef, ArtifactStore
from sicsrec.config import PipelineConfig
from sicsrec.data.catalog import ItemCatalog
from sicsrec.data.demo import write_demo
from sicsrec.data.split import HeldOut, TrainLog
from sicsrec.steps import STEPS, TRAIN, TRAIN_VALID
from sicsrec.steps.runner import run_step

STAGE_ONE = [
    step.name
    for step in STEPS
    if step.inputs and all(entry.may_see <= TRAIN for entry in step.inputs)
]
TRAINED = [
    step.name
    for step in STEPS
    if step.name not in STAGE_ONE
    and step.inputs
    and all(entry.may_see <= TRAIN_VALID for entry in step.inputs)
]

TINY_TOWER = {"width": 8, "inner_width": 8, "n_layers": 1, "n_heads": 2, "max_epochs": 2}
TINY_CLIP = {
    "library": "open_clip",
    "architecture": {"width": 16, "n_layers": 1, "n_heads": 2, "image_size": 32},
}


def configuration(folder):
    return PipelineConfig.model_validate(
        {
            "dataset": "t",
            "ingest": {
                "path": str(folder),
                "reader": {
                    "kind": "tables",
                    "items": "items.csv",
                    "interactions": "interactions.csv",
                    "covers": "covers",
                },
                "max_bad_row_share": 0.2,
            },
            "align_encoders": {
                "text_encoder": TINY_CLIP,
                "image_encoder": TINY_CLIP,
                "trained": "full",
                "n_epochs": 1,
                "batch_size": 16,
                "adapter_hidden_width": 16,
                "adapter_width": 8,
            },
            "pretrain_id": TINY_TOWER | {"item_start": {"kind": "content"}},
            "train_sicsrec": TINY_TOWER,
        }
    )


@dataclass
class World:
    """Raw files and what the pipeline made of them."""

    folder: str
    refs: dict[str, ArtifactRef]
    store: ArtifactStore

    def digest(self, name):
        return self.refs[name].digest

    def path(self, name):
        return self.store.open(self.refs[name]).path()


def build(root, name, replace, steps):
    """Write the raw files, put other items into the rows that ``replace`` names, run the steps."""
    folder = root / name
    folder.mkdir()
    write_demo(folder, 60, 80, 3)
    path = folder / "interactions.csv"
    with path.open(newline="") as stream:
        rows = list(csv.reader(stream))
    n_replaced = 0
    for row in rows:
        if tuple(row) in replace:
            row[1] = replace[tuple(row)]
            n_replaced += 1
    assert n_replaced == len(replace)
    with path.open("w", newline="") as stream:
        csv.writer(stream).writerows(rows)
    config, store = configuration(folder), ArtifactStore(root / f"store-{name}")
    refs: dict[str, ArtifactRef] = {}
    for step in steps:
        refs |= run_step(step, config, refs, store).refs
    return World(name, refs, store)


def rows_of(frame):
    """Rows of the raw file, as text, of some interactions."""
    columns = frame.select("user_id", "item_id", "timestamp").iter_rows()
    return [(user, item, str(time // 1000)) for user, item, time in columns]


def others(rows, item_ids):
    """Another item for every row: the one half the catalogue away."""
    places = {item: place for place, item in enumerate(item_ids)}
    half = len(item_ids) // 2
    return {row: item_ids[(places[row[1]] + half) % len(item_ids)] for row in rows}


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return tmp_path_factory.mktemp("worlds")


@pytest.fixture(scope="module")
def original(root):
    return build(root, "original", {}, ["ingest", "split", *STAGE_ONE, *TRAINED])


@pytest.fixture(scope="module")
def item_ids(original):
    return ItemCatalog.read(original.path("ingest/catalog")).item_ids.to_list()


@pytest.fixture(scope="module")
def held_out_rows(original):
    return {
        part: rows_of(HeldOut.read(original.path(f"split/{part}")).targets)
        for part in ("valid", "test")
    }


def test_steps_are_found_by_what_they_may_see():
    assert STAGE_ONE == ["sample_pairs", "align_encoders", "encode_items"]
    assert TRAINED == ["pretrain_id", "train_sicsrec"]


def test_stage_one_does_not_see_held_out_items(root, original, item_ids, held_out_rows):
    rows = [*held_out_rows["valid"], *held_out_rows["test"]]
    assert len(rows) > 100
    changed = build(root, "held-out", others(rows, item_ids), ["ingest", "split", *STAGE_ONE])
    for name in ("ingest/interactions", "split/valid", "split/test"):
        assert changed.digest(name) != original.digest(name), name
    first, second = (
        HeldOut.read(world.path("split/test")).targets for world in (original, changed)
    )
    assert (first["item_id"] != second["item_id"]).all()
    unchanged = ["ingest/catalog", "ingest/covers", "split/train"]
    unchanged += [ref.name for ref in changed.refs.values() if ref.step in STAGE_ONE]
    assert len(unchanged) >= 6
    for name in unchanged:
        assert changed.digest(name) == original.digest(name), name


def test_trained_models_do_not_see_test_items(root, original, item_ids, held_out_rows):
    steps = ["ingest", "split", *STAGE_ONE, *TRAINED]
    changed = build(root, "test-only", others(held_out_rows["test"], item_ids), steps)
    assert changed.digest("split/test") != original.digest("split/test")
    unchanged = [ref.name for ref in changed.refs.values() if ref.step in (*STAGE_ONE, *TRAINED)]
    for name in ["split/train", "split/valid", *unchanged]:
        assert changed.digest(name) == original.digest(name), name


def test_other_training_items_are_noticed(root, original, item_ids):
    """The tests above could not fail if digests did not follow what training sees."""
    train = TrainLog.read(original.path("split/train")).interactions
    rows = rows_of(train.filter(train["position"] == 1))
    changed = build(root, "train", others(rows, item_ids), ["ingest", "split", "sample_pairs"])
    for name in ("split/train", "sample_pairs/pairs"):
        assert changed.digest(name) != original.digest(name), name
    assert changed.digest("ingest/catalog") == original.digest("ingest/catalog")
