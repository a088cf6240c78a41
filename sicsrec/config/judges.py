"""The judges of ``sample_pairs``: one section per kind."""

from typing import Annotated, Any, Literal
from urllib.parse import urlsplit

from pydantic import Field, JsonValue, field_validator, model_validator

from sicsrec.config.base import PositiveFloat, PositiveInt, Section

_OWN_FIELDS = frozenset(
    {
        "model",
        "messages",
        "temperature",
        "response_format",
        "max_tokens",
        "max_completion_tokens",
        "stream",
        "n",
    }
)
"""Fields of a request that have a setting of their own, or that answers are read by."""


class SimilarityJudgeConfig(Section):
    """A judge without an LLM: it compares text vectors."""

    kind: Literal["similarity"] = "similarity"
    vectors: Literal["tfidf", "encoder"] = "tfidf"
    """``tfidf``: TF-IDF of character n-grams; ``encoder``: ``align_encoders.text_encoder`` as it is
    before alignment."""
    min_positive: Annotated[float, Field(ge=-1.0, le=1.0)] = 0.2
    """Cosine from which the nearest candidate counts as similar; below, the answer is none."""
    max_negative: Annotated[float, Field(ge=-1.0, le=1.0)] = 0.1
    """Cosine up to which a candidate counts as unrelated."""

    @model_validator(mode="after")
    def _ordered(self) -> "SimilarityJudgeConfig":
        if self.max_negative >= self.min_positive:
            raise ValueError("max_negative must be below min_positive")
        return self


class CoOccurrenceJudgeConfig(Section):
    """A judge that looks at histories alone, to measure what reading texts adds.

    The candidate that shares most training histories with the anchor counts as similar, those that
    share fewest as unrelated.
    """

    kind: Literal["co_occurrence"] = "co_occurrence"


class RandomJudgeConfig(Section):
    """A judge that draws similar and unrelated candidates from the seed, to measure against."""

    kind: Literal["random"] = "random"


class BudgetConfig(Section):
    """How much may be asked for one set of pairs. Answers already in the log count too, so running
    again does not spend again; a larger budget goes on where the smaller one stopped.
    """

    max_questions: PositiveInt | None = None
    """Questions at most, the first ones; repairs of their answers are not counted."""
    max_tokens: PositiveInt | None = None
    """Tokens at most, prompts and answers together."""
    max_cost: PositiveFloat | None = None
    """Money at most, in the currency of ``prices``."""


class PricesConfig(Section):
    """What a server charges."""

    prompt: Annotated[float, Field(ge=0.0)]
    """For a million tokens sent."""
    answer: Annotated[float, Field(ge=0.0)]
    """For a million tokens received."""
    currency: str = "USD"
    """Of both prices and of the costs computed from them."""


class LanguageModelJudgeConfig(Section):
    """What judges that ask a language model have in common."""

    revision: str | None = None
    """Commit or tag on the hub; for a server, any word that tells apart the weights it serves under
    one name. Another revision is asked anew."""
    language: Literal["en", "zh"] = "en"
    """Language of the instructions; titles stay as they are."""
    max_answer_tokens: PositiveInt = 256
    """An answer is cut after so many tokens; a model that thinks first needs more."""
    repair: bool = True
    """Whether an answer that cannot be used is asked for once more, with what was wrong."""
    budget: BudgetConfig = BudgetConfig()
    """Where asking stops; the pairs so far are kept."""


class OpenAIJudgeConfig(LanguageModelJudgeConfig):
    """A language model behind any server that speaks the OpenAI chat completions protocol."""

    kind: Literal["openai"] = "openai"
    model: str
    """Name under which the server knows the model."""
    base_url: str
    """Address of the server with its path, e.g. ``http://localhost:8000/v1``."""
    api_key_variable: Annotated[str, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_]*$")] | None = None
    """Name of the environment variable that holds the key, never the key; None: the server needs
    none."""
    structured_output: Literal["auto", "json_schema", "none"] = "auto"
    """``json_schema``: the server holds the model to a schema whose numbers are the candidates;
    ``none``: only the prompt asks for JSON; ``auto``: the first, unless the server refuses it."""
    temperature: Annotated[float, Field(ge=0.0)] | None = 0.0
    """None: not sent, for models that refuse it."""
    answer_limit_field: Literal["max_tokens", "max_completion_tokens"] = "max_tokens"
    """Name under which the server takes ``max_answer_tokens``."""
    request_fields: dict[str, JsonValue] = Field(default_factory=dict)
    """Further fields of every request, e.g. ``chat_template_kwargs: {enable_thinking: false}``.
    They are recorded, so no secret belongs here."""
    concurrency: PositiveInt = 16
    """Requests under way at the same time."""
    timeout_seconds: PositiveFloat = 120.0
    """A request that takes longer is given up and tried again."""
    max_attempts: PositiveInt = 6
    """Times one request is tried before the step stops."""
    max_wait_seconds: PositiveFloat = 60.0
    """Longest pause between two tries; a server that asks for a longer one stops the step."""
    prices: PricesConfig | None = None
    """None: costs are not computed."""

    @field_validator("base_url")
    @classmethod
    def _plain_address(cls, value: str) -> str:
        parts = urlsplit(value)
        if parts.scheme not in {"http", "https"} or not parts.hostname:
            raise ValueError("must be an address like http://localhost:8000/v1")
        if parts.username or parts.password or parts.query or parts.fragment:
            # The address is recorded and shown in messages.
            raise ValueError("must hold no user, password or query; name a key's variable instead")
        return value.rstrip("/")

    @field_validator("request_fields")
    @classmethod
    def _further_fields(cls, value: dict[str, Any]) -> dict[str, Any]:
        if taken := sorted(_OWN_FIELDS & set(value)):
            raise ValueError(f"{', '.join(taken)} cannot be set here")
        return value

    @model_validator(mode="after")
    def _cost_needs_prices(self) -> "OpenAIJudgeConfig":
        if self.budget.max_cost is not None and self.prices is None:
            raise ValueError("budget.max_cost needs prices")
        return self


class TransformersJudgeConfig(LanguageModelJudgeConfig):
    """A causal language model of the transformers library, run in the step itself."""

    kind: Literal["transformers"] = "transformers"
    model: str
    """Hub id, local folder, or ``package:<module>/<folder>`` for a model inside an installed
    Python package. It must have a chat template and safetensors weights."""
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    """``auto``: half precision on an accelerator, ``float32`` on a CPU."""
    batch_size: PositiveInt = 8
    """Questions answered at the same time."""

    @model_validator(mode="after")
    def _costs_nothing(self) -> "TransformersJudgeConfig":
        if self.budget.max_cost is not None:
            raise ValueError("budget.max_cost: a model of your own has no price; use max_tokens")
        return self


JudgeConfig = Annotated[
    SimilarityJudgeConfig
    | CoOccurrenceJudgeConfig
    | RandomJudgeConfig
    | OpenAIJudgeConfig
    | TransformersJudgeConfig,
    Field(discriminator="kind"),
]
