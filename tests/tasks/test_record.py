import json
from pathlib import Path

import psutil
import pytest

from flows.configuration import resolve_config
from sicsrec.liveness import HOST_TAG, PID_TAG, process_tags
from sicsrec.runs import RunRegister, killed_processes
from tasks.record import (
    _note_killed,
    config_digest,
    describe_run,
    describing_tags,
    flatten,
    git_commit,
    report_metrics,
)

RESULTS = [
    {"model": model, "split": "test", "users": 9, "ndcg_at_10": value}
    | {"ndcg_at_10_low": value - 0.05, "ndcg_at_10_high": value + 0.05}
    for model, value in (("popularity", 0.1), ("SICSRec", 0.3))
]


def test_description_says_what_the_run_was_and_what_came_out() -> None:
    tags = describing_tags(resolve_config("demo").config)
    text = describe_run(tags, 7, ("ingest", "evaluate"), RESULTS)
    assert text.startswith("SICSRec on **demo**, seed 7, leave_one_out, seen items kept; as far as")
    assert "Test NDCG@10: SICSRec **0.3000**." in text.splitlines()[0]
    # MLflow's page leaves no room of its own between columns.
    assert "| SICSRec | &nbsp; 0.3000 | &nbsp; 0.2500 to 0.3500 |" in text
    assert "| test, 9 users | &nbsp; NDCG@10 | &nbsp; NDCG@10 interval |" in text
    assert "|" not in describe_run(tags, 7, ("ingest",))


def test_seeds_of_one_configuration_carry_the_same_tag() -> None:
    first, second, other = (
        describing_tags(resolve_config("demo", seed=seed, overrides=overrides).config)
        for seed, overrides in ((1, []), (2, []), (1, ["train_sicsrec.alpha=0.9"]))
    )
    assert first["configuration"] == second["configuration"] != other["configuration"]


def test_report_metrics_are_numbers_under_names_that_mlflow_takes() -> None:
    content = {"rows": 3, "refused": {"too (old)": 1.5}, "done": True, "names": ["a"], "none": None}
    assert report_metrics(content) == {"report/rows": 3.0, "report/refused.too _old_": 1.5}


def test_report_metrics_are_bounded() -> None:
    assert len(report_metrics({str(index): index for index in range(999)})) == 200


def test_flatten_keeps_lists_whole() -> None:
    assert flatten({"a": {"b": [1, {"c": 2}]}}) == {"a.b": [1, {"c": 2}]}


@pytest.mark.parametrize("override", ["seed=1", "train_sicsrec.alpha=0.9"])
def test_config_digest_names_the_configuration(override: str) -> None:
    base = config_digest(resolve_config("demo").config)
    assert base == config_digest(resolve_config("demo").config)
    assert base != config_digest(resolve_config("demo", overrides=[override]).config)


def test_checkout_without_git_has_no_commit(monkeypatch: pytest.MonkeyPatch) -> None:
    git_commit.cache_clear()
    monkeypatch.setenv("PATH", "")
    assert git_commit() == ""
    git_commit.cache_clear()


def test_only_runs_of_processes_known_to_be_dead_are_noted_as_killed(tmp_path: Path) -> None:
    register, own = RunRegister(tmp_path, "demo"), process_tags()
    dead = max(psutil.pids()) + 10_000_000
    processes = {
        "dead": own | {PID_TAG: str(dead)},
        "alive": own,
        "elsewhere": own | {PID_TAG: str(dead), HOST_TAG: "elsewhere"},
    }
    for name, process in processes.items():
        with register.recording(name, "demo", "export"):
            path = register.folder / f"{name}.json"
            entry = json.loads(path.read_text())
        path.write_text(json.dumps(entry | {"process": process}))
    assert {entry.id for entry in register.killed()} == set(processes)
    for gone, expected in (((), {"dead"}), (killed_processes(tmp_path), {"dead", "elsewhere"})):
        _note_killed(tmp_path, gone)
        noted = {entry.id for entry in register.entries() if entry.failed is not None}
        assert noted == expected
