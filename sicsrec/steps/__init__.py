"""The steps of the pipeline in order: what each reads, writes and may see.

Importing this package imports no step and nothing heavy; a step's module, which holds ``run``, is
imported when the step runs, so a run that reuses everything never loads torch.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from sicsrec.config import PipelineConfig
from sicsrec.sampling.answers import READER_VERSION
from sicsrec.sampling.prompt import PROMPT_VERSION

TRAIN = frozenset({"train"})
TRAIN_VALID = frozenset({"train", "valid"})
WHOLE_LOG = frozenset({"train", "valid", "test"})


def _always(config: PipelineConfig) -> bool:  # noqa: ARG001
    return True


@dataclass(frozen=True)
class Input:
    """An output of an earlier step, and how much of the log it may have seen at most."""

    name: str
    """``step/output``."""
    may_see: frozenset[str]
    is_read: Callable[[PipelineConfig], bool] = _always
    """Inputs that are not read are not waited for either."""

    @property
    def is_optional(self) -> bool:
        """Whether some configurations read it and others do not."""
        return self.is_read is not _always


def _never(config: PipelineConfig) -> bool:  # noqa: ARG001
    return False


def _with_refit(config: PipelineConfig) -> bool:
    return config.refit


@dataclass(frozen=True)
class Output:
    """One output of a step."""

    name: str
    sees: frozenset[str] | None = None
    """Parts of the log it depends on; None: the union over the step's inputs."""
    is_written: Callable[[PipelineConfig], bool] = _always
    """Outputs that are not written are no inputs of later steps either."""


def _with_stage_one(config: PipelineConfig) -> bool:
    return config.has_stage_one


def _nothing(config: PipelineConfig) -> tuple[str, ...]:  # noqa: ARG001
    return ()


def _no_versions(config: PipelineConfig) -> Mapping[str, int]:  # noqa: ARG001
    return {}


@dataclass(frozen=True)
class Step:
    """One step; its module is ``sicsrec.steps.<name>`` and its config section ``<name>``."""

    name: str
    version: int
    """Raised by whoever changes the step's output; part of the key."""
    inputs: tuple[Input, ...]
    outputs: tuple[Output, ...]
    is_seeded: bool = False
    """Whether the pipeline's seed is part of the key."""
    is_needed: Callable[[PipelineConfig], bool] = _always
    """Steps that are not needed are skipped, and so are inputs that come from them."""
    further_sections: Callable[[PipelineConfig], tuple[str, ...]] = _nothing
    """Dotted paths of config values outside the own section that the output depends on."""
    not_in_key: Callable[[PipelineConfig], tuple[str, ...]] = _nothing
    """Dotted paths inside the own section that say only where something lies or how fast it goes,
    not what comes out; changing them reuses what was made."""
    further_versions: Callable[[PipelineConfig], Mapping[str, int]] = _no_versions
    """Versions of parts that the output depends on under some configurations only; part of the
    key, under names that no value of the own section has."""
    uses_accelerator: Callable[[PipelineConfig], bool] = _never
    """Whether it computes on the accelerator where there is one, and waits for its turn there."""


def _judge_encoder(config: PipelineConfig) -> tuple[str, ...]:
    judge = config.sample_pairs.judge
    if judge.kind == "similarity" and judge.vectors == "encoder":
        return ("align_encoders.text_encoder",)
    return ()


def _with_local_judge(config: PipelineConfig) -> bool:
    # A judge behind a server takes hours in which the accelerator here is free for others.
    return config.sample_pairs.judge.kind == "transformers" or bool(_judge_encoder(config))


def _with_own_vectors(config: PipelineConfig) -> bool:
    return config.encode_items.source.kind != "given"


def _how_covers_are_decoded(config: PipelineConfig) -> tuple[str, ...]:  # noqa: ARG001
    return ("n_workers",)


def _where_raw_data_lies(config: PipelineConfig) -> tuple[str, ...]:  # noqa: ARG001
    # The digests of the files say what they hold.
    return ("path",)


