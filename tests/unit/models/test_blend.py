import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file, save_file

from sicsrec.data.sequences import Histories
from sicsrec.errors import ArtifactError
from sicsrec.models import blend
from sicsrec.models.blend import Blend, HistoryFacts
from sicsrec.models.blend_storage import BLEND_FILE, FACTS_FILE, load_blend, save_blend
from sicsrec.models.id_encoder import IdEncoder
from tests.unit.evaluation.conftest import make_histories, random_histories

N_ITEMS = 9


def make_id_encoder(n_items: int = N_ITEMS) -> IdEncoder:
    torch.manual_seed(0)
    return IdEncoder(
        n_items=n_items,
        width=8,
        inner_width=8,
        n_layers=1,
        n_heads=2,
        dropout=0.0,
        max_history_length=6,
    ).eval()


def make_vectors() -> np.ndarray:
    vectors = np.random.default_rng(1).normal(size=(N_ITEMS, 5)).astype(np.float32)
    vectors[4] = 0.0  # item 5 lacks the modality
    return vectors


@pytest.fixture
def train() -> Histories:
    # Item 9 is never watched in training.
    return random_histories(40, N_ITEMS - 1, longest=7, seed=3)


def make_blend(train: Histories, weights: dict[str, float] | None = None) -> Blend:
    facts = HistoryFacts.from_training(train, N_ITEMS, {"text": make_vectors()})
    return Blend([make_id_encoder()], facts, weights)


def naive_features(train: Histories, history: list[int], item: int) -> dict[str, float]:
    """All features but the models' scores, one history and one item at a time."""
    logs = [train.of_user(row).tolist() for row in range(len(train))]

    def came_after(first: int, second: int, gap: int) -> float:
        return float(
            np.log1p(
                sum(
                    log[place] == first and log[place + gap] == second
                    for log in logs
                    for place in range(len(log) - gap)
                )
            )
        )

    def cosine(first: int, second: int) -> float:
        a, b = make_vectors()[first - 1], make_vectors()[second - 1]
        norms = np.linalg.norm(a) * np.linalg.norm(b)
        return float(a @ b / norms) if norms else 0.0

    watched = sum(log.count(item) for log in logs)
    features = {
        "popularity": float(np.log1p(watched)),
        "cold": float(watched == 0),
        "watched": float(item in history),
    }
    for gap in (1, 2, 3):
        there = len(history) >= gap
        features[f"next_{gap}"] = came_after(history[-gap], item, gap) if there else 0.0
    for gap in (1, 2):
        features[f"previous_{gap}"] = came_after(item, history[-1], gap) if history else 0.0

    def like(first: int) -> float:
        """Cosine of an item of the history with the item, or with all that have a vector."""
        there = (
            [item] if make_vectors()[item - 1].any() else np.flatnonzero(make_vectors().any(1)) + 1
        )
        return float(np.mean([cosine(first, second) for second in there]))

    features["last_text"] = like(history[-1]) if history else 0.0
    features["history_text"] = float(np.mean([*map(like, history)])) if history else 0.0
    features["cold_text"] = features["last_text"] * features["cold"]
    return features


def test_every_feature_equals_a_loop(train: Histories) -> None:
    users = [[1], [2, 5, 2], [], [9, 3, 4, 1, 8], [7, 7]]
    found = dict(make_blend(train).features(make_histories(*users)))
    scores = make_id_encoder().score(make_histories(*users))
    torch.testing.assert_close(found.pop("id_encoder"), scores)
    for row, history in enumerate(users):
        for item in range(1, N_ITEMS + 1):
            expected = naive_features(train, history, item)
            assert expected.keys() == found.keys()
            for name, value in expected.items():
                assert found[name][row, item - 1].item() == pytest.approx(value, abs=1e-5), name


