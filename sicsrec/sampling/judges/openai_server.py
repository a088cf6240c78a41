"""A judge that asks a language model behind an OpenAI-compatible server.

vLLM, SGLang, llama.cpp, Ollama and hosted services speak this protocol. The client library comes
with the extra ``llm`` and is imported when a judge is made.
"""

import logging
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from typing import Any

from sicsrec.config.judges import OpenAIJudgeConfig
from sicsrec.errors import BackendError, BackendUnavailableError, ConfigError, SicsrecError
from sicsrec.sampling.asking import LanguageModelJudge, Surroundings, Terms
from sicsrec.sampling.judges.server_trouble import Trouble, Waiting, read_trouble
from sicsrec.sampling.language_model import Reply, Request
from sicsrec.sampling.responses import ResponseLog

logger = logging.getLogger(__name__)

Pause = Callable[[float], object]
"""Waits so many seconds; a round that ends cuts the wait short, and true is returned."""

_NO_KEY = "none"
"""Sent where no key is named: without one the client would look for keys in the environment."""
_REFUSALS = frozenset({400, 422, 501})
"""Statuses by which servers say that they do not know ``response_format``."""


class ChatServer:
    """Sends prompts to a server, a bounded number at a time, and tries again what may pass.

    Args:
        config: where the server is and how it is asked.
        api_key: the key, None when the server needs none.
        pause: waits between two tries, in place of the clock.

    Raises:
        ConfigError: if the client library is not installed, or the key cannot be sent.
    """

    def __init__(
        self, config: OpenAIJudgeConfig, api_key: str | None = None, pause: Pause | None = None
    ) -> None:
        try:
            import openai

            # It reads with the client's own HTTP library.
            from sicsrec.sampling.judges.time_limit import limit_replies
        except ModuleNotFoundError as err:
            raise ConfigError(
                "sample_pairs.judge.kind is openai but its client is not installed; install it "
                "with: pip install 'sicsrec[llm]'"
            ) from err
        _check_key(api_key, config.api_key_variable)
        self._openai = openai
        self._limit_replies = limit_replies
        self._config = config
        self._api_key = api_key
        self._pause = pause
        self._waiting = Waiting(config.max_wait_seconds)
        self._sends_schema = config.structured_output != "none"
        self._is_proven = False
        """Whether a request went through, so that it is known what the server takes."""

    @property
    def name(self) -> str:
        """See :attr:`sicsrec.sampling.language_model.LanguageModel.name`."""
        return f"openai:{self._config.model}"

    @property
    def identity(self) -> dict[str, Any]:
        """See :attr:`sicsrec.sampling.language_model.LanguageModel.identity`.

        The address is not part of it: a model may move to another machine.
        """
        what = ("kind", "model", "revision", "structured_output", "temperature")
        limits = ("max_answer_tokens", "answer_limit_field", "request_fields")
        return self._config.model_dump(mode="json", include={*what, *limits})

    @property
    def n_parallel(self) -> int:
        """See :attr:`sicsrec.sampling.language_model.LanguageModel.n_parallel`."""
        return self._config.concurrency

    def complete(self, requests: Iterable[Request | None]) -> Iterator[tuple[Request, Reply]]:
        """See :meth:`sicsrec.sampling.language_model.LanguageModel.complete`.

        The first request goes alone: it shows whether the server is there and takes a schema.
        When a request fails for good no other is started, and those under way are waited for, so
        that no answer is lost.
        """
        source = iter(requests)
        # Threads and the blocking client: whoever runs the step may have an event loop already.
        # The client never retries by itself. Its waits grow to eight seconds only and are not
        # logged; it lets other requests through while the server asks for rest, and it tries 409
        # and an account without credit again.
        pool = ThreadPoolExecutor(self._config.concurrency, thread_name_prefix="judge")
        with self._openai.OpenAI(
            api_key=self._api_key or _NO_KEY,
            base_url=self._config.base_url,
            timeout=self._config.timeout_seconds,
            max_retries=0,
            http_client=self._openai.DefaultHttpxClient(
                event_hooks=self._limit_replies(self._config.timeout_seconds)
            ),
        ) as client:
            round_ = _Round(pool, lambda request, stop: self._send(client, request, stop))
            try:
                while not round_.has_failed:
                    room = self._config.concurrency if self._is_proven else 1
                    if round_.n_under_way >= room:
                        yield from round_.finish_some()
                        continue
                    request = next(source, _END)
                    if isinstance(request, _End):
                        break
                    if request is None:
                        yield from round_.finish_some()
                    else:
                        round_.start(request)
                while round_.n_under_way:
                    yield from round_.finish_some()
                round_.raise_failure()
            finally:
                round_.close()

    def _send(self, client: Any, request: Request, stop: threading.Event) -> Reply:
        pause = self._pause or stop.wait
        attempt = 1
        while True:
            self._waiting.pass_gate(pause)
            if stop.is_set():
                raise BackendError("stopped, because another request failed")
            outcome = self._try(client, request)
            if isinstance(outcome, Trouble) and self._gives_up_schema(outcome):
                outcome = self._try(client, request)
            if isinstance(outcome, Reply):
                self._is_proven = True
                return outcome
            if outcome.is_final:
                raise self._fatal(outcome)
            pause(self._seconds_to_wait(outcome, attempt))
            attempt += 1

    def _seconds_to_wait(self, trouble: Trouble, attempt: int) -> float:
        config = self._config
        if attempt == config.max_attempts:
            raise BackendUnavailableError(
                f"the server {config.base_url} did not answer in {attempt} tries; the last "
                f"problem: {trouble.words}. Is it running, and is sample_pairs.judge.base_url "
                "right? What was answered is kept; run again to go on"
            )
        seconds = self._waiting.before_next_try(attempt, trouble.retry_after)
        if seconds is None:
            raise BackendUnavailableError(
                f"the server {config.base_url} asks to wait {trouble.retry_after:.0f} s, more than "
                f"sample_pairs.judge.max_wait_seconds = {config.max_wait_seconds:g} "
                f"({trouble.words}). What was answered is kept; run again later to go on"
            )
        logger.info(
            "judge %s: %s; try %d of %d in %.1f s",
            self.name,
            trouble.words,
            attempt + 1,
            config.max_attempts,
            seconds,
        )
        return seconds

    def _try(self, client: Any, request: Request) -> Reply | Trouble:
        """Send one request once.

        Trouble is returned, not raised: the client's exceptions carry request and reply, which may
        hold the key, and would be shown as the cause.
        """
        sends_schema = self._sends_schema
        started = time.monotonic()
        try:
            completion = client.chat.completions.create(**self._fields(request, sends_schema))
            choice = completion.choices[0]
            text, reason = choice.message.content, choice.finish_reason
            usage = completion.usage
        except self._openai.OpenAIError as err:
            return read_trouble(err, self._api_key)
        except (ValueError, AttributeError, TypeError, IndexError):
            return Trouble("a reply that is no chat completion")
        if text is not None and not isinstance(text, str):
            return Trouble("a reply that is no text")
        if reason == "error":
            # Some servers report a failure behind them so, with status 200.
            return Trouble("a reply that broke off (finish_reason error)")
        return Reply(
            text=text or "",
            finish_reason=reason if isinstance(reason, str) else None,
            prompt_tokens=_count(usage, "prompt_tokens"),
            answer_tokens=_count(usage, "completion_tokens"),
            seconds=time.monotonic() - started,
            is_structured=sends_schema,
        )

    def _fields(self, request: Request, sends_schema: bool) -> dict[str, Any]:
        config = self._config
        fields: dict[str, Any] = {
            "model": config.model,
            "messages": request.messages,
            config.answer_limit_field: config.max_answer_tokens,
            "extra_body": config.request_fields,
        }
        if config.temperature is not None:
            fields["temperature"] = config.temperature
        if sends_schema:
            schema = {"name": "answer", "strict": True, "schema": request.schema()}
            fields["response_format"] = {"type": "json_schema", "json_schema": schema}
        return fields

    def _gives_up_schema(self, trouble: Trouble) -> bool:
        """Whether to ask without a schema from now on, since the server seems to refuse it."""
        is_refusal = (
            self._config.structured_output == "auto"
            and self._sends_schema
            and not self._is_proven
            and trouble.status in _REFUSALS
        )
        if is_refusal:
            self._sends_schema = False
            logger.warning(
                "judge %s: the server refuses a JSON schema (%s); going on with plain JSON",
                self.name,
                trouble.words,
            )
        return is_refusal

    def _fatal(self, trouble: Trouble) -> SicsrecError:
        config = self._config
        where = f"the server {config.base_url} refuses the request: {trouble.words}"
        if trouble.status in {401, 403}:
            how = (
                f"check the key in the environment variable {config.api_key_variable}"
                if config.api_key_variable
                else "name the variable that holds a key in sample_pairs.judge.api_key_variable"
            )
            return ConfigError(f"{where}; {how}")
        if trouble.status == 404:
            return ConfigError(
                f"{where}; check sample_pairs.judge.model ({config.model!r}) and base_url, which "
                "usually ends in /v1"
            )
        return BackendError(
            f"{where}; check the settings below sample_pairs.judge. What was answered is kept"
        )