def _how_the_judge_is_reached(config: PipelineConfig) -> tuple[str, ...]:
    # The budget stays in the key: where it stops, fewer pairs come out. So do prices when the
    # budget is one of money.
    judge = config.sample_pairs.judge
    if judge.kind == "transformers":
        return ("judge.batch_size",)
    if judge.kind == "openai":
        how = ("base_url", "api_key_variable", "concurrency", "timeout_seconds", "max_attempts")
        prices = ("prices",) if judge.budget.max_cost is None else ()
        return tuple(f"judge.{name}" for name in (*how, "max_wait_seconds", *prices))
    return ()


def _versions_of_asking(config: PipelineConfig) -> Mapping[str, int]:
    if config.sample_pairs.judge.kind not in {"openai", "transformers"}:
        return {}
    return {"prompt_version": PROMPT_VERSION, "reader_version": READER_VERSION}


def _split_protocol_and_rivals(config: PipelineConfig) -> tuple[str, ...]:
    # The report says under which protocol its figures were made. What is not said of a trained
    # rival is as in pretrain_id.
    return ("split.strategy", "refit", *(("pretrain_id",) if config.evaluate.rivals else ()))


def _rivals_not_asked_for(config: PipelineConfig) -> tuple[str, ...]:
    names = ("id_encoder", "gru4rec", "content_encoder", "frozen_features")
    return tuple(name for name in names if name not in config.evaluate.rivals)


def _training(config: PipelineConfig) -> tuple[str, ...]:  # noqa: ARG001
    # The model's card says how it was trained, its folder how new items are encoded.
    return (
        "train_sicsrec",
        "refit",
        "encode_items.normalise",
        "ingest.text_fields",
        "ingest.max_cover_bytes",
        "ingest.max_cover_pixels",
        "ingest.cover_short_side",
    )


def _whether_registered(config: PipelineConfig) -> tuple[str, ...]:  # noqa: ARG001
    return ("register_model",)


def _precision_left_to_the_device(name: str) -> Callable[[PipelineConfig], tuple[str, ...]]:
    def not_in_key(config: PipelineConfig) -> tuple[str, ...]:
        # Like the device itself.
        return ("precision",) if getattr(config, name).precision == "auto" else ()

    return not_in_key


def _items_start_at_content(config: PipelineConfig) -> bool:
    return config.pretrain_id.item_start.kind == "content"


def _ranking_protocol(config: PipelineConfig) -> tuple[str, ...]:  # noqa: ARG001
    # Validation ranks as evaluation does, so the choice of the best epoch depends on it.
    return ("evaluate.remove_seen", "refit")


def _ranking_protocol_and_start(config: PipelineConfig) -> tuple[str, ...]:
    read = ("train_sicsrec.modalities",) if _items_start_at_content(config) else ()
    return (*_ranking_protocol(config), *read)


