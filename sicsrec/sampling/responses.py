"""The log of raw replies: what was answered once is never asked, or paid for, again.

One JSON object per line, appended at once, so a killed process loses what was under way and no
more. Replies are kept word for word; reading them is done anew each time, so a better reader needs
no new answers. Failures are not replies and are never written.
"""

import json
import logging
import os
import re
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from hashlib import sha256
from pathlib import Path
from typing import Any, BinaryIO

from filelock import FileLock, Timeout

from sicsrec.artifacts import canonical_json
from sicsrec.errors import BackendError
from sicsrec.sampling.language_model import Reply
from sicsrec.sampling.prompt import PROMPT_VERSION

logger = logging.getLogger(__name__)

_SECONDS_BETWEEN_SYNCS = 1.0


class ResponseLog:
    """Replies of one model by the key of their request.

    Args:
        folder: where the log lies; created when something is written.
        model: name of the model; each model has a file of its own.
        identity: see :attr:`sicsrec.sampling.language_model.LanguageModel.identity`.
    """

    def __init__(self, folder: Path, model: str, identity: Mapping[str, Any]) -> None:
        # Two names may look alike once they are fit for a file name; the digest tells them apart.
        readable = re.sub(r"[^\w.-]+", "-", model, flags=re.ASCII).strip("-.")[-60:]
        digest = sha256(model.encode()).hexdigest()[:8]
        self.path = folder / f"responses-{readable}-{digest}.jsonl"
        self._identity = canonical_json(dict(identity))
        self._replies: dict[str, Reply] = {}
        self._stream: BinaryIO | None = None
        self._synced = 0.0
        self.n_skipped = 0
        """Lines that could not be read when the log was read last."""
        self.read()

    def __len__(self) -> int:
        """Return the number of replies."""
        return len(self._replies)

    def get(self, key: str) -> Reply | None:
        """Return the reply to a request, None when it was never answered."""
        return self._replies.get(key)

    def read(self) -> None:
        """Read the file, which another process may have made longer."""
        self._replies, self.n_skipped = {}, 0
        if not self.path.exists():
            return
        with self.path.open("rb") as stream:
            for line in stream:
                entry = _parse(line)
                if entry is None:
                    self.n_skipped += bool(line.strip())
                else:
                    self._replies[entry[0]] = entry[1]
        if self.n_skipped:
            logger.warning(
                "%s: %d lines cannot be read and are skipped; what they held is asked again",
                self.path,
                self.n_skipped,
            )

    @contextmanager
    def writing(self) -> Iterator[None]:
        """Hold the log alone, with all that others have written; a second run waits.

        So two runs never ask the same question twice.
        """
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with _locked(self.path.with_suffix(".lock")):
            self.read()
            with self.path.open("a+b") as stream:
                _end_last_line(stream)
                self._stream = stream
                try:
                    yield
                finally:
                    self._stream = None
                    stream.flush()
                    os.fsync(stream.fileno())

    def append(self, key: str, reply: Reply) -> None:
        """Add one reply; only inside :meth:`writing`.

        Raises:
            BackendError: outside of it.
        """
        if self._stream is None:
            raise BackendError(f"the response log {self.path} is not open for writing")
        record = {
            "key": key,
            "reply": reply.text,
            "finish_reason": reply.finish_reason,
            "prompt_tokens": reply.prompt_tokens,
            "answer_tokens": reply.answer_tokens,
            "seconds": round(reply.seconds, 4),
            "is_structured": reply.is_structured,
            "prompt_version": PROMPT_VERSION,
            "asked": json.loads(self._identity),
        }
        # Lone surrogates, which a model may emit, have no UTF-8; ASCII escapes keep them.
        line = json.dumps(record, separators=(",", ":")) + "\n"
        self._stream.write(line.encode("ascii"))
        self._stream.flush()
        # A flush outlives a killed process. What only a power cut could take is synced at times.
        if (now := time.monotonic()) - self._synced >= _SECONDS_BETWEEN_SYNCS:
            os.fsync(self._stream.fileno())
            self._synced = now
        self._replies[key] = reply


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    lock = FileLock(path)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        logger.info("another run is asking the same model about this dataset; waiting for it")
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


def _end_last_line(stream: BinaryIO) -> None:
    """Let the next line start on a line of its own after a line that was torn."""
    size = stream.seek(0, os.SEEK_END)
    if size:
        stream.seek(size - 1)
        if stream.read(1) != b"\n":
            stream.write(b"\n")


def _parse(line: bytes) -> tuple[str, Reply] | None:
    try:
        record = json.loads(line)
    except (ValueError, RecursionError):
        return None
    if not isinstance(record, dict):
        return None
    key, text, seconds = record.get("key"), record.get("reply"), record.get("seconds")
    if not (isinstance(key, str) and isinstance(text, str) and isinstance(seconds, int | float)):
        return None
    reason = record.get("finish_reason")
    sent, received = record.get("prompt_tokens"), record.get("answer_tokens")
    if not (isinstance(reason, str | None) and isinstance(sent, int | None)):
        return None
    if not isinstance(received, int | None):
        return None
    structured = record.get("is_structured") is True
    return key, Reply(text, reason, sent, received, float(seconds), structured)
