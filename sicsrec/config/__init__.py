"""The configuration of a pipeline: one frozen, closed section per step, checked across steps.

Values come from presets (YAML) and overrides; types, defaults and checks live here. Of the
model and the losses of stage 2 a default is the paper's value (arXiv 2510.10556), otherwise what
works without a key, a server or much memory; what depends on the data has none.
Config objects stop at the builders: modules of the models take plain keyword arguments.
"""

from datetime import UTC, datetime
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, ValidationError, field_validator, model_validator
from pydantic_core import PydanticCustomError

from sicsrec.config.base import NOT_FOR_THIS_DATA, PositiveFloat, PositiveInt, Rate, Section, Share
from sicsrec.config.encoders import AlignEncodersConfig, Precision, VectorDtype
from sicsrec.config.judges import JudgeConfig, SimilarityJudgeConfig

# --------------------------------------------------------------------------- ingest


class DemoReaderConfig(Section):
    """The built-in catalogue, generated from a seed."""

    kind: Literal["demo"] = "demo"
    n_items: PositiveInt = 400
    """Videos to generate."""
    n_users: PositiveInt = 2000
    """Users to generate."""
    generator_seed: int = 7
    """Seed of the generator; independent of the seed of training."""


class MovieLensReaderConfig(Section):
    """MovieLens 100K: ``u.data``, ``items.csv`` or else ``u.item``, and ``posters/`` if present."""

    kind: Literal["movielens_100k"] = "movielens_100k"


class NineRecReaderConfig(Section):
    """NineRec, as released or as the reference code lays it out.

    Released: ``X_item.csv``, ``X_pair.csv`` or ``X_behaviour.tsv``, ``X_cover/``. Reference:
    ``X_item.csv`` and ``sequential_data.txt``.
    """

    kind: Literal["ninerec"] = "ninerec"
    title_language: Literal["zh", "en"] = "zh"
    """Which of the two titles becomes the item's title."""


class MicroLensReaderConfig(Section):
    """MicroLens: ``*_pairs.csv`` or ``.tsv``, ``*_titles.csv``, ``*_covers/``.

    Without covers, ``*_videos/``: of each a frame becomes the cover.
    """

    kind: Literal["microlens"] = "microlens"


class TablesReaderConfig(Section):
    """Any CSV, TSV, JSONL or Parquet tables, with a mapping of their columns."""

    kind: Literal["tables"] = "tables"
    items: str
    """File of the items, relative to the data folder."""
    interactions: str
    """File of the interactions, relative to the data folder."""
    covers: str | None = None
    """Folder of cover images named ``<item id>.<extension>``, relative to the data folder."""
    item_id: str = "item_id"
    """Column of the item id in the item file."""
    title: str | None = "title"
    """Column of the title; None where there are no titles."""
    description: str | None = None
    """Column of a longer text."""
    language: str | None = None
    """Column of the language code."""
    topics: str | None = None
    """Column of topics or genres, separated by ``|``."""
    image: str | None = None
    """Column of the cover's path, relative to the covers folder; in place of names by item id."""
    interaction_user: str = "user_id"
    """Column of the user id in the interaction file."""
    interaction_item: str = "item_id"
    """Column of the item id in the interaction file."""
    timestamp: str | None = "timestamp"
    """Column of the time: seconds or milliseconds since 1970, whole or with decimals, or ISO 8601.
    None: the order of the rows is the order in time."""
    rating: str | None = None
    """Column of a rating, used by the filter ``min_rating``."""
    quotes: bool = True
    """Whether ``"`` encloses fields of CSV and TSV files. False for files that are written without
    quoting, as Hive and MySQL write them: there a ``"`` is text, a line is always one row, and a
    field that is ``\\N`` is empty."""


ReaderConfig = Annotated[
    DemoReaderConfig
    | MovieLensReaderConfig
    | NineRecReaderConfig
    | MicroLensReaderConfig
    | TablesReaderConfig,
    Field(discriminator="kind"),
]


