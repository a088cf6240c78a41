"""Step ``evaluate``: rank the held-out targets with every model and compare the ranks.

The only step that opens the test targets. Rivals that the configuration asks for are trained here,
by what cannot open them (:mod:`sicsrec.steps.trained_rivals`). Who counts: every user with a
target. A target that never occurs in training is ranked like any other, and a user with an empty
context is ranked by whatever scores the model gives then; both are counted in the report and none
is left out.
"""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from sicsrec.artifacts import ArtifactReader
from sicsrec.data.catalog import ItemCatalog
from sicsrec.data.sequences import Histories, item_counts
from sicsrec.data.split import HeldOut, TrainLog, ValidPart
from sicsrec.errors import DataError, LeakageError
from sicsrec.evaluation.cohorts import LABELS, find_cohorts
from sicsrec.evaluation.comparison import (
    Protocol,
    RankedSplit,
    cohort_rows,
    difference_rows,
    per_user_frame,
    result_rows,
)
from sicsrec.evaluation.names import MAIN, MAIN_BLENDED, tracked_metrics
from sicsrec.evaluation.plots import plot_cohorts, plot_results
from sicsrec.evaluation.ranking import RankingSet, Scorer, rank_targets_both_ways
from sicsrec.evaluation.rivals import (
    make_popularity,
    make_transitions,
    make_transitions_with_valid,
)
from sicsrec.models.base import SequenceModel
from sicsrec.models.blend_storage import load_blend
from sicsrec.models.storage import load_model
from sicsrec.steps.context import StepContext, StepReport
from sicsrec.steps.trained_rivals import NAMES, train_rivals

SICSREC = MAIN
ID_ENCODER = "ID encoder"
POPULARITY = "popularity"
TRANSITIONS = "transitions"
SICSREC_BLENDED = MAIN_BLENDED
ID_ENCODER_BLENDED = "ID encoder, blended"
WITH_VALID = " (train + valid)"
"""Ends the names of models that were told the validation targets; they have test figures alone."""
MODELS = (
    POPULARITY,
    TRANSITIONS,
    TRANSITIONS + WITH_VALID,
    *NAMES.values(),
    ID_ENCODER,
    SICSREC,
    ID_ENCODER_BLENDED,
    SICSREC_BLENDED,
    ID_ENCODER + WITH_VALID,
    SICSREC + WITH_VALID,
    ID_ENCODER_BLENDED + WITH_VALID,
    SICSREC_BLENDED + WITH_VALID,
)
"""Names of the models in reports and tables, in their order; trained rivals where asked for."""
OTHER_WAY = {True: "results_watched_kept", False: "results_watched_left_out"}
"""Name of the test table under the other protocol, by ``evaluate.remove_seen``."""
PLOTTED = ("hr_at_10", "ndcg_at_10")


def run(context: StepContext) -> StepReport:
    """Rank, compare and write the outputs ``metrics`` and ``per_user``.

    Raises:
        LeakageError: if a model has seen test targets.
        DataError: if a split holds no target.
        TrainingDivergedError: if a model gives scores that are not finite.
    """
    catalog = ItemCatalog.read(context.input("ingest/catalog").path())
    log = TrainLog.read(context.input("split/train").path())
    train = Histories.from_interactions(log.interactions, catalog)
    valid = ValidPart.read(context.input("split/valid").path())
    test = HeldOut.read(context.input("split/test").path())
    splits = {
        "valid": _ranking_set("valid", valid, catalog),
        "test": _ranking_set("test", test, catalog),
    }
    valid_histories = Histories.from_interactions(valid.interactions, catalog)
    trained = train_rivals(context)
    scorers = _make_scorers(context, train, valid_histories, catalog.n_items, trained.models)
    section = context.config.evaluate
    both_ways = {
        split: _rank(context, split, entry, scorers[split]) for split, entry in splits.items()
    }
    ranked = [ways[section.remove_seen] for ways in both_ways.values()]
    # Some models cannot help ranking what was watched; how much of a difference that is shows here.
    other_way = both_ways["test"][not section.remove_seen]
    counts = item_counts(train, catalog.n_items)
    cohorts = {entry.split: _find_cohorts(context, entry, counts) for entry in ranked}
    protocol = Protocol(section.cutoffs, section.n_bootstrap, section.confidence, context.seed)
    content = _compare(context, ranked, other_way, cohorts, protocol)
    _write_per_user(context, ranked, cohorts, catalog)
    content["protocol"] = {
        "split": context.config.split.strategy,
        "remove_seen": section.remove_seen,
        "ranking": "full",
        "n_items": catalog.n_items,
        "ties": "count against the target",
        "blends": "fitted on the validation targets, so their valid figures are in-sample",
        "n_bootstrap": section.n_bootstrap,
        "confidence": section.confidence,
    }
    content["splits"] = {
        entry.split: {
            "users": len(entry.ranking_set),
            "cold_targets": int(cohorts[entry.split]["cold_target"].sum()),
            "empty_contexts": int((entry.ranking_set.histories.lengths == 0).sum()),
        }
        for entry in ranked
    }
    if trained.reports:
        content["trained_rivals"] = trained.reports
    n_ranked = sum(len(entry.ranking_set) * len(entry.ranks) for entry in ranked)
    return StepReport(rows=n_ranked, rows_of="ranked targets", content=content)


def _ranking_set(split: str, held_out: HeldOut, catalog: ItemCatalog) -> RankingSet:
    if not held_out.targets.height:
        raise DataError(
            f"split/{split} holds no target, so there is nothing to evaluate; leave_one_out needs "
            "users with at least 3 interactions, global_time users on both sides of its two points"
        )
    return RankingSet.from_held_out(held_out, catalog)


