"""One frame of a video file to stand for its cover. Needs the extra ``video`` (PyAV)."""

import io
from pathlib import Path
from typing import Any

from sicsrec.data.images import CoverError
from sicsrec.errors import DataError

VIDEO_SUFFIXES = frozenset({".mp4", ".mkv", ".webm", ".avi", ".mov", ".flv"})
"""Suffixes, in lower case, of the files that are taken for videos."""

# FFmpeg goes by content, and playlists (HLS, ffconcat, DASH) name further files, which may lie
# anywhere: only formats that hold all of a video themselves, some of which go by a wrong suffix.
_FORMATS = "mov,matroska,webm,avi,flv,mpegts,mpeg,asf,ogg"

_TAKEN_AT = 0.1
"""Where in the video the frame is, as a share of its length: the first ones are often black."""


def take_frame(path: Path, max_pixels: int) -> bytes:
    """Return the first whole picture from a tenth of the video on, upright, as a PNG file.

    Args:
        path: an existing file.
        max_pixels: frames with more pixels are refused undecoded.

    Raises:
        CoverError: if the file holds no video that can be decoded.
        DataError: if PyAV is not installed.
    """
    try:
        import av
    except ImportError as err:
        raise DataError(
            f"{path.name} is a video; to take covers from videos install the extra video: "
            "pip install 'sicsrec[video]'"
        ) from err
    try:
        with av.open(
            str(path), metadata_errors="ignore", options={"format_whitelist": _FORMATS}
        ) as container:
            return _take(av, container, max_pixels)
    except av.error.ArgumentError as err:
        # So it answers for other formats.
        detail = f"it is damaged, or in none of the formats {_FORMATS.replace(',', ', ')}"
        raise CoverError("undecodable_video", detail) from err
    except (av.error.FFmpegError, OSError, ValueError) as err:
        raise CoverError("undecodable_video", f"{type(err).__name__}: {err}") from err


def _take(av: Any, container: Any, max_pixels: int) -> bytes:
    if not container.streams.video:
        raise CoverError("no_video", "the file has no stream of pictures")
    stream = container.streams.video[0]
    # Damaged files may name any size; it is checked before memory is asked for.
    n_pixels = stream.codec_context.width * stream.codec_context.height
    if n_pixels > max_pixels:
        raise CoverError(
            "too_many_pixels", f"frames of {n_pixels} pixels, at most {max_pixels} are decoded"
        )
    if container.duration:
        container.seek(int(container.duration * _TAKEN_AT), backward=True)
    earliest = (container.duration or 0) / av.time_base * _TAKEN_AT
    last = None
    for frame in container.decode(stream):
        last = frame
        if frame.time is None or frame.time >= earliest:
            break
    if last is None:
        raise CoverError("no_video", "no picture could be decoded")
    buffer = io.BytesIO()
    # Telephones film lying down and write how the video is to be turned, counterclockwise.
    image = last.to_image().rotate(last.rotation, expand=True)
    image.save(buffer, "PNG", compress_level=1)
    return buffer.getvalue()