STEPS: tuple[Step, ...] = (
    Step(
        name="ingest",
        version=12,
        inputs=(),
        not_in_key=_where_raw_data_lies,
        outputs=(
            Output("catalog", sees=frozenset()),
            Output("covers", sees=frozenset()),
            Output("interactions", sees=WHOLE_LOG),
            Output("quarantine", sees=WHOLE_LOG),
        ),
    ),
    Step(
        name="split",
        version=2,
        inputs=(Input("ingest/interactions", WHOLE_LOG),),
        outputs=(
            Output("train", sees=TRAIN),
            Output("valid", sees=TRAIN_VALID),
            Output("test", sees=WHOLE_LOG),
        ),
    ),
    Step(
        name="sample_pairs",
        version=3,
        inputs=(
            Input("ingest/catalog", TRAIN),
            Input("ingest/covers", TRAIN),
            Input("split/train", TRAIN),
        ),
        outputs=(Output("pairs"),),
        is_seeded=True,
        is_needed=_with_stage_one,
        further_sections=_judge_encoder,
        not_in_key=_how_the_judge_is_reached,
        further_versions=_versions_of_asking,
        uses_accelerator=_with_local_judge,
    ),
    Step(
        name="align_encoders",
        version=6,
        inputs=(
            Input("ingest/catalog", TRAIN),
            Input("ingest/covers", TRAIN),
            Input("sample_pairs/pairs", TRAIN),
        ),
        outputs=(Output("encoders"),),
        is_seeded=True,
        is_needed=_with_stage_one,
        uses_accelerator=_always,
    ),
    Step(
        name="encode_items",
        version=2,
        inputs=(
            Input("ingest/catalog", TRAIN),
            Input("ingest/covers", TRAIN),
            Input("align_encoders/encoders", TRAIN),
        ),
        outputs=(Output("vectors"),),
        not_in_key=_how_covers_are_decoded,
        uses_accelerator=_with_own_vectors,
    ),
    Step(
        name="pretrain_id",
        version=1,
        inputs=(
            Input("ingest/catalog", TRAIN),
            Input("split/train", TRAIN),
            Input("split/valid", TRAIN_VALID),
            Input("encode_items/vectors", TRAIN, is_read=_items_start_at_content),
        ),
        outputs=(Output("model"), Output("refit", is_written=_with_refit)),
        is_seeded=True,
        further_sections=_ranking_protocol_and_start,
        not_in_key=_precision_left_to_the_device("pretrain_id"),
        uses_accelerator=_always,
    ),
    Step(
        name="train_sicsrec",
        version=8,
        inputs=(
            Input("ingest/catalog", TRAIN),
            Input("split/train", TRAIN),
            Input("split/valid", TRAIN_VALID),
            Input("encode_items/vectors", TRAIN),
            Input("pretrain_id/model", TRAIN_VALID),
            Input("pretrain_id/refit", TRAIN_VALID),
        ),
        outputs=(
            Output("model"),
            Output("blend"),
            Output("refit", is_written=_with_refit),
            Output("refit_blend", is_written=_with_refit),
        ),
        is_seeded=True,
        further_sections=_ranking_protocol,
        not_in_key=_precision_left_to_the_device("train_sicsrec"),
        uses_accelerator=_always,
    ),
    Step(
        name="evaluate",
        version=3,
        inputs=(
            Input("ingest/catalog", TRAIN),
            Input("split/train", TRAIN),
            Input("split/valid", TRAIN_VALID),
            Input("split/test", WHOLE_LOG),
            Input("encode_items/vectors", TRAIN),
            Input("pretrain_id/model", TRAIN_VALID),
            Input("train_sicsrec/model", TRAIN_VALID),
            Input("train_sicsrec/blend", TRAIN_VALID),
            Input("pretrain_id/refit", TRAIN_VALID),
            Input("train_sicsrec/refit", TRAIN_VALID),
            Input("train_sicsrec/refit_blend", TRAIN_VALID),
        ),
        outputs=(Output("metrics"), Output("per_user")),
        is_seeded=True,
        further_sections=_split_protocol_and_rivals,
        not_in_key=_rivals_not_asked_for,
        uses_accelerator=_always,
    ),
    Step(
        name="export",
        version=4,
        inputs=(
            Input("ingest/catalog", TRAIN),
            Input("ingest/interactions", WHOLE_LOG),
            Input("align_encoders/encoders", TRAIN),
            Input("pretrain_id/model", TRAIN_VALID),
            Input("train_sicsrec/model", TRAIN_VALID),
            Input("train_sicsrec/blend", TRAIN_VALID),
            Input("pretrain_id/refit", TRAIN_VALID),
            Input("train_sicsrec/refit", TRAIN_VALID),
            Input("train_sicsrec/refit_blend", TRAIN_VALID),
        ),
        outputs=(Output("recommendations"), Output("vectors"), Output("model", sees=TRAIN_VALID)),
        further_sections=_training,
        not_in_key=_whether_registered,
        uses_accelerator=_always,
    ),
)
"""All steps in the order in which they run."""

STEP_NAMES: tuple[str, ...] = tuple(step.name for step in STEPS)


def get_step(name: str) -> Step:
    """Return the step of this name.

    Raises:
        KeyError: if there is none; callers check names against :data:`STEP_NAMES` first.
    """
    return next(step for step in STEPS if step.name == name)


def inputs_of(step: Step, config: PipelineConfig) -> tuple[Input, ...]:
    """Return the inputs a step has under this configuration."""
    return tuple(
        entry for entry in step.inputs if entry.is_read(config) and _is_made(entry.name, config)
    )


def outputs_of(step: Step, config: PipelineConfig) -> tuple[Output, ...]:
    """Return the outputs a step writes under this configuration."""
    return tuple(entry for entry in step.outputs if entry.is_written(config))


def _is_made(name: str, config: PipelineConfig) -> bool:
    step_name, output_name = name.split("/")
    step = get_step(step_name)
    return step.is_needed(config) and output_name in {
        output.name for output in outputs_of(step, config)
    }
