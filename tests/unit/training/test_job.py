"""A training as a folder, and the validation it carries."""

import numpy as np
import pytest
import torch

from sicsrec.evaluation.metrics import mean_metrics
from sicsrec.evaluation.ranking import RankingSet, rank_targets
from sicsrec.models.candidates import CandidateSampler
from sicsrec.training.job import Job, Validation
from sicsrec.training.sequential import FitSettings
from tests.unit.evaluation.conftest import random_histories
from tests.unit.models.test_blend import N_ITEMS, make_id_encoder

SETTINGS = FitSettings(
    learning_rate=0.01,
    batch_targets=30,
    max_epochs=6,
    patience=3,
    selection_metric="hr_at_1",
    seed=5,
    precision="bfloat16",
)


def make_validation(*, remove_seen: bool) -> Validation:
    users = random_histories(23, N_ITEMS, longest=7, seed=2)
    targets = np.random.default_rng(3).integers(1, N_ITEMS + 1, len(users)).astype(np.int32)
    return Validation(RankingSet(users, targets), (1, 3), remove_seen)


@pytest.mark.parametrize("remove_seen", [False, True])
def test_validation_ranks_as_evaluation_does(remove_seen: bool) -> None:
    validation, model = make_validation(remove_seen=remove_seen), make_id_encoder()
    ranks = rank_targets(
        model, validation.targets.histories, validation.targets.targets, remove_seen=remove_seen
    )
    assert validation(model) == mean_metrics(ranks, (1, 3))
    assert validation(model) != make_validation(remove_seen=not remove_seen)(model)


@pytest.mark.parametrize("sampled", [False, True])
def test_a_job_is_read_as_it_was_written(tmp_path, sampled: bool) -> None:
    model, train = make_id_encoder(), random_histories(30, N_ITEMS, longest=6, seed=1)
    model.position_embedding.requires_grad_(requires_grad=False)
    if sampled:
        model.candidates = CandidateSampler(4, torch.arange(N_ITEMS))
    validation = make_validation(remove_seen=True)
    Job(model, train, validation, SETTINGS).write(tmp_path)
    job = Job.read(tmp_path, torch.device("cpu"))
    assert job.settings == SETTINGS
    trained = {name: weight.requires_grad for name, weight in model.named_parameters()}
    assert {n: weight.requires_grad for n, weight in job.model.named_parameters()} == trained
    np.testing.assert_array_equal(job.train.items, train.items)
    np.testing.assert_array_equal(job.train.offsets, train.offsets)
    assert job.validation is not None
    assert job.validation(job.model) == validation(model)
    assert (job.model.candidates is not None) == sampled
    if job.model.candidates is not None:
        assert job.model.candidates.n_sampled == 4
        assert torch.equal(job.model.candidates.target_counts, torch.arange(N_ITEMS))


def test_a_job_without_validation_has_none(tmp_path) -> None:
    train = random_histories(30, N_ITEMS, longest=6, seed=1)
    Job(make_id_encoder(), train, None, SETTINGS).write(tmp_path)
    assert Job.read(tmp_path, torch.device("cpu")).validation is None
