"""Checks a judge's replies against the questions, and counts how they came out.

The reference never compares an answered id with the candidates, and its answer pattern cannot
match the "-1" its own prompt asks for. Here a reply that is wrong in any way gives no pair, and
the reason is counted.
"""

import json
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from sicsrec.sampling.protocol import ANCHOR_NUMBER, Answer, NotAsked, Question, Unreadable, Verdict

Fault = Literal[
    "unreadable",
    "names_anchor",
    "positive_not_a_candidate",
    "negative_not_a_candidate",
    "negative_twice",
    "positive_among_negatives",
]
"""Why a reply cannot be used."""

READER_VERSION = 1
"""Raised whenever the same reply may be read as another answer; part of the key of ``sample_pairs``
where a language model judges, so that its replies, which are kept, are read anew."""

_ANSWER_KEYS = {"positive", "negatives"}
_MOST_PROSE = 20_000
"""Characters in which an answer is looked for."""


def read_answer(
    reply: str, titles: Sequence[str] = (), *, is_cut: bool = False
) -> Answer | Unreadable:
    """Read a reply in the form the prompt asks for: ``{"positive": 3, "negatives": [1, 5]}``.

    ``positive`` is null when no candidate is similar. The reply may open with thoughts, which are
    left out up to the last ``</think>``; a reply that ends within them holds drafts and no answer.
    The answer may be fenced as Markdown code. Where prose stands around the JSON, it must hold one
    such object and no second, different one; an object that stands in a title is the title's word
    and not the judge's. A reply that was cut may be nothing but thoughts, which the chat template
    opened before it, so it must end these or begin with its answer.

    Args:
        reply: what the judge said.
        titles: the texts that the question showed, as it showed them.
        is_cut: whether the reply stopped at the limit of its length.

    Example:
        >>> read_answer('{"positive": null, "negatives": [2]}')
        Answer(positive=None, negatives=(2,))
        >>> read_answer('Sure! {"positive": 1, "negatives": []}')
        Answer(positive=1, negatives=())
    """
    # The opening tag may be missing: some chat templates write it before the reply.
    _, end_of_thoughts, text = reply.rpartition("</think>")
    text = text.strip()
    if text.startswith("<think>"):
        return Unreadable("the reply ends within its thoughts")
    bare = text.removeprefix("```json").removeprefix("```").removesuffix("```")
    try:
        return _read_object(json.loads(bare))
    except (ValueError, RecursionError) as err:
        problem = f"not JSON: {err}"
    found = [
        (content, words)
        for content, words in _objects_in(text)
        if not any(words in title for title in titles)
    ]
    if not found:
        return Unreadable(problem)
    answer, its_words = found[0]
    if any(content != answer for content, _ in found):
        return Unreadable("holds several different answers")
    if is_cut and not end_of_thoughts and not bare.lstrip().startswith(its_words):
        return Unreadable("was cut, and what it holds may be a draft within its thoughts")
    return _read_object(answer)


def _objects_in(text: str) -> Iterator[tuple[dict[str, Any], str]]:
    """Yield what looks like an answer in running text, and the words it is made of."""
    decoder = json.JSONDecoder()
    start = 0
    text = text[:_MOST_PROSE]
    while (start := text.find("{", start)) >= 0:
        try:
            content, end = decoder.raw_decode(text, start)
        except (ValueError, RecursionError):
            start += 1
            continue
        if isinstance(content, dict) and set(content) == _ANSWER_KEYS:
            yield content, text[start:end]
        start = end


def _read_object(content: object) -> Answer | Unreadable:
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
    n_not_asked: int = 0
    """Questions without an answer; none of the shares knows them."""

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

    def judge(self, question: Question, answer: Answer | Unreadable | NotAsked) -> Verdict | None:
        """Check and count one reply; None when it cannot be used or there is none."""
        if isinstance(answer, NotAsked):
            self.n_not_asked += 1
            return None
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
