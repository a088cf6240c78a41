"""Checks a judge's replies against the questions, and counts how they came out.

The reference never compares an answered id with the candidates, and its answer pattern cannot
match the "-1" its own prompt asks for. Here a reply that is wrong in any way gives no pair, and
the reason is counted.
"""

import json
from collections import Counter
from dataclasses import dataclass, field
from typing import Literal

from sicsrec.sampling.protocol import ANCHOR_NUMBER, Answer, Question, Unreadable, Verdict

Fault = Literal[
    "unreadable",
    "names_anchor",
    "positive_not_a_candidate",
    "negative_not_a_candidate",
    "negative_twice",
    "positive_among_negatives",
]
"""Why a reply cannot be used."""

_ANSWER_KEYS = {"positive", "negatives"}


def read_answer(reply: str) -> Answer | Unreadable:
    """Read a reply in the form the prompt asks for: ``{"positive": 3, "negatives": [1, 5]}``.

    ``positive`` is null when no candidate is similar. Nothing may stand around the JSON object but
    white space and one Markdown code fence.

    Example:
        >>> read_answer('{"positive": null, "negatives": [2]}')
        Answer(positive=None, negatives=(2,))
    """
    text = reply.strip().removeprefix("```json").removeprefix("```").removesuffix("```")
    try:
        content = json.loads(text)
    except (ValueError, RecursionError) as err:
        return Unreadable(f"not JSON: {err}")
    if not isinstance(content, dict) or set(content) != _ANSWER_KEYS:
        return Unreadable(f"expected an object with the keys {sorted(_ANSWER_KEYS)}")
    positive, negatives = content["positive"], content["negatives"]
    if not (positive is None or _is_number(positive)):
        return Unreadable(f"positive must be a number or null, found {positive!r}")
    if not isinstance(negatives, list) or not all(_is_number(entry) for entry in negatives):
        return Unreadable("negatives must be a list of numbers")
    return Answer(positive, tuple(negatives))


def _is_number(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def find_fault(question: Question, answer: Answer | Unreadable) -> Fault | None:
    """Return why a reply cannot be used, or None when it can."""
    if isinstance(answer, Unreadable):
        return "unreadable"
    numbers = {candidate.number for candidate in question.candidates}
    named = [*answer.negatives] if answer.positive is None else [answer.positive, *answer.negatives]
    checks: tuple[tuple[bool, Fault], ...] = (
        (ANCHOR_NUMBER in named, "names_anchor"),
        (
            answer.positive is not None and answer.positive not in numbers,
            "positive_not_a_candidate",
        ),
        (not numbers.issuperset(answer.negatives), "negative_not_a_candidate"),
        (len(set(answer.negatives)) != len(answer.negatives), "negative_twice"),
        (answer.positive in answer.negatives, "positive_among_negatives"),
    )
    return next((fault for is_fault, fault in checks if is_fault), None)


@dataclass
class Tally:
    """How the answers to all questions came out."""

    n_pairs: int = 0
    """Answers that name a similar candidate."""
    n_none: int = 0
    """Answers that say no candidate is similar."""
    unusable: Counter[str] = field(default_factory=Counter)
    """Answers that cannot be used, by reason."""

    @property
    def n_unusable(self) -> int:
        """Answers that cannot be used."""
        return sum(self.unusable.values())

    @property
    def n_answers(self) -> int:
        """All answers."""
        return self.n_pairs + self.n_none + self.n_unusable

    @property
    def unusable_share(self) -> float:
        """Share of the answers that cannot be used; 0 when nothing was asked."""
        return self.n_unusable / self.n_answers if self.n_answers else 0.0

    def judge(self, question: Question, answer: Answer | Unreadable) -> Verdict | None:
        """Check and count one reply; None when it cannot be used."""
        fault = find_fault(question, answer)
        if fault is not None or isinstance(answer, Unreadable):
            self.unusable[fault or "unreadable"] += 1
            return None
        ids = {candidate.number: candidate.item_id for candidate in question.candidates}
        negatives = tuple(ids[number] for number in answer.negatives)
        if answer.positive is None:
            self.n_none += 1
            return Verdict(None, negatives)
        self.n_pairs += 1
        return Verdict(ids[answer.positive], negatives)
