from dataclasses import replace

import numpy as np
import pytest

from sicsrec.config import EvaluateConfig, ExportConfig
from sicsrec.runs import RunRegister
from sicsrec.steps.finished import newest_export
from sicsrec.steps.lineage import newest_run
from sicsrec.steps.results import gather_results
from sicsrec.steps.runner import StepResult, run_step
from tests.unit.steps.tiny_store import TinyStore, make_config, make_tiny_store


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> TinyStore:
    """Three seeds of one configuration, and one run of another."""
    tiny = make_tiny_store(tmp_path_factory.mktemp("store"))
    other = EvaluateConfig(n_bootstrap=50, remove_seen=True)
    configs = [make_config(seed=seed) for seed in (5, 6, 7)] + [make_config(evaluate=other)]
    for config in configs:
        run_step("evaluate", config, tiny.refs, tiny.store)
    return tiny


def test_seeds_of_one_configuration_are_gathered(tiny: TinyStore) -> None:
    first, second = gather_results(tiny.store, "tiny")
    assert (first.seeds, second.seeds) == ((5, 6, 7), (5,))
    assert first.digest != second.digest
    assert first.differs_in == ("evaluate.remove_seen=False",)
    assert second.differs_in == ("evaluate.remove_seen=True",)


@pytest.mark.parametrize(("confidence", "t"), [(0.95, 4.302653), (0.9, 2.919986)])
def test_interval_over_seeds_is_students(
    tiny: TinyStore, monkeypatch: pytest.MonkeyPatch, confidence: float, t: float
) -> None:
    manifests = [
        replace(manifest, config=manifest.config | {"confidence": confidence})
        for manifest in tiny.store.manifests("tiny", "evaluate")
    ]
    monkeypatch.setattr(tiny.store, "manifests", lambda *_: manifests)
    values = iter((0.1, 0.2, 0.6))
    read = tiny.store.report

    def with_other_values(dataset: str, step: str, key: str) -> dict[str, object]:
        report = read(dataset, step, key)
        value = next(values, 0.0)
        for row in report["content"]["results"]:
            row["ndcg_at_10"] = value
        return report

    monkeypatch.setattr(tiny.store, "report", with_other_values)
    found = gather_results(tiny.store, "tiny")[0].models["SICSRec"]["ndcg_at_10"]
    # t is its quantile with 2 degrees of freedom; the standard error of the mean is s / sqrt(3).
    reach = t * np.std([0.1, 0.2, 0.6], ddof=1) / np.sqrt(3)
    assert found.mean == pytest.approx(0.3)
    assert (found.low, found.high) == pytest.approx((0.3 - reach, 0.3 + reach), rel=1e-6)


def test_one_seed_has_the_interval_over_users(tiny: TinyStore) -> None:
    found = gather_results(tiny.store, "tiny")[1].models["SICSRec"]["hr_at_10"]
    row = next(
        r
        for r in tiny.store.report(
            "tiny", "evaluate", newest_run(tiny.store, "tiny")["evaluate"].key
        )["content"]["results"]
        if (r["model"], r["split"]) == ("SICSRec", "test")
    )
    assert (found.mean, found.low, found.high) == tuple(
        row[f"hr_at_10{end}"] for end in ("", "_low", "_high")
    )


def test_figures_of_the_newest_run_come_along(tiny: TinyStore) -> None:
    export = run_step("export", make_config(), tiny.refs, tiny.store)
    run = newest_run(tiny.store, "tiny")
    assert list(run)[-2:] == ["evaluate", "export"]
    assert run["export"].key == export.manifest.key
    assert newest_run(tiny.store, "unknown") == {}


def test_figures_that_a_run_reused_come_along_with_it(tiny: TinyStore) -> None:
    export = run_step("export", make_config(), tiny.refs, tiny.store)
    first = run_step("evaluate", make_config(seed=5), tiny.refs, tiny.store)
    register = RunRegister(tiny.store.root, "tiny")
    assert newest_run(tiny.store, "tiny")["evaluate"].key != first.manifest.key
    with register.recording("again", "tiny", "export"):
        for step, used in (("evaluate", first), ("export", export)):
            register.note_step("again", step, used.manifest.key)
    assert newest_run(tiny.store, "tiny")["evaluate"].key == first.manifest.key


def test_a_run_that_reused_everything_is_the_newest(tiny: TinyStore) -> None:
    first, second = (
        run_step("export", make_config(export=ExportConfig(top_k=k)), tiny.refs, tiny.store)
        for k in (3, 4)
    )
    register = RunRegister(tiny.store.root, "tiny")

    def run_again(used: StepResult, name: str, error: Exception | None = None) -> None:
        with register.recording(name, "tiny", "export"):
            register.note_step(name, "export", used.manifest.key)
            if error is not None:
                raise error

    assert newest_export(tiny.store).manifest.key == second.manifest.key
    run_again(first, "again")
    assert newest_export(tiny.store).manifest.key == first.manifest.key
    assert newest_run(tiny.store, "tiny")["export"].key == first.manifest.key
    with pytest.raises(RuntimeError):
        run_again(second, "failed", RuntimeError())
    assert newest_export(tiny.store).manifest.key == first.manifest.key
