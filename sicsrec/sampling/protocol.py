"""What passes between those who ask about item pairs and those who answer.

A question shows one anchor item and some candidates out of the same training histories, under
small local numbers; a judge answers in these numbers; a validated answer is a verdict in item ids.
The numbers keep dataset ids out of prompts and make every answer checkable against its question.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

ANCHOR_NUMBER = 0
"""Local number of the anchor; candidates count from 1."""


@dataclass(frozen=True)
class Candidate:
    """One item that an anchor may be paired with."""

    number: int
    """Local number within the question, from 1."""
    item_id: str
    text: str


@dataclass(frozen=True)
class Question:
    """Which of these candidates is most similar in meaning to the anchor, which are unrelated?"""

    anchor_id: str
    anchor_text: str
    candidates: tuple[Candidate, ...]


@dataclass(frozen=True)
class Answer:
    """A judge's reply in local numbers, not yet checked."""

    positive: int | None
    """The most similar candidate; None when no candidate is similar."""
    negatives: tuple[int, ...] = ()
    """Candidates that are about something else."""


@dataclass(frozen=True)
class Unreadable:
    """A reply that does not have the form of an answer."""

    detail: str


@dataclass(frozen=True)
class NotAsked:
    """No reply, because the budget ended before this question."""


@dataclass(frozen=True)
class Verdict:
    """A checked answer in item ids."""

    positive_id: str | None
    negative_ids: tuple[str, ...]


@runtime_checkable
class Judge(Protocol):
    """Answers questions about item pairs."""

    @property
    def name(self) -> str:
        """Name that the pairs carry as their source."""
        ...

    def answer(self, questions: Sequence[Question]) -> Sequence[Answer | Unreadable | NotAsked]:
        """Return one reply per question, in the order of the questions.

        Raises:
            BackendError: if the judge cannot answer at all.
        """
        ...
