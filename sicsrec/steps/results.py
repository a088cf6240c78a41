"""Results of all finished runs of a data set, the seeds of one configuration together."""

import hashlib
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy import stats

from sicsrec.artifacts import ArtifactStore, Manifest, canonical_json, flatten
from sicsrec.errors import ArtifactMissingError
from sicsrec.evaluation.names import metrics_of
from sicsrec.steps.lineage import trace_lineage

_DIGITS = 12


@dataclass(frozen=True)
class MeanOfSeeds:
    """A metric over the seeds of one configuration."""

    mean: float
    low: float
    """Lower end of the interval: over seeds by Student's t where there are several, over users by
    the bootstrap of the one evaluation where there is one."""
    high: float


@dataclass(frozen=True)
class ConfigurationResults:
    """What one configuration reached."""

    digest: str
    """8 hex digits of everything it depends on but the seed."""
    seeds: tuple[int, ...]
    differs_in: tuple[str, ...]
    """``step.key=value`` wherever configurations of the data set differ, versions of a step and
    digests of what it read included."""
    confidence: float
    """Coverage of the intervals, ``evaluate.confidence``."""
    models: Mapping[str, Mapping[str, MeanOfSeeds]]
    """Model to metric to value, on the test part."""


def gather_results(store: ArtifactStore, dataset: str) -> list[ConfigurationResults]:
    """Return the test results of every configuration that was evaluated, the newest last.

    Runs belong together when all their steps, back to the raw data, differ in nothing but the
    seed. Of two evaluations with one seed the newer one counts.

    Args:
        store: where finished steps lie.
        dataset: name of the data set.
    """
    runs: dict[str, dict[int, Manifest]] = defaultdict(dict)
    values: dict[str, dict[str, Any]] = {}
    for manifest in store.manifests(dataset, "evaluate"):
        try:
            steps = trace_lineage(store, manifest)
        except ArtifactMissingError:
            # What it was made of was removed, so nothing says which configuration it was.
            continue
        values_here = _flat_config(steps)
        digest = hashlib.sha256(canonical_json(values_here).encode()).hexdigest()[:8]
        values[digest] = values_here
        # Taken out first, so that the newest configuration comes last.
        runs[digest] = {**runs.pop(digest, {}), manifest.seed or 0: manifest}
    several = {name for name in _names(values) if len(_variants(values, name)) > 1}
    return [
        ConfigurationResults(
            digest,
            tuple(sorted(seeds)),
            tuple(f"{name}={value}" for name, value in values[digest].items() if name in several),
            values[digest]["evaluate.confidence"],
            _means(
                [_test_rows(store, seeds[seed]) for seed in sorted(seeds)],
                values[digest]["evaluate.confidence"],
            ),
        )
        for digest, seeds in runs.items()
    ]


def _flat_config(steps: Mapping[str, Manifest]) -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for step, manifest in steps.items():
        flat |= flatten(manifest.config, f"{step}.")
        flat[f"{step} version"] = manifest.step_version
        external = manifest.external_inputs.items()
        flat |= {f"{step}.{name} digest": digest[:_DIGITS] for name, digest in external}
    return flat


def _names(values: Mapping[str, Mapping[str, Any]]) -> list[str]:
    return list(dict.fromkeys(name for flat in values.values() for name in flat))


def _variants(values: Mapping[str, Mapping[str, Any]], name: str) -> set[str]:
    return {canonical_json(flat.get(name)) for flat in values.values()}


def _test_rows(store: ArtifactStore, manifest: Manifest) -> dict[str, Mapping[str, Any]]:
    content = store.report(manifest.dataset, manifest.step, manifest.key)["content"]
    return {row["model"]: row for row in content["results"] if row["split"] == "test"}


def _means(
    seeds: Sequence[Mapping[str, Mapping[str, Any]]], confidence: float
) -> dict[str, dict[str, MeanOfSeeds]]:
    return {
        model: {
            metric: _mean([rows[model] for rows in seeds], metric, confidence)
            for metric in metrics_of(seeds[-1][model])
            if all(rows[model].get(metric) is not None for rows in seeds)
        }
        for model in seeds[-1]
        if all(model in rows for rows in seeds)
    }


def _mean(rows: Sequence[Mapping[str, Any]], metric: str, confidence: float) -> MeanOfSeeds:
    if len(rows) == 1:
        row = rows[0]
        return MeanOfSeeds(row[metric], row[f"{metric}_low"], row[f"{metric}_high"])
    values = np.array([row[metric] for row in rows])
    mean = float(values.mean())
    reach = stats.t.ppf(0.5 + confidence / 2, len(values) - 1) * stats.sem(values)
    return MeanOfSeeds(mean, mean - float(reach), mean + float(reach))