def _require_unaware_of_test(reader: ArtifactReader) -> None:
    """Refuse a model that saw test targets, even where no runner has looked before."""
    if "test" in reader.ref.sees:
        raise LeakageError(
            f"{reader.ref.name} {reader.ref.key} has seen the test targets ({reader.ref.sees}); "
            "its test figures would mean nothing"
        )


def _make_scorers(
    context: StepContext,
    train: Histories,
    valid: Histories,
    n_items: int,
    trained: Mapping[str, SequenceModel],
) -> dict[str, dict[str, Callable[[], Scorer]]]:
    """Return, per split and in the order of the report, how to make each model."""

    def load(name: str) -> Callable[[], SequenceModel]:
        reader = context.input(name)
        _require_unaware_of_test(reader)
        return lambda: load_model(reader.path(), context.device)

    def make_models(output: str, blend: str) -> dict[str, Callable[[], Scorer]]:
        blends = context.input(f"train_sicsrec/{blend}")
        _require_unaware_of_test(blends)
        id_encoder, sicsrec = load(f"pretrain_id/{output}"), load(f"train_sicsrec/{output}")
        return {
            ID_ENCODER: lambda: id_encoder().fixed(),
            SICSREC: lambda: sicsrec().fixed(),
            ID_ENCODER_BLENDED: lambda: load_blend(blends.path("id_encoder"), [id_encoder()]),
            SICSREC_BLENDED: lambda: load_blend(blends.path("sicsrec"), [id_encoder(), sicsrec()]),
        }

    told_train: dict[str, Callable[[], Scorer]] = {
        POPULARITY: lambda: make_popularity(train, n_items),
        TRANSITIONS: lambda: make_transitions(train, n_items),
        **{name: model.fixed for name, model in trained.items()},
        **make_models("model", "blend"),
    }
    told_valid: dict[str, Callable[[], Scorer]] = {
        TRANSITIONS: lambda: make_transitions_with_valid(train, valid, n_items),
        **(make_models("refit", "refit_blend") if context.config.refit else {}),
    }
    # Whoever was told the validation targets would only be asked for them again.
    both = told_train | {name + WITH_VALID: make for name, make in told_valid.items()}
    return {
        "valid": told_train,
        "test": {name: both[name] for name in MODELS if name in both},
    }


def _rank(
    context: StepContext,
    split: str,
    ranking_set: RankingSet,
    makers: Mapping[str, Callable[[], Scorer]],
) -> dict[bool, RankedSplit]:
    """Return the ranks of all models with watched items kept (False) and left out (True)."""
    ranks: dict[bool, dict[str, NDArray[np.int64]]] = {False: {}, True: {}}
    total = len(ranking_set) * len(makers)
    with context.progress.stage(f"rank {split} targets", total) as advance:
        for model, make in makers.items():

            def advance_model(n: int, model: str = model) -> None:
                advance(n, model)

            found = rank_targets_both_ways(
                make(), ranking_set.histories, ranking_set.targets, advance=advance_model
            )
            for way, own in found.items():
                ranks[way][model] = own
    return {way: RankedSplit(split, ranking_set, own) for way, own in ranks.items()}


def _find_cohorts(
    context: StepContext, ranked: RankedSplit, counts: NDArray[np.int64]
) -> dict[str, NDArray[np.bool_]]:
    section = context.config.evaluate
    return find_cohorts(
        ranked.ranking_set,
        counts,
        head_share=section.head_share,
        short_history=section.short_history,
    )


def _compare(
    context: StepContext,
    ranked: list[RankedSplit],
    other_way: RankedSplit,
    cohorts: Mapping[str, Mapping[str, NDArray[np.bool_]]],
    protocol: Protocol,
) -> dict[str, Any]:
    """Make, record and write the tables and return them as content of the report."""
    test = next(entry for entry in ranked if entry.split == "test")
    models = [model for model in MODELS if model in test.ranks]
    trained = [name for name in NAMES.values() if name in test.ranks]
    content: dict[str, Any] = {
        "results": [row for entry in ranked for row in result_rows(entry, protocol)],
        OTHER_WAY[context.config.evaluate.remove_seen]: result_rows(other_way, protocol),
        "differences": [
            *difference_rows(test, SICSREC, (ID_ENCODER, TRANSITIONS, *trained), protocol),
            *difference_rows(test, SICSREC_BLENDED, (ID_ENCODER, ID_ENCODER_BLENDED), protocol),
        ],
        "cohorts": [
            row for entry in ranked for row in cohort_rows(entry, cohorts[entry.split], protocol)
        ],
    }
    folder = context.output("metrics")
    for name, rows in content.items():
        frame = pl.DataFrame(rows, infer_schema_length=None)
        frame.write_parquet(folder / f"{'metrics' if name == 'results' else name}.parquet")
        context.tracker.log_table(name, frame)
    context.tracker.log_metrics(tracked_metrics(content["results"], content["cohorts"]))
    context.tracker.log_figure("results", plot_results(content["results"], models, PLOTTED))
    of_test = [row for row in content["cohorts"] if row["split"] == "test"]
    # Models told the validation targets stay in the table: more than a picture can tell apart.
    told_train = [model for model in models if not model.endswith(WITH_VALID)]
    context.tracker.log_figure("cohorts", plot_cohorts(of_test, told_train, LABELS, "ndcg_at_10"))
    return content


def _write_per_user(
    context: StepContext,
    ranked: list[RankedSplit],
    cohorts: Mapping[str, Mapping[str, NDArray[np.bool_]]],
    catalog: ItemCatalog,
) -> None:
    frames = [per_user_frame(entry, cohorts[entry.split], catalog) for entry in ranked]
    pl.concat(frames).write_parquet(context.output("per_user") / "per_user.parquet")
