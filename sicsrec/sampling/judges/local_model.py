"""A judge that runs a causal language model of the transformers library, here or in a cluster."""

import json
import logging
import socket
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import lru_cache, partial
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig
from transformers.utils import logging as transformers_logging

from sicsrec.artifacts import digest_folder
from sicsrec.cluster import Cluster
from sicsrec.config.judges import TransformersJudgeConfig
from sicsrec.errors import BackendError, ConfigError
from sicsrec.model_files import find_model_folder, load_local_first
from sicsrec.sampling.asking import LanguageModelJudge, Surroundings, Terms
from sicsrec.sampling.language_model import LanguageModel, Reply, Request
from sicsrec.sampling.responses import ResponseLog

logger = logging.getLogger(__name__)

# The library never writes to a terminal, and loading a model would draw a bar there.
transformers_logging.disable_progress_bar()


class LocalModel:
    """Answers prompts greedily, a batch at a time; loaded when the first batch is asked.

    Weights are read from safetensors only, and no code of a model's own is run.

    Args:
        config: names the model.
        device: torch device.
    """

    def __init__(self, config: TransformersJudgeConfig, device: str) -> None:
        self._config = config
        self._device = device
        self._loaded: tuple[Any, Any] | None = None
        folder = find_model_folder(config.model, "judge")
        self._digest = None if folder is None else digest_folder(folder)

    @property
    def name(self) -> str:
        """See :attr:`sicsrec.sampling.language_model.LanguageModel.name`."""
        return f"transformers:{self._config.model}"

    @property
    def identity(self) -> dict[str, Any]:
        """See :attr:`sicsrec.sampling.language_model.LanguageModel.identity`.

        A local model is known by what its folder holds.
        """
        what = {"kind", "revision", "max_answer_tokens", "dtype"}
        model = self._digest or self._config.model
        return {"model": model, **self._config.model_dump(mode="json", include=what)}

    @property
    def n_parallel(self) -> int:
        """See :attr:`sicsrec.sampling.language_model.LanguageModel.n_parallel`.

        A reply's seconds are its share of the batch, so replies follow one another.
        """
        return 1

    def complete(self, requests: Iterable[Request | None]) -> Iterator[tuple[Request, Reply]]:
        """See :meth:`sicsrec.sampling.language_model.LanguageModel.complete`."""
        batch: list[Request] = []
        for request in requests:
            if request is not None:
                batch.append(request)
            if batch and (request is None or len(batch) == self._config.batch_size):
                yield from zip(batch, self._answer(batch), strict=True)
                batch = []
        if batch:
            yield from zip(batch, self._answer(batch), strict=True)

    def _answer(self, batch: list[Request]) -> list[Reply]:
        tokenizer, model = self._loaded = self._loaded or self._load()
        started = time.monotonic()
        inputs = tokenizer.apply_chat_template(
            [request.messages for request in batch],
            add_generation_prompt=True,
            padding=True,
            return_dict=True,
            return_tensors="pt",
            # Templates that know no such switch ignore it.
            enable_thinking=False,
        ).to(self._device)
        length = inputs["input_ids"].shape[1]
        self._check_length(model, length)
        try:
            with torch.inference_mode():
                output = model.generate(
                    input_ids=inputs["input_ids"],
                    attention_mask=inputs["attention_mask"],
                    generation_config=self._generation(tokenizer, model),
                )
        except torch.OutOfMemoryError as err:
            raise BackendError(
                f"the memory of {self._device} is too small for {len(batch)} questions of "
                f"{length} tokens; lower sample_pairs.judge.batch_size"
            ) from err
        seconds = (time.monotonic() - started) / len(batch)
        answers = output[:, length:]
        end_tokens = torch.tensor(_end_tokens(model, tokenizer), dtype=answers.dtype)
        ends = torch.isin(answers, end_tokens.to(answers.device))
        return [
            self._reply(tokenizer, answer, is_end, int(mask.sum()), seconds)
            for answer, is_end, mask in zip(answers, ends, inputs["attention_mask"], strict=True)
        ]

    @staticmethod
    def _reply(
        tokenizer: Any,
        answer: torch.Tensor,
        is_end: torch.Tensor,
        prompt_tokens: int,
        seconds: float,
    ) -> Reply:
        # What follows the first end token fills the row up to the batch's longest answer.
        has_ended = bool(is_end.any())
        n_tokens = int(is_end.int().argmax()) if has_ended else len(answer)
        return Reply(
            text=tokenizer.decode(answer[:n_tokens], skip_special_tokens=True),
            finish_reason="stop" if has_ended else "length",
            prompt_tokens=prompt_tokens,
            answer_tokens=n_tokens + has_ended,
            seconds=seconds,
        )

    def _generation(self, tokenizer: Any, model: Any) -> GenerationConfig:
        # Not the model's own settings with some changed: these may ask for sampling.
        return GenerationConfig(
            do_sample=False,
            max_new_tokens=self._config.max_answer_tokens,
            eos_token_id=_end_tokens(model, tokenizer),
            pad_token_id=tokenizer.pad_token_id,
        )

    def _check_length(self, model: Any, length: int) -> None:
        most = getattr(model.config, "max_position_embeddings", None)
        needed = length + self._config.max_answer_tokens
        if isinstance(most, int) and needed > most:
            raise ConfigError(
                f"judge {self._config.model!r} reads {most} tokens; a question of {length} and "
                f"sample_pairs.judge.max_answer_tokens = {self._config.max_answer_tokens} are too "
                "many; lower that, or sample_pairs.n_candidates"
            )

    def _load(self) -> tuple[Any, Any]:
        config = self._config

        def load(what: str, load_it: Any) -> Any:
            return load_local_first(
                what, load_it, config.model, config.revision, owner="judge", error=BackendError
            )

        tokenizer = load("tokenizer", AutoTokenizer.from_pretrained)
        if tokenizer.chat_template is None:
            raise ConfigError(
                f"judge {config.model!r} has no chat template; choose a model that was tuned to "
                "follow instructions"
            )
        # Rows must end where the answer begins.
        tokenizer.padding_side = "left"
        if tokenizer.pad_token is None:
            tokenizer.pad_token = tokenizer.eos_token
        dtype = _choose_dtype(config.dtype, self._device)
        logger.info("judge %s: loading on %s as %s", self.name, self._device, dtype)

        def load_weights(source: str, **arguments: Any) -> Any:
            return AutoModelForCausalLM.from_pretrained(
                source, use_safetensors=True, dtype=dtype, **arguments
            )

        model = load("weights", load_weights).to(self._device)
        model.eval()
        return tokenizer, model


