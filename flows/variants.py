"""Variants of one pipeline: named sets of them, and which of a set make sense for the data."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from flows.configuration import ResolvedConfig, parse_mapping, parse_override, resolve_config
from flows.shipped import read_shipped_or_file
from sicsrec.config import PipelineConfig
from sicsrec.errors import ConfigError, NotApplicableError
from sicsrec.steps import STEPS

VariantSet = dict[str, list[str]]
"""Name of a variant to its overrides, each ``section.key=value``."""


@dataclass(frozen=True)
class VariantPlan:
    """What a comparison will run."""

    first: ResolvedConfig
    """The configuration of the first variant, with which the others are compared."""
    overrides: Mapping[str, list[str]]
    """Overrides of every variant that will run."""
    skipped: Mapping[str, str]
    """Why a variant will not run."""


def load_variants(name: str) -> VariantSet:
    """Read a set of variants.

    Args:
        name: of a shipped set, or path of a YAML file that maps names to lists of overrides.

    Raises:
        ConfigError: if there is no such set or file, or it holds something else.
    """
    text = read_shipped_or_file("variants", name, "--variants", "sets")
    variants = parse_mapping(text, name)
    for variant, overrides in variants.items():
        is_list = isinstance(overrides, list) and all(isinstance(text, str) for text in overrides)
        if not isinstance(variant, str) or not is_list:
            raise ConfigError(
                f"{name}: {variant!r} must be a name with a list of overrides, each "
                f"section.key=value; found {overrides!r}"
            )
    return variants


def plan_variants(
    variants: VariantSet, preset: str, data: str | None, overrides: Sequence[str], seed: int | None
) -> VariantPlan:
    """Resolve all variants and skip those that the data cannot give or that change nothing.

    Raises:
        ConfigError: if a variant is wrong or sets a seed, the first does not suit the data, a
            variant ranks by another protocol than the first, or fewer than two are left.
    """
    kept: dict[str, list[str]] = {}
    skipped: dict[str, str] = {}
    seen: dict[str, str] = {}
    first: ResolvedConfig | None = None
    for name, changes in variants.items():
        # Variants are compared as validation chose them; training them once more would double the
        # time. Whoever wants it sets refit=true.
        merged = ["refit=false", *overrides, *changes]
        try:
            _check_seed(changes)
            resolved = resolve_config(preset, data=data, overrides=merged, seed=seed)
        except NotApplicableError as err:
            if first is None:
                raise
            skipped[name] = str(err)
            continue
        except ConfigError as err:
            raise ConfigError(f"variant {name!r}: {err}") from err
        first = first or resolved
        _check_protocol(name, resolved.config, first.config)
        same = seen.setdefault(_what_counts(resolved.config), name)
        if same != name:
            skipped[name] = f"here it is the same as {same!r}"
            continue
        kept[name] = merged
    if first is None or len(kept) < 2:
        why = "; ".join(f"{name}: {reason}" for name, reason in skipped.items())
        raise ConfigError(f"fewer than two variants are left to compare. {why}".rstrip())
    return VariantPlan(first, kept, skipped)


def _check_seed(changes: Sequence[str]) -> None:
    if any(parse_override(text)[0] == "seed" for text in changes):
        raise ConfigError(
            "it sets the seed, which every variant has from --seed and --seeds; take it out"
        )


def _check_protocol(name: str, config: PipelineConfig, first: PipelineConfig) -> None:
    """Refuse figures that cannot be compared: other items to rank among, or other targets."""
    for key, value, expected in (
        ("evaluate.remove_seen", config.evaluate.remove_seen, first.evaluate.remove_seen),
        ("ingest.filters", config.ingest.filters, first.ingest.filters),
        ("split", config.split, first.split),
    ):
        if value != expected:
            raise ConfigError(
                f"variant {name!r} sets {key}, which decides what is ranked among what, so its "
                "figures cannot be compared with the first variant's; give it with --set, for all"
            )


def _what_counts(config: PipelineConfig) -> str:
    """Return what of a configuration can make a difference to its figures."""
    needed = {step.name for step in STEPS if step.is_needed(config)} - {"export"}
    section = config.train_sicsrec
    modalities = tuple(sorted(section.modalities or config.modalities))
    changes = {"modalities": modalities} | ({} if section.two_step else {"adapter_rank": 0})
    config = config.model_copy(update={"train_sicsrec": section.model_copy(update=changes)})
    return config.model_dump_json(include=needed)
