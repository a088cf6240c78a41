"""What the run was: the data, the protocol, the steps and what made them."""

import polars as pl

from sicsrec.report.parts import DataTable, Section
from sicsrec.report.run_files import RunFiles

_SHORT = 12


def what_it_was(files: RunFiles, score: str) -> Section:
    """Return the facts of the run and the table of its steps.

    Args:
        files: of the run.
        score: what ranks in the recommendations.
    """
    facts = pl.DataFrame(
        [(name, value) for name, value in _facts(files, score).items() if value],
        schema=["what", "value"],
        orient="row",
    )
    steps = []
    for step, manifest in files.manifests.items():
        rows, rows_of = files.rows(step)
        steps.append(
            {
                "step": step,
                "made": f"{rows:,} {rows_of}",
                "seconds": manifest.seconds,
                "started (UTC)": manifest.started[:19].replace("T", " "),
                "key": manifest.key,
                "commit": str(manifest.code.get("git_commit") or "")[:_SHORT],
            }
        )
    outputs = [
        {
            "output": f"{step}/{name}",
            "sha256": entry.digest,
            "has seen of the log": ", ".join(entry.sees) or "nothing",
            "bytes": sum(file.n_bytes for file in entry.files),
        }
        for step, manifest in files.manifests.items()
        for name, entry in manifest.outputs.items()
    ]
    return Section(
        "run",
        "What this run was",
        tables=(
            DataTable("run", "The run", facts),
            DataTable("steps", "Steps, each with the seconds it took when it was made",
                      pl.DataFrame(steps), digits=1),
            DataTable("outputs", "Digests of all outputs", pl.DataFrame(outputs), is_open=False),
        ),
    )  # fmt: skip


def _facts(files: RunFiles, score: str) -> dict[str, str]:
    manifests = files.manifests
    ingest, split = files.report("ingest"), files.report("split")
    protocol = files.report("evaluate").get("protocol", {})
    last = list(manifests.values())[-1]
    seeds = sorted({manifest.seed for manifest in manifests.values() if manifest.seed is not None})
    watched = "left out" if protocol.get("remove_seen") else "kept"
    pairs = manifests.get("sample_pairs")
    return {
        "data set": last.dataset,
        "users, items, interactions": " / ".join(
            f"{ingest[name]:,}" for name in ("users", "items", "interactions") if name in ingest
        ),
        "raw data, sha256": manifests["ingest"].external_inputs.get("raw_data", "")
        if "ingest" in manifests
        else "",
        "split": str(split.get("strategy", "")).replace("_", " "),
        "ranking": f"all {protocol['n_items']:,} items, watched items {watched}"
        if protocol
        else "",
        "seed": ", ".join(map(str, seeds)),
        "judge of pairs": str(pairs.config["judge"]["kind"]) if pairs else "none",
        **_encoders(files),
        "recommends by": score,
        "sicsrec": str(last.code.get("sicsrec", "")),
        "computed on": f"{last.environment.get('device', '')}, Python "
        f"{last.environment.get('python', '')}",
    }  # fmt: skip


def _encoders(files: RunFiles) -> dict[str, str]:
    modalities = files.report("encode_items").get("modalities", {})
    return {
        f"{name} vectors": " ".join(
            str(entry[key]) for key in ("library", "model", "file") if entry.get(key)
        )
        + f", {entry['dim']} wide, {entry['items']:,} items"
        for name, entry in modalities.items()
    }
