"""Step 1 against the SASRec of RecTools and of RePlay: speed, and accuracy.

The peers are installed in an environment of their own, which ``SICSREC_PEERS_PYTHON`` names:

    python3 -m venv peers && peers/bin/pip install 'rectools[torch]' 'replay-rec[torch]'
    SICSREC_PEERS_PYTHON=peers/bin/python pytest -m bench -s tests/benchmarks/bench_peers.py

Same width, blocks, heads, dropout, learning rate, softmax over all items, histories and machine;
one thread each, one process after the other. Each has its own batches: ours are packed, about 1,024
targets; theirs are 256 histories padded to 50, about as many targets. Accuracy: each trains until
validation HR@10 stops growing; the test part is ranked with watched items kept. That takes hours on
two cores, so it runs only where ``SICSREC_PEERS_EPOCHS`` says how many epochs at most.
"""

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from sicsrec.evaluation.metrics import mean_metrics
from sicsrec.evaluation.ranking import rank_targets
from sicsrec.models.id_encoder import IdEncoder
from sicsrec.progress import NoProgress
from sicsrec.tracking import NullTracker
from sicsrec.training.sequential import FitSettings, fit
from tests.benchmarks.child import measure
from tests.benchmarks.stage_two import DATASETS, TOWER, as_histories, file_of, sequences

pytestmark = [pytest.mark.bench, pytest.mark.timeout(12 * 3600)]

PEERS = ("rectools", "replay")
BAR = 5
"""Times as fast as the faster of the peers."""
EPOCHS = int(os.environ.get("SICSREC_PEERS_EPOCHS", "0"))
PATIENCE = 10


@pytest.fixture(scope="module")
def python() -> str:
    named = os.environ.get("SICSREC_PEERS_PYTHON")
    if not named:
        pytest.skip("SICSREC_PEERS_PYTHON names no interpreter that has RecTools and RePlay")
    return named


def histories_of(data: Path, dataset: str) -> list[np.ndarray]:
    """Return the histories of a set, or skip the test where it is not there."""
    path = file_of(data, dataset)
    if not path.exists():
        pytest.skip(f"there is no {path}")
    return sequences(data, dataset)


def write(histories: list[np.ndarray], path: Path) -> int:
    """Write what the peers read and return the number of items."""
    ends = np.cumsum([len(items) for items in histories])
    n_items = int(max(items.max() for items in histories))
    np.savez(
        path,
        items=np.concatenate(histories),
        starts=ends - [len(items) for items in histories],
        train=ends - 2,
        valid=ends - 2,
        test=ends - 1,
        n_items=n_items,
    )
    return n_items


def call(python: str, peer: str, mode: str, **arguments: Any) -> dict[str, float]:
    """Run a peer in its own process, with one thread and without anything of ours."""
    script = Path(__file__).with_name("peers.py")
    environment = {n: v for n, v in os.environ.items() if n not in ("PYTHONPATH", "PYTHONHOME")}
    done = subprocess.run(
        [python, script, peer, mode, json.dumps(arguments)],
        env=environment | {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise RuntimeError(f"{peer} failed:\n{done.stderr}")
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.parametrize("dataset", DATASETS)
def test_speed_of_step_one(dataset, python, real_data, tmp_path, capsys) -> None:
    path = tmp_path / "histories.npz"
    write(histories_of(real_data, dataset), path)
    ours = {"dataset": dataset, "data": str(real_data), "n_warm_up": 3, "n_batches": 20}
    found = {"sicsrec": measure("stage_two:train_step_one", **ours)}
    for peer in PEERS:
        found[peer] = call(python, peer, "measure", histories=str(path), n_warm_up=1, n_batches=5)
    rates = {
        clock: {name: values["targets"] / values[clock] for name, values in found.items()}
        for clock in ("process", "wall")
    }
    with capsys.disabled():
        for name in found:
            print(  # noqa: T201
                f"\n{dataset}, {name}: {rates['process'][name]:,.0f} targets per second of "
                f"processor time, {rates['wall'][name]:,.0f} of wall time "
                f"({found[name]['targets']} targets)",
                end="",
            )
        for clock, by_name in rates.items():
            fastest = max(PEERS, key=by_name.__getitem__)
            print(  # noqa: T201
                f"\n{dataset}, by {clock} time {by_name['sicsrec'] / by_name[fastest]:.1f} x the "
                f"faster peer, {fastest} (bar: {BAR})",
                end="",
            )
    assert rates["process"]["sicsrec"] > max(rates["process"][peer] for peer in PEERS)


def fit_ours(rows: list[np.ndarray], n_items: int, work: Path) -> dict[str, float]:
    """Train step 1 and return its test figures."""
    valid_targets, test_targets = (
        np.array([items[-cut] for items in rows], dtype=np.int32) for cut in (2, 1)
    )
    train, context = as_histories([r[:-2] for r in rows]), as_histories([r[:-1] for r in rows])
    torch.manual_seed(0)
    # As the peers, which pad on the left.
    model = IdEncoder(n_items=n_items, **TOWER, positions="from_end")

    def validate(candidate) -> dict[str, float]:
        ranks = rank_targets(candidate, train, valid_targets, remove_seen=False)
        return mean_metrics(ranks, (5, 10))

    settings = FitSettings(
        learning_rate=1e-3,
        batch_targets=1024,
        max_epochs=EPOCHS,
        patience=PATIENCE,
        selection_metric="hr_at_10",
        seed=0,
    )
    fit(model, train, validate, settings, work=work, tracker=NullTracker(), progress=NoProgress())
    ranks = rank_targets(model.eval(), context, test_targets, remove_seen=False)
    return mean_metrics(ranks, (5, 10))


@pytest.mark.skipif(not EPOCHS, reason="SICSREC_PEERS_EPOCHS is not set")
@pytest.mark.parametrize("dataset", DATASETS)
def test_accuracy_of_step_one(dataset, python, real_data, tmp_path, capsys) -> None:
    rows = histories_of(real_data, dataset)
    path = tmp_path / "histories.npz"
    n_items = write(rows, path)
    targets = np.array([items[-1] for items in rows])
    found = {"sicsrec": fit_ours(rows, n_items, tmp_path)}
    for peer in PEERS:
        output = tmp_path / f"{peer}.npz"
        call(
            python,
            peer,
            "fit",
            histories=str(path),
            max_epochs=EPOCHS,
            patience=PATIENCE,
            output=str(output),
        )
        with np.load(output, allow_pickle=False) as file:
            is_hit = file["top"] == targets[:, None]
        ranks = np.where(is_hit.any(1), is_hit.argmax(1) + 1, n_items)
        found[peer] = mean_metrics(ranks, (5, 10))
    with capsys.disabled():
        for peer, values in found.items():
            print(  # noqa: T201
                f"\n{dataset}, {peer}: test HR@10 {values['hr_at_10']:.4f}, "
                f"NDCG@10 {values['ndcg_at_10']:.4f}",
                end="",
            )
    best = max(found[peer]["ndcg_at_10"] for peer in PEERS)
    # One seed: a tenth is more than seeds differ by.
    assert found["sicsrec"]["ndcg_at_10"] > 0.9 * best
