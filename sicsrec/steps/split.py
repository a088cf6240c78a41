"""Interactions to three separate outputs, so that a step can be given one without the others."""

from typing import Any

import polars as pl

from sicsrec.config import SplitConfig
from sicsrec.data.schema import INTERACTIONS, check_schema
from sicsrec.data.split import MIN_HISTORY_LENGTH, HeldOut, Split, global_time, leave_one_out
from sicsrec.errors import DataError
from sicsrec.steps.context import StepContext, StepReport


def run(context: StepContext) -> StepReport:
    """Split the interactions as configured and write train, valid and test.

    Raises:
        DataError: if the interactions cannot be split so.
    """
    path = context.input("ingest/interactions").path("interactions.parquet")
    interactions = check_schema(pl.read_parquet(path, glob=False), INTERACTIONS, "interactions")
    split = _split(interactions, context.config.split)
    if not split.valid.targets.height or not split.test.targets.height:
        raise DataError("split: no user has a target in valid or in test")
    split.train.write(context.output("train"))
    split.valid.write(context.output("valid"))
    split.test.write(context.output("test"))
    content = _report(interactions, split, context.config.split)
    context.tracker.log_metrics(
        {
            "train/interactions": float(split.train.interactions.height),
            "valid/users": float(split.valid.targets.height),
            "test/users": float(split.test.targets.height),
            "test/cold_target_share": content["test"]["cold_target_share"],
        }
    )
    return StepReport(split.test.targets.height, "test users", content)


def _split(interactions: pl.DataFrame, config: SplitConfig) -> Split:
    if config.strategy == "leave_one_out":
        return leave_one_out(interactions)
    return global_time(interactions, config.valid_share, config.test_share)


def _report(interactions: pl.DataFrame, split: Split, config: SplitConfig) -> dict[str, Any]:
    lengths = interactions.group_by("user_id").len()["len"]
    train = split.train.interactions
    used = train.height + split.valid.interactions.height + split.test.targets.height
    return {
        "strategy": config.strategy,
        "users": len(lengths),
        "users_too_short": int((lengths < MIN_HISTORY_LENGTH).sum()),
        "train": {
            "users": train["user_id"].n_unique(),
            "items": train["item_id"].n_unique(),
            "interactions": train.height,
        },
        "valid": {
            **_describe_held_out(split.valid, train),
            "interactions": split.valid.interactions.height,
        },
        "test": _describe_held_out(split.test, train),
        "interactions_neither_trained_on_nor_target": interactions.height - used,
    }


def _describe_held_out(part: HeldOut, train: pl.DataFrame) -> dict[str, Any]:
    """Count targets; a target is cold when its item never occurs in training."""
    n_users = part.targets.height
    n_cold = part.targets.join(train, on="item_id", how="anti").height
    with_context = part.context["user_id"].n_unique()
    return {
        "users": n_users,
        "users_without_context": n_users - with_context,
        "context_interactions": part.context.height,
        "cold_targets": n_cold,
        "cold_target_share": round(n_cold / n_users, 6),
    }
