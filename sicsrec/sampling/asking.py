"""The judge that asks a language model: plan, budget, log, one repair, checked answers."""

import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sicsrec.cluster import Cluster
from sicsrec.config.judges import BudgetConfig, PricesConfig
from sicsrec.progress import NoProgress, Progress
from sicsrec.sampling.answers import find_fault, read_answer
from sicsrec.sampling.language_model import LanguageModel, Reply, Request, request_key
from sicsrec.sampling.prompt import (
    PROMPT_VERSION,
    PromptLanguage,
    plain_text,
    render_prompt,
    render_repair,
)
from sicsrec.sampling.protocol import Answer, NotAsked, Question, Unreadable
from sicsrec.sampling.responses import ResponseLog
from sicsrec.sampling.spending import (
    AskingPlan,
    Ledger,
    Spending,
    estimate_tokens,
    usual_answer_tokens,
)

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Terms:
    """How questions are put to a language model, and how much may be asked."""

    language: PromptLanguage
    n_negatives: int
    max_answer_tokens: int
    repair: bool
    budget: BudgetConfig
    prices: PricesConfig | None = None


@dataclass(frozen=True)
class Surroundings:
    """What a judge that asks a language model is given beside its configuration."""

    cache: Path
    """Folder of the response log."""
    device: str = "cpu"
    """Torch device of a model that runs in the step."""
    read_secret: Callable[[str], str | None] = field(default=lambda _: None, repr=False)
    """Gives the secret that goes by a name."""
    cluster: Cluster | None = None
    """Who runs such a model in place of the step."""


