import os
from hashlib import sha256

import numpy as np
import polars as pl
import pytest
from PIL import Image

from sicsrec.data.covers import CoverFile, CoverStore, CoverWriter, store_covers
from sicsrec.data.images import CoverLimits
from sicsrec.data.quarantine import QuarantineLog
from sicsrec.data.schema import COVERS, check_schema
from sicsrec.errors import DataError, SchemaError

LIMITS = CoverLimits(max_bytes=100_000, max_pixels=1_000_000, short_side=128)


@pytest.fixture
def data(tmp_path):
    root = tmp_path / "data"
    (root / "covers").mkdir(parents=True)
    random = np.random.default_rng(1)
    for number in range(50):
        values = random.integers(0, 256, (60, 90, 3), dtype=np.uint8)
        Image.fromarray(values).save(root / "covers" / f"{number}.png")
    return root


def store(root, files, out, **writer_options):
    out.mkdir()
    quarantine = QuarantineLog()
    writer = CoverWriter(out, **writer_options)
    ticks = []
    outcome = store_covers(
        root,
        root / "covers",
        files,
        writer,
        LIMITS,
        quarantine,
        lambda n=1, note="": ticks.append(n),
    )
    writer.close()
    assert sum(ticks) == len(files)
    return outcome, quarantine.frame()


def covers_of(numbers):
    return [CoverFile(f"i{number}", f"covers/{number}.png") for number in numbers]


def test_every_cover_is_found_under_its_own_id(data, tmp_path):
    order = list(np.random.default_rng(2).permutation(50))
    store(data, covers_of(order), tmp_path / "out", shard_bytes=200_000)
    assert len(list((tmp_path / "out").iterdir())) > 2
    covers = CoverStore(tmp_path / "out")
    assert covers.item_ids == [f"i{number}" for number in order]
    asked = ["i7", "i49", "i0", "i7"]
    for item_id, image in zip(asked, covers.read(asked), strict=True):
        with Image.open(data / "covers" / f"{item_id[1:]}.png") as original:
            assert np.array_equal(np.asarray(image), np.asarray(original))


def test_equal_input_gives_equal_bytes(data, tmp_path):
    for name in ("a", "b"):
        store(data, covers_of(range(50)), tmp_path / name, shard_bytes=300_000)
    names = sorted(path.name for path in (tmp_path / "a").iterdir())
    assert names == sorted(path.name for path in (tmp_path / "b").iterdir())
    for name in names:
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()


def test_shards_have_the_schema_even_without_covers(data, tmp_path):
    store(data, [], tmp_path / "out")
    shard = pl.read_parquet(tmp_path / "out" / "covers-00000.parquet")
    assert check_schema(shard, COVERS, "covers").height == 0
    assert len(CoverStore(tmp_path / "out")) == 0


def test_small_cache_gives_the_same_covers(data, tmp_path):
    store(data, covers_of(range(50)), tmp_path / "out")
    random_ids = [f"i{number}" for number in np.random.default_rng(5).integers(0, 50, 80)]
    whole = CoverStore(tmp_path / "out").read_bytes(random_ids)
    small = CoverStore(tmp_path / "out", cache_bytes=1)
    assert small.read_bytes(random_ids) == whole
    assert len(small._cache) == 1


def test_asking_for_an_item_without_cover_is_an_error(data, tmp_path):
    store(data, covers_of([1]), tmp_path / "out")
    covers = CoverStore(tmp_path / "out")
    assert "i1" in covers
    assert "i2" not in covers
    with pytest.raises(DataError, match=r"1 items have no cover, e\.g\. .'i2'"):
        covers.read(["i1", "i2"])


def test_folder_without_shards_is_an_error(tmp_path):
    with pytest.raises(DataError, match="holds no covers"):
        CoverStore(tmp_path)


def test_two_covers_of_an_item_are_an_error(tmp_path):
    row = {"item_id": ["a"], "sha256": ["0"], "image": [b"x"]}
    for number in (0, 1):
        pl.DataFrame(row, schema=dict(COVERS)).write_parquet(tmp_path / f"covers-{number}.parquet")
    with pytest.raises(DataError, match="'a' has two covers"):
        CoverStore(tmp_path)


def test_shard_of_another_table_is_an_error(tmp_path):
    pl.DataFrame({"a": [1]}).write_parquet(tmp_path / "covers-0.parquet")
    with pytest.raises(SchemaError, match="expected the columns"):
        CoverStore(tmp_path)


def test_missing_and_broken_covers_have_a_status(data, tmp_path):
    (data / "covers" / "3.png").write_bytes(b"")
    (data / "covers" / "4.png").unlink()
    outcome, refused = store(data, covers_of(range(6)), tmp_path / "out")
    assert outcome.status == {
        "i0": "ok", "i1": "ok", "i2": "ok", "i3": "broken", "i4": "missing", "i5": "ok",
    }  # fmt: skip
    assert outcome.n_present == 5
    assert refused.select("kind", "file", "key", "reason").rows() == [
        ("cover", "covers/3.png", "i3", "empty_file"),
        ("cover", "covers/4.png", "i4", "no_such_file"),
    ]


@pytest.mark.parametrize("path", ["covers/../secret.png", "../secret.png", "/etc/hostname"])
def test_path_that_leaves_the_folder_is_refused(data, tmp_path, path):
    for place in (data, tmp_path):
        (place / "secret.png").write_bytes((data / "covers" / "1.png").read_bytes())
    outcome, refused = store(data, [CoverFile("i", path)], tmp_path / "out")
    assert outcome.status == {"i": "broken"}
    assert refused["reason"].to_list() == ["outside_folder"]