class FilterConfig(Section):
    """What is left out of the interactions. Filters see the whole log, held-out part included."""

    min_rating: float | None = None
    """Keep interactions rated at least so; None keeps all."""
    since: str | None = None
    """Keep interactions at or after this ISO 8601 time, UTC."""
    until: str | None = None
    """Keep interactions before this ISO 8601 time, UTC."""
    user_core: Annotated[int, Field(ge=0)] = 0
    """Keep users with at least so many interactions (repeated until stable with ``item_core``)."""
    item_core: Annotated[int, Field(ge=0)] = 0
    """Keep items with at least so many interactions (repeated until stable with ``user_core``)."""
    min_history_length: Annotated[int, Field(ge=0)] = 0
    """Drop users with fewer interactions, once, after all other filters."""
    drop_repeats: bool = False
    """Keep only the first interaction of a user with an item."""

    @field_validator("since", "until")
    @classmethod
    def _is_moment(cls, value: str | None) -> str | None:
        if value is not None:
            parse_moment(value)
        return value

    @model_validator(mode="after")
    def _leaves_time(self) -> "FilterConfig":
        if self.since and self.until and parse_moment(self.since) >= parse_moment(self.until):
            raise ValueError(f"since {self.since} is not before until {self.until}")
        return self


def parse_moment(text: str) -> datetime:
    """Return the time that a text names; one without an offset is taken for UTC.

    Raises:
        ValueError: if it is no ISO 8601 time, or before 1970.
    """
    try:
        # Python takes 20210304 for a date; as a number it is a day of 1970.
        moment = datetime.fromisoformat("" if text.strip().isdigit() else text)
    except ValueError as err:
        raise ValueError(
            f"{text!r} is not an ISO 8601 time, e.g. 2021-03-04 or 2021-03-04T05:06:07Z"
        ) from err
    moment = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
    if moment < datetime(1970, 1, 1, tzinfo=UTC):
        raise ValueError(f"{text!r} is before 1970")
    return moment


class IngestConfig(Section):
    """Raw files to validated items, covers and interactions."""

    path: str | None = None
    """Folder of the raw data; ``sicsrec run PRESET --data FOLDER`` sets it. The demo needs none."""
    reader: ReaderConfig
    """The layout of the raw data."""
    filters: FilterConfig = FilterConfig()
    """What is left out of the interactions."""
    text_fields: Annotated[tuple[Literal["title", "description"], ...], Field(min_length=1)] = (
        "title",
    )
    """Fields that, joined, make the text that judge and encoders read."""
    max_bad_row_share: Share = 0.05
    """Stop when a larger share of the rows of a file is quarantined."""
    max_bad_cover_share: Share = 0.2
    """Stop when a larger share of the cover files present is quarantined."""
    max_cover_bytes: PositiveInt = 20_000_000
    """Larger cover files are quarantined unread."""
    max_cover_pixels: PositiveInt = 50_000_000
    """Covers with more pixels are quarantined undecoded (decompression bombs)."""
    cover_short_side: PositiveInt = 512
    """Covers whose shorter side is longer, in pixels, are stored scaled down to it."""


# --------------------------------------------------------------------------- split


class SplitConfig(Section):
    """Interactions to train, valid and test."""

    strategy: Literal["leave_one_out", "global_time"] = "leave_one_out"
    """``leave_one_out``: a user's last item is the test target, the one before the validation
    target. ``global_time``: two points in time; a user's first item after a point is the target."""
    valid_share: Annotated[float, Field(gt=0.0, lt=0.5)] = 0.1
    """``global_time`` only: share of all interactions between the two points in time."""
    test_share: Annotated[float, Field(gt=0.0, lt=0.5)] = 0.1
    """``global_time`` only: share of all interactions after the second point in time."""


# --------------------------------------------------------------------------- sample_pairs


class SamplePairsConfig(Section):
    """Training histories to positive and negative item pairs (the paper's sample construction)."""

    judge: JudgeConfig = SimilarityJudgeConfig()
    """Who names the similar and the unrelated candidates."""
    anchors: Literal["per_item", "per_user"] = "per_item"
    """``per_user`` (the paper): one question per training history, about its last item.
    ``per_item``: one question per item, candidates from the training histories it occurs in."""
    n_candidates: PositiveInt = 20
    """Most candidates in one question."""
    n_negatives: Annotated[int, Field(ge=0)] = 3
    """Most unrelated candidates asked for."""
    max_unusable_share: Share = 0.5
    """Stop when a larger share of the answers is unusable."""

    @field_validator("judge", mode="before")
    @classmethod
    def _similarity_unless_named(cls, value: Any) -> Any:
        return {"kind": "similarity", **value} if isinstance(value, dict) else value

    @model_validator(mode="after")
    def _candidates_come_by_co_occurrence(self) -> "SamplePairsConfig":
        if self.judge.kind == "co_occurrence" and self.anchors != "per_item":
            raise ValueError(
                "judge.kind: co_occurrence goes by the order of the candidates, which with "
                f"anchors: {self.anchors} come most recent first; set anchors: per_item"
            )
        return self


