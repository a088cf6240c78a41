"""Training histories to positive and negative item pairs (arXiv 2510.10556, sample construction).

Writes ``pairs/pairs.parquet``, schema :data:`sicsrec.data.schema.PAIRS`: one row per usable answer,
the ones that say that no candidate is similar included.
"""

from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from itertools import islice
from typing import Any, cast

import numpy as np
import polars as pl

from sicsrec.cluster import Cluster
from sicsrec.config.judges import JudgeConfig, LanguageModelJudgeConfig
from sicsrec.data.catalog import ItemCatalog
from sicsrec.data.schema import PAIRS
from sicsrec.data.split import TrainLog
from sicsrec.encoders.builder import build_encoder
from sicsrec.encoders.content import TextContent
from sicsrec.encoders.encoding import encode_content
from sicsrec.errors import ConfigError, DataError
from sicsrec.sampling.answers import Tally
from sicsrec.sampling.asking import LanguageModelJudge, Surroundings
from sicsrec.sampling.judges import JUDGES, TEXTLESS
from sicsrec.sampling.judges.similarity import (
    SimilaritySource,
    SpreadSimilarityJudge,
    TextVectors,
    tfidf_vectors,
)
from sicsrec.sampling.protocol import Judge, Question
from sicsrec.sampling.questions import QuestionSource
from sicsrec.steps.context import StepContext, StepReport
from sicsrec.steps.pair_record import record_pairs

FILE_NAME = "pairs.parquet"

_QUESTIONS_AT_A_TIME = 512
_TEXTS_AT_A_TIME = 128


def run(context: StepContext) -> StepReport:
    """Ask the judge about every anchor and keep the usable answers.

    A language model is asked first for all that its log of replies lacks; the pairs are then read
    from the log in the order of the questions, so they do not depend on which reply came first.

    Raises:
        ConfigError: if the judge cannot be made as configured.
        BackendError: if a language model cannot answer; what it answered stays in its log.
        DataError: if more answers than ``max_unusable_share`` are unusable, or no item has a text,
            or nothing for an encoder of the next step.
    """
    config = context.config.sample_pairs
    catalog = ItemCatalog.read(context.input("ingest/catalog").path())
    log = TrainLog.read(context.input("split/train").path())
    questions = QuestionSource(
        log,
        catalog,
        config.anchors,
        config.n_candidates,
        context.seed,
        needs_text=config.judge.kind not in TEXTLESS,
    )
    # What the next step cannot do without is looked for before a language model is paid.
    for modality in context.config.modalities:
        catalog.check_has(modality)
    open_cluster = context.open_cluster if _comes_in_parts(config.judge) else nullcontext
    with open_cluster() as cluster:
        judge = _make_judge(context, catalog, cluster)
        if isinstance(judge, LanguageModelJudge):
            judge.ask(questions, context.progress)
        pairs, tally = _read_answers(context, questions, judge, cluster)
    content = _describe(pairs, tally, questions, catalog)
    if isinstance(judge, LanguageModelJudge):
        content["language_model"] = judge.report()
    # Recorded before the share is judged: who has to find out what went wrong needs the numbers.
    record_pairs(context, pairs, content, catalog)
    if tally.unusable_share > config.max_unusable_share:
        raise DataError(
            f"{tally.n_unusable} of {tally.n_answers} answers of the judge {judge.name!r} are "
            f"unusable ({dict(tally.unusable)}), more than sample_pairs.max_unusable_share = "
            f"{config.max_unusable_share} allows"
        )
    pairs.write_parquet(context.output("pairs") / FILE_NAME)
    return StepReport(rows=tally.n_pairs, rows_of="pairs", content=content)


def _read_answers(
    context: StepContext, questions: QuestionSource, judge: Judge, cluster: Cluster | None
) -> tuple[pl.DataFrame, Tally]:
    tally = Tally()
    rows: list[tuple[str, str | None, list[str], str]] = []
    with context.progress.stage("answers", questions.n_anchors) as advance:
        at_a_time = _QUESTIONS_AT_A_TIME * (2 * cluster.n_workers if cluster else 1)
        for some in _in_chunks(questions, at_a_time):
            for question, answer in zip(some, judge.answer(some), strict=True):
                verdict = tally.judge(question, answer)
                if verdict is not None:
                    negatives = list(verdict.negative_ids)
                    rows.append((question.anchor_id, verdict.positive_id, negatives, judge.name))
            advance(len(some))
        advance(sum(questions.skipped.values()))
    return pl.DataFrame(rows, schema=dict(PAIRS), orient="row"), tally