def test_a_missing_vector_says_nothing_where_all_vectors_are_alike(train: Histories) -> None:
    alike = make_vectors() + 20.0
    alike[4] = 0.0
    facts = HistoryFacts.from_training(train, N_ITEMS, {"image": alike})
    found = dict(Blend([make_id_encoder()], facts).features(make_histories([2], [1, 5, 8], [5])))
    has_vector = np.arange(N_ITEMS) != 4
    for name in ("last_image", "history_image"):
        of_users = found[name].numpy()
        np.testing.assert_allclose(of_users[:, 4], of_users[:, has_vector].mean(axis=1), atol=1e-5)
    # Nothing is known of the only film of the last user, so all are alike.
    assert not found["last_image"][2].any()


def test_score_is_the_weighted_sum(train: Histories) -> None:
    weights = {"id_encoder": 0.7, "watched": -4.0, "history_text": 2.0}
    users = make_histories([1, 2], [], [9])
    features = dict(make_blend(train).features(users))
    expected = sum(weight * features[name] for name, weight in weights.items())
    torch.testing.assert_close(make_blend(train, weights).score(users), expected)


def test_a_large_catalogue_is_scored_for_a_few_users_at_a_time(
    train: Histories, monkeypatch: pytest.MonkeyPatch
) -> None:
    scored = make_blend(train, {"id_encoder": 0.7, "watched": -4.0, "last_text": 1.0})
    users = make_histories([1, 2], [], [9], [4, 4], [3])
    expected = scored.score(users)
    monkeypatch.setattr(blend, "_SCORED_AT_ONCE", 2 * N_ITEMS + 1)
    at_once, features = [], Blend.features

    def note(self: Blend, histories: Histories):
        at_once.append(len(histories))
        return features(self, histories)

    monkeypatch.setattr(Blend, "features", note)
    torch.testing.assert_close(scored.score(users), expected)
    assert at_once == [2, 2, 1]
    assert scored.score(make_histories()).shape == (0, N_ITEMS)


def test_no_weights_no_scores(train: Histories) -> None:
    assert not make_blend(train).score(make_histories([1, 2])).any()


def test_a_blend_loads_as_it_was_saved(train: Histories, tmp_path: Path) -> None:
    weights = {"id_encoder": 0.7, "next_2": 0.4, "previous_2": 0.1, "cold_text": 1.5}
    blend = make_blend(train, weights)
    save_blend(blend, tmp_path)
    loaded = load_blend(tmp_path, [make_id_encoder()])
    users = random_histories(20, N_ITEMS, longest=5, seed=8)
    assert torch.equal(loaded.score(users), blend.score(users))


def test_what_is_missing_or_does_not_fit_is_named(train: Histories, tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="not the folder of a blend"):
        load_blend(tmp_path, [make_id_encoder()])
    save_blend(make_blend(train), tmp_path)
    with pytest.raises(ArtifactError, match="'id_encoder', which is missing"):
        load_blend(tmp_path, [])
    with pytest.raises(ArtifactError, match=r"of 9 items, its model 'id_encoder' of 4"):
        load_blend(tmp_path, [make_id_encoder(4)])
    arrays = load_file(tmp_path / FACTS_FILE)
    save_file({n: a for n, a in arrays.items() if ".2." not in n}, tmp_path / FACTS_FILE)
    with pytest.raises(ArtifactError, match=r"lacks the transitions of the gaps \[2\]"):
        load_blend(tmp_path, [make_id_encoder()])
    save_file(arrays | {"counts": arrays["counts"][:4]}, tmp_path / FACTS_FILE)
    with pytest.raises(ArtifactError, match=r"of 9 items, counts in .* of 4"):
        load_blend(tmp_path, [make_id_encoder()])
    save_file(arrays, tmp_path / FACTS_FILE)
    config = json.loads((tmp_path / BLEND_FILE).read_text())
    (tmp_path / BLEND_FILE).write_text(json.dumps(config | {"weights": {"cold": "much"}}))
    with pytest.raises(ArtifactError, match="not the folder of a blend"):
        load_blend(tmp_path, [make_id_encoder()])
