import builtins
import io
from collections import Counter

import av
import numpy as np
import pytest
from PIL import Image

from sicsrec.data.covers import CoverFile, CoverStore, CoverWriter, store_covers
from sicsrec.data.images import CoverError, CoverLimits
from sicsrec.data.quarantine import QuarantineLog
from sicsrec.data.readers.folders import list_covers
from sicsrec.data.videos import take_frame
from sicsrec.errors import DataError

LIMITS = CoverLimits(max_bytes=100, max_pixels=10_000, short_side=512)


def write_video(path, n_frames=20, size=(64, 48), *, codec="mpeg4", form=None):
    """Black for the first frames, then red."""
    with av.open(str(path), "w", format=form) as container:
        stream = container.add_stream(codec, rate=25)
        stream.width, stream.height, stream.pix_fmt = *size, "yuv420p"
        for number in range(n_frames):
            pixels = np.zeros((size[1], size[0], 3), dtype=np.uint8)
            pixels[..., 0] = 255 if number >= 2 else 0
            frame = av.VideoFrame.from_ndarray(pixels, format="rgb24")
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


def write_sound(path):
    with av.open(str(path), "w") as container:
        stream = container.add_stream("aac", rate=8000)
        frame = av.AudioFrame.from_ndarray(
            np.zeros((1, 1024), dtype=np.float32), format="fltp", layout="mono"
        )
        frame.sample_rate = 8000
        container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


@pytest.mark.parametrize("suffix", [".mp4", ".mkv", ".avi"])
def test_a_frame_from_after_the_beginning_is_taken(tmp_path, suffix):
    content = take_frame(write_video(tmp_path / f"a{suffix}"), 10_000)
    assert content.startswith(b"\x89PNG")
    (tmp_path / "a.png").write_bytes(content)
    with Image.open(tmp_path / "a.png") as image:
        assert image.size == (64, 48)
        red, green, _ = np.asarray(image).mean(axis=(0, 1))
    assert red > 200
    assert green < 50


def turn(path, cosine, sine):
    """Write into an MP4 how it is to be turned, as a telephone does."""
    one, nothing, last = 1 << 16, 0, 1 << 30
    upright = [one, nothing, nothing, nothing, one, nothing, nothing, nothing, last]
    turned = [cosine * one, sine * one, 0, -sine * one, cosine * one, 0, 0, 0, last]
    old, new = (b"".join(n.to_bytes(4, "big", signed=True) for n in m) for m in (upright, turned))
    head, track = path.read_bytes().split(b"tkhd", 1)
    path.write_bytes(head + b"tkhd" + track.replace(old, new, 1))
    return path


@pytest.mark.parametrize(
    ("cosine", "sine", "size", "corner"),
    [
        (1, 0, (64, 48), (0, 0)),
        (0, 1, (48, 64), (47, 0)),
        (-1, 0, (64, 48), (63, 47)),
        (0, -1, (48, 64), (0, 63)),
    ],
)
def test_a_frame_is_turned_as_the_video_says(tmp_path, cosine, sine, size, corner):
    path = tmp_path / "a.mp4"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=10)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        pixels = np.zeros((48, 64, 3), dtype=np.uint8)
        pixels[:24, :32] = 255
        container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
        container.mux(stream.encode())
    with Image.open(io.BytesIO(take_frame(turn(path, cosine, sine), 10_000))) as image:
        assert image.size == size
        assert min(image.getpixel(corner)) > 200
        assert max(image.getpixel((size[0] - 1 - corner[0], corner[1]))) < 50


def test_a_video_of_one_frame_gives_that_frame(tmp_path):
    assert take_frame(write_video(tmp_path / "a.mp4", n_frames=1), 10_000)


@pytest.mark.parametrize("fault", ["empty", "text", "cut short", "no pictures", "too large"])
def test_what_is_no_usable_video_has_a_reason(tmp_path, fault):
    path = tmp_path / "a.mp4"
    if fault == "no pictures":
        write_sound(path)
    else:
        whole = write_video(path).read_bytes()
        path.write_bytes(
            {"empty": b"", "text": b"no video", "cut short": whole[:200]}.get(fault, whole)
        )
    reason = {"no pictures": "no_video", "too large": "too_many_pixels"}.get(
        fault, "undecodable_video"
    )
    with pytest.raises(CoverError) as caught:
        take_frame(path, 100 if fault == "too large" else 10_000)
    assert caught.value.reason == reason