# --------------------------------------------------------------------------- encode_items


class EncodersSourceConfig(Section):
    """Vectors come from the aligned encoders."""

    kind: Literal["encoders"] = "encoders"


class GivenSourceConfig(Section):
    """Vectors come from files, in place of stage 1.

    Parquet files have the columns ``item_id`` and ``vector``; in npy files row r belongs to the
    item whose id is the number r.
    """

    kind: Literal["given"] = "given"
    text: str | None = None
    """File of the text vectors."""
    image: str | None = None
    """File of the image vectors, or of any second modality."""

    @model_validator(mode="after")
    def _some(self) -> "GivenSourceConfig":
        if self.text is None and self.image is None:
            raise ValueError("give text, image or both")
        return self


class EncodeItemsConfig(Section):
    """Items to text and image vectors in Parquet."""

    source: Annotated[EncodersSourceConfig | GivenSourceConfig, Field(discriminator="kind")] = (
        EncodersSourceConfig()
    )
    """Where the vectors come from."""
    batch_size: PositiveInt = 128
    """Items in a batch."""
    normalise: bool = True
    """Scale every vector to unit length."""
    dtype: VectorDtype = "float32"
    """Type of the numbers that are written."""
    precision: Precision = "auto"
    """What the encoders compute in."""
    shard_items: PositiveInt = 4096
    """Items after which finished vectors are put on disk; a killed run goes on from there."""
    n_workers: Annotated[int, Field(ge=0)] | None = None
    """Processes that decode and preprocess covers; 0: the step does it itself; None: 0 on a CPU,
    which the encoder keeps busy, and up to 8 beside an accelerator, by how much there is to do."""


# --------------------------------------------------------------------------- stage 2


def _each_once(value: tuple[str, ...]) -> tuple[str, ...]:
    if len(set(value)) != len(value):
        raise ValueError("names a modality twice")
    return value


Modalities = Annotated[
    tuple[Literal["text", "image"], ...], Field(min_length=1), AfterValidator(_each_once)
]


class SequenceModelConfig(Section):
    """What the ID encoder and SICSRec have in common."""

    width: PositiveInt = 256
    """Width d of item embeddings and hidden states."""
    inner_width: PositiveInt = 256
    """Inner width of the feed-forward blocks."""
    n_layers: PositiveInt = 2
    """Transformer layers of each tower."""
    n_heads: PositiveInt = 2
    """Attention heads of each layer."""
    dropout: Rate = 0.5
    """Dropout of hidden states and of attention weights."""
    max_history_length: PositiveInt = 50
    """Only the most recent so many items of a history are read."""
    positions: Literal["from_start", "from_end"] = "from_start"
    """What learned positions count from: the oldest item, as the reference does, or the most recent
    one of a sequence, as left-padded batches do, SASRec's own among them."""
    learning_rate: Annotated[float, Field(gt=0.0)] = 1e-3
    """Of Adam."""
    batch_targets: PositiveInt = 1024
    """Training targets in a batch, about."""
    sampled_softmax_above: PositiveInt = 1_000_000
    """Catalogues with more items are trained with a sampled softmax in place of the full one."""
    n_sampled: PositiveInt = 16_384
    """Items drawn for the sampled softmax, beside the targets of the batch."""
    max_epochs: PositiveInt = 200
    """Passes over the training histories at most."""
    patience: PositiveInt = 10
    """Stop after so many validations without improvement."""
    selection_metric: Literal["hr_at_10", "ndcg_at_10"] = "hr_at_10"
    """Validation metric that picks the best epoch."""
    precision: Precision = "auto"
    """What training computes in: bfloat16 rounds the inputs of matrix products. ``auto``: what is
    fastest on the device, which is float32: on GPUs too, where a step of models this small waits
    for launches, and casts are more of them. Weights, losses over large catalogues and ranking are
    float32 always."""

    @model_validator(mode="after")
    def _heads_divide_width(self) -> "SequenceModelConfig":
        if self.width % self.n_heads:
            raise ValueError(f"n_heads ({self.n_heads}) must divide width ({self.width})")
        return self