class LanguageModelJudge:
    """Asks a language model what its log of replies does not hold, then reads the log.

    :meth:`plan` sends nothing, :meth:`ask` sends what is missing, :meth:`answer` reads. What comes
    out depends on the replies and the budget, not on the order in which replies arrived.

    Args:
        model: completes prompts.
        log: replies so far.
        terms: how is asked.
    """

    def __init__(self, model: LanguageModel, log: ResponseLog, terms: Terms) -> None:
        self._model = model
        self._log = log
        self._terms = terms
        self._ledger = self._new_ledger()
        self._plan: AskingPlan | None = None
        self._admitted: set[str] = set()
        self._n_asked = 0
        self._n_repairs = 0

    @property
    def name(self) -> str:
        """See :attr:`sicsrec.sampling.protocol.Judge.name`."""
        return self._model.name

    def plan(self, questions: Iterable[Question]) -> AskingPlan:
        """Return what asking these questions will take, as far as that can be known."""
        ledger = self._new_ledger()
        to_spend = Spending(self._terms.prices)
        seen: set[str] = set()
        counts = {"answered": 0, "open": 0, "beyond": 0, "timed": 0}
        answer_tokens = usual_answer_tokens(self._terms.n_negatives)
        seconds = 0.0
        for question in questions:
            request = self._request(question)
            if request.key in seen:
                continue
            seen.add(request.key)
            known = self._log.get(request.key)
            counts["answered"] += known is not None
            if counts["beyond"] or ledger.limit_hit(request, is_question=True):
                counts["beyond"] += 1
                continue
            ledger.n_questions += 1
            if known is None:
                sent = estimate_tokens(request.prompt)
                to_spend.add(sent, answer_tokens)
                ledger.spent.add(sent, answer_tokens)
                counts["open"] += 1
            else:
                ledger.spent.add_reply(request, known)
                seconds += known.seconds
                counts["timed"] += 1
        n_parallel = self._model.n_parallel
        each = seconds / counts["timed"] if counts["timed"] else None
        self._plan = AskingPlan(
            n_questions=len(seen),
            n_answered=counts["answered"],
            n_to_ask=counts["open"],
            n_beyond_budget=counts["beyond"],
            to_spend=to_spend,
            seconds=None if each is None else each * counts["open"] / n_parallel,
            n_parallel=n_parallel,
        )
        return self._plan

    def ask(self, questions: Iterable[Question], progress: Progress | None = None) -> None:
        """Ask what is missing in the log, then once more where an answer cannot be used.

        Args:
            questions: iterated more than once, each time in the same order.
            progress: shows how far it is.

        Raises:
            ConfigError: if the model refuses what the configuration says.
            BackendError: if the model cannot answer; what it answered so far is in the log.
        """
        progress = progress or NoProgress()
        self._ledger, self._n_asked, self._admitted = self._new_ledger(), 0, set()
        with self._log.writing():
            plan = self.plan(questions)
            logger.info("judge %s: %s", self.name, plan)
            firsts = (self._request(question) for question in questions)
            self._round("questions", plan.n_to_ask, firsts, progress, is_question=True)
            if self._terms.repair:
                repairs = {repair.key: repair for repair in self._repairs(questions)}
                n_open = sum(self._log.get(key) is None for key in repairs)
                if repairs:
                    self._round("repairs", n_open, repairs.values(), progress, is_question=False)
                # Not all of them, where the budget ended.
                self._n_repairs = len(self._admitted & repairs.keys())
        if self._ledger.stopped_by is not None:
            logger.warning(
                "judge %s: stopped by sample_pairs.judge.budget.%s after %d questions; a larger "
                "budget goes on from here",
                self.name,
                self._ledger.stopped_by,
                self._ledger.n_questions,
            )

    def answer(self, questions: Sequence[Question]) -> list[Answer | Unreadable | NotAsked]:
        """See :meth:`sicsrec.sampling.protocol.Judge.answer`; reads what :meth:`ask` left."""
        return [self._answer(question) for question in questions]

    def report(self) -> dict[str, Any]:
        """Return what was asked and what it took, for people."""
        return {
            "prompt_version": PROMPT_VERSION,
            "plan": self._plan.describe() if self._plan else None,
            "questions": self._ledger.n_questions,
            "repairs": self._n_repairs,
            "asked_now": self._n_asked,
            "stopped_by_budget": self._ledger.stopped_by,
            "model_seconds": round(self._model_seconds(), 2),
            **self._ledger.spent.describe(),
        }

    def _round(
        self,
        stage: str,
        n_open: int,
        requests: Iterable[Request],
        progress: Progress,
        *,
        is_question: bool,
    ) -> None:
        with progress.stage(stage, n_open) as advance:
            for request, reply in self._model.complete(self._admit(requests, is_question)):
                self._log.append(request.key, reply)
                self._ledger.settle(request, reply)
                self._n_asked += 1
                advance(1, self._note())

    def _admit(self, requests: Iterable[Request], is_question: bool) -> Iterator[Request | None]:
        """Yield what has to be asked, as long as the budget allows."""
        ledger = self._ledger
        for request in requests:
            if request.key in self._admitted:
                continue
            while limit := ledger.limit_hit(request, is_question):
                # What is under way has reserved more than it will take, so room may come.
                if not ledger.n_under_way or limit == "max_questions":
                    ledger.stopped_by = ledger.stopped_by or limit
                    return
                yield None
            self._admitted.add(request.key)
            ledger.n_questions += is_question
            if (known := self._log.get(request.key)) is not None:
                ledger.settle(request, known)
            else:
                ledger.start(request)
                yield request

    def _repairs(self, questions: Iterable[Question]) -> Iterator[Request]:
        for question in questions:
            request = self._request(question)
            reply = self._log.get(request.key) if request.key in self._admitted else None
            if reply is not None and (fault := find_fault(question, self._read(question, reply))):
                yield self._repair(request, fault)

    def _answer(self, question: Question) -> Answer | Unreadable | NotAsked:
        request = self._request(question)
        reply = self._log.get(request.key)
        if reply is None or request.key not in self._admitted:
            return NotAsked()
        answer = self._read(question, reply)
        fault = find_fault(question, answer)
        if fault is None or not self._terms.repair:
            return answer
        repair = self._repair(request, fault)
        second = self._log.get(repair.key) if repair.key in self._admitted else None
        return answer if second is None else self._read(question, second)

    def _read(self, question: Question, reply: Reply) -> Answer | Unreadable:
        titles = [question.anchor_text, *(candidate.text for candidate in question.candidates)]
        # A model repeats what it was shown, which may differ from what the catalogue holds.
        shown = [plain_text(title) for title in titles]
        answer = read_answer(reply.text, shown, is_cut=reply.finish_reason == "length")
        if isinstance(answer, Unreadable):
            return answer
        # Least similar first, so those beyond the number asked for are the doubtful ones.
        return Answer(answer.positive, answer.negatives[: self._terms.n_negatives])

    def _request(self, question: Question) -> Request:
        terms = self._terms
        prompt = render_prompt(question, terms.language, terms.n_negatives)
        return self._make_request(prompt, len(question.candidates))

    def _repair(self, request: Request, fault: str) -> Request:
        prompt = render_repair(request.prompt, fault, request.n_candidates, self._terms.language)
        return self._make_request(prompt, request.n_candidates)

    def _make_request(self, prompt: str, n_candidates: int) -> Request:
        key = request_key(prompt, self._model.identity)
        return Request(key, prompt, n_candidates, self._terms.n_negatives)

    def _new_ledger(self) -> Ledger:
        terms = self._terms
        return Ledger(terms.budget, terms.prices, terms.max_answer_tokens)

    def _model_seconds(self) -> float:
        replies = (self._log.get(key) for key in self._admitted)
        return sum((reply.seconds for reply in replies if reply is not None), 0.0)

    def _note(self) -> str:
        spent = self._ledger.spent
        if spent.cost is None or spent.prices is None:
            return f"{spent.tokens} tokens"
        return f"{spent.tokens} tokens, {spent.cost:.2f} {spent.prices.currency}"