def test_link_that_leaves_the_folder_is_refused(data, tmp_path):
    (tmp_path / "secret.png").write_bytes((data / "covers" / "1.png").read_bytes())
    (data / "covers" / "link.png").symlink_to(tmp_path / "secret.png")
    (data / "covers" / "near.png").symlink_to(data / "covers" / "1.png")
    files = [CoverFile("far", "covers/link.png"), CoverFile("near", "covers/near.png")]
    outcome, refused = store(data, files, tmp_path / "out")
    assert outcome.status == {"far": "broken", "near": "ok"}
    assert refused["reason"].to_list() == ["outside_folder"]


def test_hidden_covers_count_for_nothing(data, tmp_path):
    """Their changes would be in no key, so they are no data at all."""
    hidden = data / "covers" / ".thumbs"
    hidden.mkdir()
    (hidden / "1.png").write_bytes((data / "covers" / "1.png").read_bytes())
    outcome, refused = store(data, [CoverFile("i", "covers/.thumbs/1.png")], tmp_path / "out")
    assert outcome.status == {"i": "broken"}
    assert refused["reason"].to_list() == ["hidden_file"]


def test_link_in_a_circle_is_refused(data, tmp_path):
    (data / "covers" / "a.png").symlink_to(data / "covers" / "b.png")
    (data / "covers" / "b.png").symlink_to(data / "covers" / "a.png")
    outcome, refused = store(data, [CoverFile("a", "covers/a.png")], tmp_path / "out")
    assert outcome.status == {"a": "broken"}
    assert refused["reason"].to_list() == ["unreadable_file"]


def test_too_many_bytes_are_not_read(data, tmp_path):
    (data / "covers" / "big.png").write_bytes(b"\x89PNG" + bytes(100_001))
    _, refused = store(data, [CoverFile("big", "covers/big.png")], tmp_path / "out")
    assert refused["reason"].to_list() == ["too_many_bytes"]
    assert "100005 bytes, at most 100000" in refused["detail"][0]


def test_limit_of_pixels_is_the_configured_one(data, tmp_path, monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    Image.new("L", (1001, 1000)).save(data / "covers" / "big.png")
    files = [*covers_of([1]), CoverFile("big", "covers/big.png")]
    outcome, refused = store(data, files, tmp_path / "out")
    assert outcome.status == {"i1": "ok", "big": "broken"}
    assert refused["detail"][0].endswith("at most 1000000 are decoded")
    assert Image.MAX_IMAGE_PIXELS == 100


def test_pipe_and_folder_are_no_covers(data, tmp_path):
    os.mkfifo(data / "covers" / "pipe.png")
    (data / "covers" / "folder.png").mkdir()
    files = [CoverFile(name, f"covers/{name}.png") for name in ("pipe", "folder")]
    _, refused = store(data, files, tmp_path / "out")
    assert refused["reason"].to_list() == ["not_a_file", "not_a_file"]


def test_path_with_null_byte_is_refused(data, tmp_path):
    outcome, _ = store(data, [CoverFile("i", "covers/1\0.png")], tmp_path / "out")
    assert outcome.status == {"i": "broken"}


@pytest.mark.parametrize("suffix", [".png", ".mp4"])
def test_a_name_that_no_file_can_have_is_refused(data, tmp_path, suffix):
    files = [CoverFile("a", f"covers/{'x' * 300}{suffix}")]
    outcome, quarantine = store(data, files, tmp_path / "out")
    assert outcome.status == {"a": "broken"}
    assert quarantine["reason"].to_list() == ["unreadable_file"]


def test_damaged_exif_data_warns_nobody(data, tmp_path, recwarn):
    image = Image.new("RGB", (20, 20))
    image.save(data / "covers" / "odd.jpg", exif=b"Exif\0\0II*\0\x08\0\0\0\xff\xff\x01\x00bad")
    outcome, _ = store(data, [CoverFile("odd", "covers/odd.jpg")], tmp_path / "out")
    assert outcome.status == {"odd": "ok"}
    assert not recwarn.list


def test_a_file_of_as_many_bytes_as_may_be_is_read(data, tmp_path):
    path = data / "covers" / "1.png"
    path.write_bytes(path.read_bytes().ljust(LIMITS.max_bytes, b"\0"))
    outcome, _ = store(data, covers_of([1]), tmp_path / "out")
    assert outcome.status == {"i1": "ok"}


def test_a_wrong_name_is_said_and_is_no_conversion(data, tmp_path):
    (data / "covers" / "1.png").rename(data / "covers" / "1.jpg")
    files = [CoverFile("i1", "covers/1.jpg"), *covers_of([2])]
    outcome, _ = store(data, files, tmp_path / "out")
    assert (outcome.n_converted, dict(outcome.changes)) == (0, {"wrong_extension": 1})


def test_digests_are_those_of_the_stored_files(data, tmp_path):
    store(data, covers_of([3, 1]), tmp_path / "out")
    covers = CoverStore(tmp_path / "out")
    files = covers.read_bytes(["i1", "i3"])
    expected = {i: sha256(file).hexdigest() for i, file in zip(("i1", "i3"), files, strict=True)}
    assert covers.read_digests() == expected