class RandomStartConfig(Section):
    """Item embeddings start at random numbers, N(0, std), as in the paper."""

    kind: Literal["random"] = "random"
    std: PositiveFloat = 0.02
    """Standard deviation."""


class ContentStartConfig(Section):
    """Item embeddings start at the principal components of the items' vectors, those of
    ``train_sicsrec.modalities``.

    After Harte et al., *Leveraging Large Language Models for Sequential Recommendation*, RecSys
    2023. From there they are trained like any others.
    """

    kind: Literal["content"] = "content"
    std: PositiveFloat = 0.1
    """Standard deviation of all their numbers. Items without any vector start at random ones."""
    whitening: Share = 0.5
    """0: components vary as much as they do in the vectors; 1: all equally; between: by that power
    of their spread."""


class PretrainIdConfig(SequenceModelConfig):
    """Step 1: item embeddings and ID encoder alone, cross entropy over all items."""

    item_start: Annotated[RandomStartConfig | ContentStartConfig, Field(discriminator="kind")] = (
        RandomStartConfig()
    )
    """What item embeddings are before training."""

    @field_validator("item_start", mode="before")
    @classmethod
    def _random_unless_named(cls, value: Any) -> Any:
        return {"kind": "random", **value} if isinstance(value, dict) else value


class TrainSicsrecConfig(SequenceModelConfig):
    """Step 2: the content encoder, the mix decoder and low-rank adapters on top of step 1."""

    alpha: Annotated[float, Field(ge=0.0)] = 0.2
    """Weight of the content-aware contrastive task L_con; the paper searches 0.1 ... 1.0. With 0 it
    is not computed."""
    temperature: Annotated[float, Field(gt=0.0)] = 0.05
    """Temperature of L_rec and L_con."""
    table_penalty: Annotated[float, Field(ge=0.0)] = 0.01
    """Weight of the sum of the norms of the item, text and image tables."""
    item_dropout: Rate = 0.5
    """Dropout of the item vectors inside L_rec."""
    fusion_dropout: Rate = 0.0
    """Dropout of the towers' joined hidden states before W; the paper has none. It stands in for
    the regularisation that the reference gets from dropout left on in its frozen ID encoder."""
    modalities: Modalities | None = None
    """Vectors that content is made of; None: all that ``encode_items`` gives."""
    two_step: bool = True
    """Whether the ID encoder comes from step 1 and is frozen. False: nothing is loaded and nothing
    frozen, all is trained from random weights, and there are no adapters."""
    adapter_rank: Annotated[int, Field(ge=0)] = 4
    """Rank of the low-rank residual adapters in the frozen ID encoder; 0 or null: without any."""
    scoring: Literal["raw", "normalised"] = "normalised"
    """Whether item embeddings are scaled to unit length where user vectors are compared with them.
    The paper does so in training only; here L_rec, validation, test and export use the one rule
    that is set. Raw logits are smaller: the temperature that suits them is, too."""
    item_scoring: Literal["id", "id_and_content"] = "id"
    """What user vectors are compared with, in training and in ranking: ``id``: item embeddings, as
    in the paper; ``id_and_content``: norm2(e_i) + w * c_i, which places items without any
    interaction by their content."""
    content_weight: PositiveFloat = 0.3
    """``id_and_content`` only: the value the learned weight w starts at."""

    @field_validator("adapter_rank", mode="before")
    @classmethod
    def _none_means_no_adapters(cls, value: Any) -> Any:
        return 0 if value is None else value

    @model_validator(mode="after")
    def _one_scoring_rule(self) -> "TrainSicsrecConfig":
        if self.item_scoring == "id_and_content" and self.scoring == "raw":
            raise ValueError(
                "item_scoring: id_and_content compares with norm2(e_i) + w * c_i in training and "
                "ranking alike; set scoring: normalised"
            )
        return self


# --------------------------------------------------------------------------- evaluate, export


RivalName = Literal["id_encoder", "gru4rec", "content_encoder", "frozen_features"]


class RivalConfig(Section):
    """A trained rival; a value that is not given is that of ``pretrain_id``."""

    width: PositiveInt | None = None
    """Width of embeddings and hidden states."""
    n_layers: PositiveInt | None = None
    """Transformer or GRU layers."""
    dropout: Rate | None = None
    """Dropout of hidden states and, in a Transformer, of attention weights."""
    learning_rate: PositiveFloat | None = None
    """Of Adam."""
    batch_targets: PositiveInt | None = None
    """Training targets in a batch, about."""
    max_epochs: PositiveInt | None = None
    """Passes over the training histories at most."""
    patience: PositiveInt | None = None
    """Stop after so many validations without improvement."""