def store(root, folder, files, quarantine):
    """Store covers in ``root/stored`` and return what became of them."""
    stored = root / "stored"
    stored.mkdir()
    writer = CoverWriter(stored)
    outcome = store_covers(
        root, folder, files, writer, LIMITS, quarantine, lambda n=1, note="": None
    )
    writer.close()
    return outcome.status


def test_videos_become_covers_where_there_is_no_image(tmp_path):
    folder = tmp_path / "covers"
    folder.mkdir()
    for name in ("a.mp4", "b.mp4", "b.mkv", "c.mp4"):
        write_video(folder / name)
    Image.new("RGB", (5, 5), "blue").save(folder / "a.png")
    (folder / "c.mp4").write_bytes(b"broken")
    (folder / "notes.txt").touch()
    quarantine = QuarantineLog()
    files, n_ignored = list_covers(folder, tmp_path, quarantine)
    assert {file.item_id: file.path for file in files} == {
        "a": "covers/a.png",
        "b": "covers/b.mkv",
        "c": "covers/c.mp4",
    }
    assert n_ignored == 1
    files.append(CoverFile("d", "covers/d.mp4"))
    status = store(tmp_path, folder, files, quarantine)
    assert status == {"a": "ok", "b": "ok", "c": "broken", "d": "missing"}
    assert CoverStore(tmp_path / "stored").read(["b"])[0].size == (64, 48)
    reasons = Counter(quarantine.frame()["reason"])
    assert reasons == {"duplicate_cover": 1, "undecodable_video": 1, "no_such_file": 1}


def store_all(root, folder, names):
    """Return what became of some covers and the quarantine."""
    quarantine = QuarantineLog()
    files = [CoverFile(name, (folder / name).relative_to(root).as_posix()) for name in names]
    return store(root, folder, files, quarantine), quarantine.frame()


def test_videos_of_all_known_formats_are_read_also_under_a_wrong_suffix(tmp_path):
    kinds = {
        "a.mp4": ("mpeg4", None),
        "b.mkv": ("mpeg4", None),
        "c.webm": ("libvpx", None),
        "d.avi": ("mpeg4", None),
        "e.mov": ("mpeg4", None),
        "f.flv": ("flv", None),
        "ts.mp4": ("mpeg2video", "mpegts"),
        "wmv.avi": ("wmv2", "asf"),
    }
    for name, (codec, form) in kinds.items():
        write_video(tmp_path / name, codec=codec, form=form)
    status, refused = store_all(tmp_path, tmp_path, list(kinds))
    assert status == dict.fromkeys(kinds, "ok")
    assert refused.is_empty()


def test_no_playlist_leads_to_other_files(tmp_path):
    folder, outside = tmp_path / "covers", tmp_path / "outside"
    folder.mkdir()
    outside.mkdir()
    write_video(outside / "a.ts", codec="mpeg2video", form="mpegts")
    (folder / "link.mp4").symlink_to(write_video(outside / "a.mp4"))
    playlist = f"#EXTM3U\n#EXT-X-TARGETDURATION:9\n#EXTINF:9,\n{outside}/a.ts\n#EXT-X-ENDLIST\n"
    (folder / "list.m3u8").write_text(playlist)
    for name, target in (("hls.mp4", "list.m3u8"), ("concat.mkv", "link.mp4")):
        (folder / name).write_text(f"ffconcat version 1.0\nfile {target}\n")
    status, refused = store_all(tmp_path, folder, ["hls.mp4", "concat.mkv"])
    assert status == {"hls.mp4": "broken", "concat.mkv": "broken"}
    assert refused["reason"].to_list() == ["undecodable_video", "undecodable_video"]
    assert "none of the formats" in refused["detail"][0]


def test_without_pyav_the_error_names_the_extra(tmp_path, monkeypatch):
    path, original = write_video(tmp_path / "a.mp4"), builtins.__import__

    def without_av(name, *arguments):
        if name == "av":
            raise ImportError(name)
        return original(name, *arguments)

    monkeypatch.setattr(builtins, "__import__", without_av)
    with pytest.raises(DataError, match=r"sicsrec\[video\]"):
        take_frame(path, 10_000)
