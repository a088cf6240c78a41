"""What passes between a judge and the language model it asks."""

import hashlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

from sicsrec.artifacts import canonical_json
from sicsrec.sampling.prompt import PROMPT_VERSION


@dataclass(frozen=True)
class Request:
    """One prompt and what an answer to it may hold."""

    key: str
    """Digest of all that the reply depends on."""
    prompt: str
    n_candidates: int
    n_negatives: int

    @property
    def messages(self) -> list[dict[str, str]]:
        """The chat that is sent. There is no system message: some chat templates refuse one."""
        return [{"role": "user", "content": self.prompt}]

    def schema(self) -> dict[str, Any]:
        """Return the JSON schema of a valid answer: its numbers are those of the candidates."""
        number = {"type": "integer", "enum": list(range(1, self.n_candidates + 1))}
        return {
            "type": "object",
            "properties": {
                "positive": {"anyOf": [number, {"type": "null"}]},
                "negatives": {"type": "array", "items": number, "maxItems": self.n_negatives},
            },
            "required": ["positive", "negatives"],
            "additionalProperties": False,
        }


@dataclass(frozen=True)
class Reply:
    """What a language model said, word for word, and what it took."""

    text: str
    finish_reason: str | None = None
    """``length`` when the reply was cut."""
    prompt_tokens: int | None = None
    """None when the server does not count."""
    answer_tokens: int | None = None
    seconds: float = 0.0
    is_structured: bool = False
    """Whether the server held the model to the schema."""


@runtime_checkable
class LanguageModel(Protocol):
    """Completes prompts; knows nothing of questions."""

    @property
    def name(self) -> str:
        """Name that the pairs carry as their source."""
        ...

    @property
    def identity(self) -> Mapping[str, Any]:
        """Model and parameters: what a reply depends on beside the prompt."""
        ...

    @property
    def n_parallel(self) -> int:
        """Requests under way at the same time."""
        ...

    def complete(self, requests: Iterable[Request | None]) -> Iterator[tuple[Request, Reply]]:
        """Yield a reply for every request as soon as it is there, in any order.

        Requests are taken only when there is room for them. None in their place asks to finish
        some of what is under way before the next is taken.

        Raises:
            ConfigError: if the model refuses what the configuration says.
            BackendError: if the model cannot answer.
        """
        ...


def request_key(prompt: str, identity: Mapping[str, Any]) -> str:
    """Return the SHA-256 that names a request, equal for what must give the same reply.

    Args:
        prompt: the text that is sent.
        identity: of the model, see :attr:`LanguageModel.identity`.
    """
    content = {"prompt": prompt, "prompt_version": PROMPT_VERSION, **identity}
    return hashlib.sha256(canonical_json(content).encode()).hexdigest()