def _check_key(api_key: str | None, variable: str | None) -> None:
    """Refuse a key that no HTTP header can hold; the client would repeat it in its error.

    Nothing is cut off silently: the variable may hold something else than a key.

    Raises:
        ConfigError: naming the variable and what is wrong, never the key.
    """
    where = "the API key" if variable is None else f"the environment variable {variable}"
    if api_key is None:
        return
    if api_key != api_key.strip():
        raise ConfigError(
            f"{where} begins or ends with white space or a line break, which is no part of a key; "
            "take it out (files of secrets often end in a line break)"
        )
    if not (api_key.isascii() and api_key.isprintable()):
        raise ConfigError(
            f"{where} holds a control character or one beyond ASCII, which cannot be sent as a "
            "key; set it again"
        )


def _count(usage: Any, name: str) -> int | None:
    """Return a number of the usage that a server may or may not report."""
    value = getattr(usage, name, None)
    return value if isinstance(value, int) else None


class _End:
    """Marks the end of the requests, among which None has a meaning."""


_END = _End()


class _Round:
    """Requests under way in threads, and the first failure among them."""

    def __init__(
        self, pool: ThreadPoolExecutor, send: Callable[[Request, threading.Event], Reply]
    ) -> None:
        self._pool = pool
        self._send = send
        self._stop = threading.Event()
        self._under_way: dict[Future[Reply], Request] = {}
        self._failure: SicsrecError | None = None

    @property
    def n_under_way(self) -> int:
        return len(self._under_way)

    @property
    def has_failed(self) -> bool:
        return self._failure is not None

    def start(self, request: Request) -> None:
        self._under_way[self._pool.submit(self._send, request, self._stop)] = request

    def finish_some(self) -> list[tuple[Request, Reply]]:
        """Wait for at least one request; failures are kept for :meth:`raise_failure`."""
        done, _ = wait(self._under_way, return_when=FIRST_COMPLETED)
        pairs = []
        for future in done:
            request = self._under_way.pop(future)
            try:
                pairs.append((request, future.result()))
            except SicsrecError as err:
                self._failure = self._failure or err
                self._stop.set()
        return pairs

    def raise_failure(self) -> None:
        if self._failure is not None:
            raise self._failure

    def close(self) -> None:
        self._stop.set()
        self._pool.shutdown(wait=False, cancel_futures=True)


def build_openai_judge(
    config: OpenAIJudgeConfig, n_negatives: int, surroundings: Surroundings
) -> LanguageModelJudge:
    """Make the judge its configuration describes.

    Raises:
        ConfigError: if the client is not installed, or the key's variable is not set or holds
            what cannot be sent.
    """
    api_key = None
    if config.api_key_variable is not None:
        api_key = surroundings.read_secret(config.api_key_variable)
        if api_key is None:
            raise ConfigError(
                f"the environment variable {config.api_key_variable}, which "
                "sample_pairs.judge.api_key_variable names, is not set"
            )
    server = ChatServer(config, api_key)
    terms = Terms(
        config.language,
        n_negatives,
        config.max_answer_tokens,
        config.repair,
        config.budget,
        config.prices,
    )
    log = ResponseLog(surroundings.cache, server.name, server.identity)
    return LanguageModelJudge(server, log, terms)
