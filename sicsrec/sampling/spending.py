"""What asking a language model will take, has taken and may take."""

from dataclasses import dataclass
from typing import Any, Literal

from sicsrec.config.judges import BudgetConfig, PricesConfig
from sicsrec.sampling.language_model import Reply, Request

Limit = Literal["max_questions", "max_tokens", "max_cost"]

_ASCII_PER_TOKEN = 4
_TEMPLATE_TOKENS = 64
"""Tokens that a chat template may add to a prompt, at most in all but odd cases."""
_USUAL_ANSWER_TOKENS = 16
_USUAL_TOKENS_PER_NEGATIVE = 3


def estimate_tokens(text: str) -> int:
    """Return about how many tokens a text has, without its tokenizer.

    Four ASCII characters make a token, any other character is one.

    Example:
        >>> estimate_tokens("four words of text"), estimate_tokens("宫保鸡丁")
        (5, 4)
    """
    n_ascii = sum(letter.isascii() for letter in text)
    return -(-n_ascii // _ASCII_PER_TOKEN) + len(text) - n_ascii


def _most_tokens(text: str) -> int:
    """Return more tokens than the text can have: a token holds at least a byte."""
    return len(text.encode("utf-8", "surrogatepass")) + _TEMPLATE_TOKENS


@dataclass
class Spending:
    """Tokens used, and the money they cost."""

    prices: PricesConfig | None = None
    prompt_tokens: int = 0
    answer_tokens: int = 0

    def add(self, prompt_tokens: int, answer_tokens: int) -> None:
        """Count some more tokens."""
        self.prompt_tokens += prompt_tokens
        self.answer_tokens += answer_tokens

    def add_reply(self, request: Request, reply: Reply) -> None:
        """Count a reply, by estimate where the server did not count."""
        sent, received = reply.prompt_tokens, reply.answer_tokens
        self.add(
            estimate_tokens(request.prompt) if sent is None else sent,
            estimate_tokens(reply.text) if received is None else received,
        )

    @property
    def tokens(self) -> int:
        """Tokens sent and received."""
        return self.prompt_tokens + self.answer_tokens

    @property
    def cost(self) -> float | None:
        """Money spent; None without prices."""
        if self.prices is None:
            return None
        prompt, answer = self.prices.prompt, self.prices.answer
        return (self.prompt_tokens * prompt + self.answer_tokens * answer) / 1e6

    def describe(self) -> dict[str, Any]:
        """Return the numbers for a report."""
        numbers: dict[str, Any] = {
            "prompt_tokens": self.prompt_tokens,
            "answer_tokens": self.answer_tokens,
        }
        if self.prices is not None:
            numbers |= {"cost": round(self.cost or 0.0, 6), "currency": self.prices.currency}
        return numbers


class Ledger:
    """Admits requests as long as the budget allows.

    A request is admitted when what was spent and the most that it can take stay within the budget,
    so the budget is never passed, and where it stops depends on the replies alone: not on how many
    requests were under way, nor on which of the replies were in the log already.

    Args:
        budget: the limits.
        prices: what tokens cost.
        max_answer_tokens: tokens of an answer at most.
    """

    def __init__(
        self, budget: BudgetConfig, prices: PricesConfig | None, max_answer_tokens: int
    ) -> None:
        self.spent = Spending(prices)
        self.n_questions = 0
        """Questions admitted; repairs are not counted."""
        self.stopped_by: Limit | None = None
        """The limit that ended the asking, None when everything was asked."""
        self._budget = budget
        self._max_answer_tokens = max_answer_tokens
        self._under_way: dict[str, Request] = {}
        self._reserved = Spending(prices)

    @property
    def n_under_way(self) -> int:
        """Requests admitted that have no reply yet."""
        return len(self._under_way)

    def limit_hit(self, request: Request, is_question: bool) -> Limit | None:
        """Return the limit that one more request may pass, None when there is room for it."""
        budget, spent, reserved = self._budget, self.spent, self._reserved
        most_questions = budget.max_questions if is_question else None
        if most_questions is not None and self.n_questions >= most_questions:
            return "max_questions"
        more = self._most(request)
        tokens = spent.tokens + reserved.tokens + more.tokens
        if budget.max_tokens is not None and tokens > budget.max_tokens:
            return "max_tokens"
        cost = (spent.cost or 0.0) + (reserved.cost or 0.0) + (more.cost or 0.0)
        if budget.max_cost is not None and cost > budget.max_cost:
            return "max_cost"
        return None

    def start(self, request: Request) -> None:
        """Reserve the most that a request can take until its reply is there."""
        most = self._most(request)
        self._under_way[request.key] = request
        self._reserved.add(most.prompt_tokens, most.answer_tokens)

    def settle(self, request: Request, reply: Reply) -> None:
        """Count what a reply really took."""
        if self._under_way.pop(request.key, None) is not None:
            most = self._most(request)
            self._reserved.add(-most.prompt_tokens, -most.answer_tokens)
        self.spent.add_reply(request, reply)

    def _most(self, request: Request) -> Spending:
        most = Spending(self.spent.prices)
        most.add(_most_tokens(request.prompt), self._max_answer_tokens)
        return most


@dataclass(frozen=True)
class AskingPlan:
    """What asking will take, before anything is sent."""

    n_questions: int
    """Different prompts; equal ones are asked once."""
    n_answered: int
    """Answered in the log already."""
    n_to_ask: int
    """Open questions that the budget is about enough for."""
    n_beyond_budget: int
    """Questions, open or not, that it is not enough for."""
    to_spend: Spending
    """About what the questions to ask take, without repairs."""
    seconds: float | None
    """About; None when the log holds no answer of this model to judge by."""
    n_parallel: int

    def describe(self) -> dict[str, Any]:
        """Return the numbers for a report."""
        return {
            "questions": self.n_questions,
            "answered_before": self.n_answered,
            "to_ask": self.n_to_ask,
            "beyond_budget": self.n_beyond_budget,
            "seconds": None if self.seconds is None else round(self.seconds, 1),
            "in_parallel": self.n_parallel,
            **self.to_spend.describe(),
        }

    def __str__(self) -> str:
        """Return the plan in one sentence."""
        cost = self.to_spend.cost
        parts = [
            f"{self.n_questions} questions, {self.n_answered} answered already, "
            f"{self.n_to_ask} to ask, {self.n_parallel} at a time",
            f"about {self.to_spend.prompt_tokens} tokens sent and "
            f"{self.to_spend.answer_tokens} received",
            "time unknown until the first answers"
            if self.seconds is None
            else f"about {self.seconds:.0f} s",
        ]
        if cost is not None and self.to_spend.prices is not None:
            parts.append(f"about {cost:.2f} {self.to_spend.prices.currency}")
        if self.n_beyond_budget:
            parts.append(f"{self.n_beyond_budget} questions are beyond the budget")
        return "; ".join(parts)


def usual_answer_tokens(n_negatives: int) -> int:
    """Return about how many tokens an answer has that holds nothing but the JSON asked for."""
    return _USUAL_ANSWER_TOKENS + _USUAL_TOKENS_PER_NEGATIVE * n_negatives