class ContentRivalConfig(RivalConfig):
    """A trained rival that reads item vectors with a Transformer."""

    inner_width: PositiveInt | None = None
    """Inner width of the feed-forward blocks."""
    n_heads: PositiveInt | None = None
    """Attention heads of each layer."""
    modalities: Modalities | None = None
    """Vectors that it reads; None: all that ``encode_items`` gives."""


class EvaluateConfig(Section):
    """Full ranking of the held-out targets, beside simple rivals."""

    rivals: tuple[RivalName, ...] = ()
    """Rivals that are trained for the tables, on the same training and validation parts, by the
    same loop: ``id_encoder`` (that of ``pretrain_id`` from random item embeddings, for where
    ``pretrain_id.item_start`` is ``content``), ``gru4rec``, ``content_encoder`` (SICSRec's content
    tower alone) and ``frozen_features`` (SASRec on frozen vectors in place of ids)."""
    id_encoder: RivalConfig = RivalConfig()
    """How that rival is trained."""
    gru4rec: RivalConfig = RivalConfig()
    """How that rival is trained."""
    content_encoder: ContentRivalConfig = ContentRivalConfig()
    """How that rival is trained."""
    frozen_features: ContentRivalConfig = ContentRivalConfig()
    """How that rival is trained."""
    cutoffs: tuple[PositiveInt, ...] = (5, 10)
    """Cut-offs k of HR@k and NDCG@k, ascending."""
    remove_seen: bool = False
    """Whether items of the user's history are left out of the ranking; the paper keeps them."""
    n_bootstrap: PositiveInt = 1000
    """Resamples of the users behind each interval."""
    confidence: Annotated[float, Field(gt=0.5, lt=1.0)] = 0.95
    """Coverage of the intervals."""
    head_share: Share = 0.2
    """Share of the items, most watched in training first, that are called head."""
    short_history: PositiveInt = 5
    """Histories of at most so many items are called short."""

    @field_validator("rivals")
    @classmethod
    def _each_rival_once(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        if len(set(value)) != len(value):
            raise ValueError("names a rival twice")
        return value

    @model_validator(mode="after")
    def _ascending(self) -> "EvaluateConfig":
        if list(self.cutoffs) != sorted(set(self.cutoffs)) or not self.cutoffs:
            raise ValueError(f"cutoffs must ascend, got {self.cutoffs}")
        if 10 not in self.cutoffs:
            raise ValueError("cutoffs must contain 10, which the result tables compare")
        return self


class ExportConfig(Section):
    """Recommendations, vectors and a model folder that loads without the pipeline."""

    top_k: PositiveInt = 20
    """Recommendations per user."""
    score: Literal["sicsrec", "blend"] = "sicsrec"
    """What ranks: SICSRec alone, as the paper, or its blend with the ID encoder, counts and
    content (see :mod:`sicsrec.models.blend`)."""
    remove_seen: bool = True
    """Whether items of the user's history are left out."""
    encoders: bool = True
    """Whether the model folder holds the encoders, so that new items can be encoded with it. They
    add their size, e.g. 90 MB for MiniLM and 350 MB for a ViT-B/32, to what is shipped."""
    register_model: bool | None = None
    """Whether the model is logged to MLflow and registered as ``sicsrec-<dataset>``, which copies
    the model folder once. None: where MLflow's database is the local one."""


class PipelineConfig(Section):
    """All steps of one pipeline."""

    dataset: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9_-]*$")]
    """Name of the dataset: a folder of the store and an MLflow experiment."""
    seed: Annotated[int, Field(ge=0, lt=2**63)] = 2024
    """Seed of every step that draws random numbers."""
    refit: bool = True
    """Whether both steps of stage 2 train once more, on train + valid for the number of epochs that
    validation chose. The tables show both; what is exported is then the second."""
    ingest: IngestConfig
    split: SplitConfig = SplitConfig()
    sample_pairs: SamplePairsConfig = SamplePairsConfig()
    align_encoders: AlignEncodersConfig = AlignEncodersConfig()
    encode_items: EncodeItemsConfig = EncodeItemsConfig()
    pretrain_id: PretrainIdConfig = PretrainIdConfig()
    train_sicsrec: TrainSicsrecConfig = TrainSicsrecConfig()
    evaluate: EvaluateConfig = EvaluateConfig()
    export: ExportConfig = ExportConfig()

    @property
    def has_stage_one(self) -> bool:
        """Whether vectors are made by judge and encoders rather than given."""
        return self.encode_items.source.kind == "encoders"

    @property
    def modalities(self) -> tuple[str, ...]:
        """Modalities of which there will be vectors."""
        source = self.encode_items.source
        made_of = {
            modality: getattr(source, modality)
            if isinstance(source, GivenSourceConfig)
            else getattr(self.align_encoders, f"{modality}_encoder")
            for modality in ("text", "image")
        }
        return tuple(modality for modality, origin in made_of.items() if origin is not None)

    def rival_settings(self, name: RivalName) -> PretrainIdConfig:
        """Return how a rival is trained: as the ID encoder, but for the values of its own.

        Where the items of ``pretrain_id`` start is no concern of a rival: its own are random.

        Raises:
            ValueError: if its own values do not go with those of the ID encoder.
        """
        own = getattr(self.evaluate, name).model_dump(exclude={"modalities"}, exclude_none=True)
        if name == "gru4rec":
            # A GRU has no heads, so its width need not be a multiple of theirs.
            own["n_heads"] = 1
        return PretrainIdConfig.model_validate({**self.pretrain_id.model_dump(), **own})

    @model_validator(mode="after")
    def _rivals_can_be_made(self) -> "PipelineConfig":
        for name in self.evaluate.rivals:
            try:
                self.rival_settings(name)
            except ValidationError as err:
                [fault] = err.errors()
                message = fault["msg"].removeprefix("Value error, ")
                raise ValueError(f"evaluate.{name} with pretrain_id: {message}") from err
        return self

    @model_validator(mode="after")
    def _towers_agree(self) -> "PipelineConfig":
        # The reference trains an ID encoder 300 wide for a model 256 wide and loads what fits.
        why = (
            "step 2 loads the weights of step 1"
            if self.train_sicsrec.two_step
            else "train_sicsrec.two_step: false is compared with an ID encoder of the same shape"
        )
        shape = ("width", "inner_width", "n_layers", "n_heads", "max_history_length", "positions")
        for name in shape:
            first, second = getattr(self.pretrain_id, name), getattr(self.train_sicsrec, name)
            if first != second:
                raise ValueError(
                    f"pretrain_id.{name} is {first} but train_sicsrec.{name} is {second}; "
                    f"{why}, so they must be equal"
                )
        return self

    @model_validator(mode="after")
    def _modalities_have_vectors(self) -> "PipelineConfig":
        readers = {"train_sicsrec": self.train_sicsrec.modalities}
        for name in self.evaluate.rivals:
            if name in {"content_encoder", "frozen_features"}:
                readers[f"evaluate.{name}"] = getattr(self.evaluate, name).modalities
        for reader, modalities in readers.items():
            for modality in modalities or ():
                if modality in self.modalities:
                    continue
                lacking = (
                    f"align_encoders.{modality}_encoder"
                    if self.has_stage_one
                    else f"encode_items.source.{modality}"
                )
                raise PydanticCustomError(
                    NOT_FOR_THIS_DATA,
                    "{reader}.modalities names {modality}, but {lacking} is missing, so there "
                    "will be no {modality} vectors",
                    {"reader": reader, "modality": modality, "lacking": lacking},
                )
        return self

    @model_validator(mode="after")
    def _steps_agree(self) -> "PipelineConfig":
        encoders = self.align_encoders
        if self.has_stage_one and encoders.text_encoder is None and encoders.image_encoder is None:
            raise ValueError(
                "align_encoders has neither a text_encoder nor an image_encoder; give one, or give "
                "vectors with encode_items.source.kind: given"
            )
        judge = self.sample_pairs.judge
        if (
            judge.kind == "similarity"
            and judge.vectors == "encoder"
            and encoders.text_encoder is None
        ):
            raise ValueError(
                "sample_pairs.judge.vectors is 'encoder' but align_encoders.text_encoder is missing"
            )
        if self.ingest.path is None and self.ingest.reader.kind != "demo":
            raise ValueError(
                "ingest.path is missing: give the data folder, e.g. with --data FOLDER, or as the "
                "parameter data of a deployment"
            )
        return self