def _choose_dtype(name: str, device: str) -> torch.dtype:
    """Return the type of the weights; ``auto`` takes what the device computes fast."""
    if name != "auto":
        chosen: torch.dtype = getattr(torch, name)
        return chosen
    if device.startswith("cuda"):
        return torch.bfloat16 if torch.cuda.is_bf16_supported() else torch.float16
    return torch.float16 if device.startswith("mps") else torch.float32


def _end_tokens(model: Any, tokenizer: Any) -> list[int]:
    """Return the tokens that end an answer: chat models often have more than one."""
    declared = model.generation_config.eos_token_id
    if declared is None:
        declared = tokenizer.eos_token_id
    several = declared if isinstance(declared, list) else [declared]
    return [token for token in several if token is not None]


class SpreadModel:
    """A local model in every worker; batches are those of one model, answered side by side.

    Budget, log of replies and what is asked stay with the process that asks.

    Args:
        config: names the model, which every worker must be able to load.
        device: torch device of the workers.
        cluster: who answers.
    """

    def __init__(self, config: TransformersJudgeConfig, device: str, cluster: Cluster) -> None:
        self._config = config
        self._device = device
        self._cluster = cluster
        self._model = LocalModel(config, device)

    @property
    def name(self) -> str:
        """See :attr:`sicsrec.sampling.language_model.LanguageModel.name`."""
        return self._model.name

    @property
    def identity(self) -> Mapping[str, Any]:
        """See :attr:`sicsrec.sampling.language_model.LanguageModel.identity`."""
        return self._model.identity

    @property
    def n_parallel(self) -> int:
        """See :attr:`sicsrec.sampling.language_model.LanguageModel.n_parallel`."""
        return self._cluster.n_workers

    def complete(self, requests: Iterable[Request | None]) -> Iterator[tuple[Request, Reply]]:
        """See :meth:`sicsrec.sampling.language_model.LanguageModel.complete`."""
        identity = json.dumps(self.identity, sort_keys=True)
        call = partial(answer_requests, self._config.model_dump_json(), self._device, identity)
        batches = _batches(requests, self._config.batch_size)
        for batch, replies in self._cluster.spread(call, batches):
            yield from zip(batch, replies, strict=True)


def _batches(requests: Iterable[Request | None], size: int) -> Iterator[tuple[Request, ...] | None]:
    batch: list[Request] = []
    for request in requests:
        if request is not None:
            batch.append(request)
        if batch and (request is None or len(batch) == size):
            yield tuple(batch)
            batch = []
        if request is None:
            yield None
    if batch:
        yield tuple(batch)


def answer_requests(
    config: str, device: str, identity: str, batch: Sequence[Request]
) -> list[Reply]:
    """Answer a batch in its order; what a worker is asked to do."""
    model = _model(config, device, identity)
    replies = {request.key: reply for request, reply in model.complete(batch)}
    return [replies[request.key] for request in batch]


@lru_cache(maxsize=1)
def _model(config: str, device: str, identity: str) -> LocalModel:
    """Return the model, loaded once while it is the same.

    A worker outlives runs, and what a folder holds may have changed in between.

    Raises:
        ConfigError: if the folder holds another model here than where is asked.
    """
    model = LocalModel(TransformersJudgeConfig.model_validate_json(config), device)
    if json.dumps(model.identity, sort_keys=True) != identity:
        raise ConfigError(
            f"judge: the folder {model.name.partition(':')[2]} on {socket.gethostname()} holds "
            "another model than where the run was started; copy it there, and start the run again"
        )
    return model


def build_local_judge(
    config: TransformersJudgeConfig, n_negatives: int, surroundings: Surroundings
) -> LanguageModelJudge:
    """Make the judge its configuration describes.

    Raises:
        ConfigError: if the model is named as local but does not exist.
    """
    device, cluster = surroundings.device, surroundings.cluster
    model: LanguageModel = (
        LocalModel(config, device) if cluster is None else SpreadModel(config, device, cluster)
    )
    terms = Terms(
        config.language, n_negatives, config.max_answer_tokens, config.repair, config.budget
    )
    log = ResponseLog(surroundings.cache, model.name, model.identity)
    return LanguageModelJudge(model, log, terms)