def _comes_in_parts(judge: JudgeConfig) -> bool:
    """Whether a cluster makes a judge faster: a server is asked from one place, and vectors of an
    encoder are made once.
    """
    return judge.kind == "transformers" or (
        judge.kind == "similarity" and judge.vectors != "encoder"
    )


def _make_judge(context: StepContext, catalog: ItemCatalog, cluster: Cluster | None) -> Judge:
    config = context.config.sample_pairs
    if config.judge.kind == "similarity" and cluster is not None:
        source = SimilaritySource(
            config.judge.model_dump_json(),
            config.n_negatives,
            context.input("ingest/catalog").path(),
        )
        return SpreadSimilarityJudge(source, cluster)
    given: TextVectors | Surroundings | int
    if isinstance(config.judge, LanguageModelJudgeConfig):
        given = Surroundings(context.cache, context.device, context.read_secret, cluster)
    elif config.judge.kind != "similarity":
        given = context.seed
    elif config.judge.vectors == "encoder":
        given = _encoder_vectors(context, catalog)
    else:
        given = tfidf_vectors(catalog)
    build = cast("Any", JUDGES.get(config.judge.kind))
    judge: Judge = build(config.judge, config.n_negatives, given)
    return judge


def _encoder_vectors(context: StepContext, catalog: ItemCatalog) -> TextVectors:
    """Return unit vectors of the text encoder as it is before alignment."""
    encoder_config = context.config.align_encoders.text_encoder
    if encoder_config is None:
        raise ConfigError("sample_pairs.judge.vectors is 'encoder' but there is no text encoder")
    encoder = build_encoder(encoder_config, "text", context.seed, context.device)
    content = TextContent(catalog)
    indices, matrix = encode_content(
        encoder,
        content,
        batch_size=_TEXTS_AT_A_TIME,
        normalise=True,
        progress=context.progress,
    )
    ids = catalog.ids_of(indices).to_list()
    return TextVectors({item_id: row for row, item_id in enumerate(ids)}, matrix)


def _in_chunks(questions: QuestionSource, at_a_time: int) -> Iterator[Sequence[Question]]:
    remaining = iter(questions)
    while some := list(islice(remaining, at_a_time)):
        yield some


def _describe(
    pairs: pl.DataFrame, tally: Tally, questions: QuestionSource, catalog: ItemCatalog
) -> dict[str, Any]:
    positive = pairs.filter(pl.col("positive_id").is_not_null())
    covered = pl.concat([positive["anchor_id"], positive["positive_id"]]).n_unique()
    named = positive["positive_id"].value_counts()["count"].to_numpy()
    times = np.concatenate([named, np.zeros(catalog.n_items - len(named), dtype=named.dtype)])
    lengths = pairs["negative_ids"].list.len()
    not_asked = dict(questions.skipped)
    if tally.n_not_asked:
        not_asked["beyond_budget"] = tally.n_not_asked
    return {
        "judge": pairs["source"][0] if pairs.height else None,
        "anchors": questions.n_anchors,
        "not_asked": dict(sorted(not_asked.items())),
        "answers": {
            "pair": tally.n_pairs,
            "none": tally.n_none,
            "unusable": dict(sorted(tally.unusable.items())),
        },
        "unusable_share": round(tally.unusable_share, 6),
        "items_in_a_pair": covered,
        "share_of_items_in_a_pair": round(covered / catalog.n_items, 6),
        "distinct_positives": positive["positive_id"].n_unique(),
        "times_an_item_is_positive": {
            "mean": round(float(times.mean()), 4),
            "median": float(np.median(times)),
            "max": int(times.max()),
        },
        "negatives_per_answer": _number(lengths.mean()),
    }


def _number(value: object) -> float | None:
    return round(float(value), 4) if isinstance(value, int | float) else None
