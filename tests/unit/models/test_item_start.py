"""Item embeddings that start at the principal components of the items' vectors."""

import numpy as np
import pytest

from sicsrec.data.vectors import ItemVectors
from sicsrec.errors import DataError
from sicsrec.models import item_start
from sicsrec.models.item_start import ContentStart, content_start

N, TEXT_WIDTH, IMAGE_WIDTH = 40, 6, 4


def drawn(modality: str, width: int, lacking: tuple[int, ...] = ()) -> ItemVectors:
    rng = np.random.default_rng(len(modality))
    # Directions that differ in how much they spread, around a mean that is not 0.
    matrix = rng.normal(size=(N, width)) * np.linspace(1.0, 3.0, width) + 0.5
    present = np.ones(N, dtype=bool)
    present[list(lacking)] = False
    return ItemVectors(modality, (matrix * present[:, None]).astype(np.float32), present)


def start(
    *vectors: ItemVectors, width: int = 16, whitening: float = 0.0, **changes
) -> ContentStart:
    settings = {"std": 0.1, "rng": np.random.default_rng(3), **changes}
    return content_start(vectors, width, whitening=whitening, **settings)


def naive_joined(*vectors: ItemVectors) -> np.ndarray:
    """Unit length, less the mean of those there are, 0 where there is none, side by side."""
    parts = []
    for entry in vectors:
        rows = [row / np.linalg.norm(row) for row in entry.matrix[entry.present]]
        mean = np.mean(rows, axis=0)
        part, left = np.zeros(entry.matrix.shape), iter(rows)
        for item in range(N):
            if entry.present[item]:
                part[item] = next(left) - mean
        parts.append(part)
    return np.concatenate(parts, axis=1)


def test_all_components_keep_how_items_lie_to_each_other() -> None:
    vectors = drawn("text", TEXT_WIDTH), drawn("image", IMAGE_WIDTH, lacking=(3, 7))
    found = start(*vectors)
    assert (found.n_components, found.embeddings.shape) == (10, (N, 16))
    assert found.explained_share == pytest.approx(1.0)
    joined = naive_joined(*vectors)
    scale = found.embeddings.std() ** 2 * 16 / (joined.std() ** 2 * 10)
    expected = joined @ joined.T * scale
    gram = found.embeddings.astype(np.float64) @ found.embeddings.T
    np.testing.assert_allclose(gram, expected, atol=1e-5 * expected.max())


def test_fewer_components_are_those_that_vary_most() -> None:
    vectors = drawn("text", TEXT_WIDTH)
    found = start(vectors, width=2)
    joined = naive_joined(vectors)
    _, spread, directions = np.linalg.svd(joined, full_matrices=False)
    assert found.n_components == 2
    assert found.explained_share == pytest.approx((spread[:2] ** 2).sum() / (spread**2).sum())
    best = joined @ directions[:2].T
    gram, expected = found.embeddings @ found.embeddings.T, best @ best.T
    np.testing.assert_allclose(gram / gram.max(), expected / expected.max(), atol=1e-5)


@pytest.mark.parametrize("whitening", [0.0, 0.5, 1.0])
def test_whitening_evens_out_how_much_components_vary(whitening: float) -> None:
    vectors = drawn("text", TEXT_WIDTH)
    before = np.linalg.svd(naive_joined(vectors), compute_uv=False)
    embeddings = start(vectors, whitening=whitening).embeddings
    after = np.linalg.svd(embeddings, compute_uv=False)[:TEXT_WIDTH]
    np.testing.assert_allclose(after / after[0], (before / before[0]) ** (1 - whitening), rtol=1e-4)


def test_every_dimension_varies_where_components_are_fewer() -> None:
    embeddings = start(drawn("text", TEXT_WIDTH), std=0.3).embeddings
    assert embeddings.std() == pytest.approx(0.3, rel=1e-5)
    assert (embeddings.std(axis=0) > 0.01).all()


def test_what_lacks_one_modality_has_its_mean_and_what_lacks_all_is_drawn() -> None:
    text, image = drawn("text", TEXT_WIDTH, lacking=(5,)), drawn("image", IMAGE_WIDTH, (5, 6))
    found = start(text, image)
    assert np.flatnonzero(~found.has_content).tolist() == [5]
    assert found.embeddings[found.has_content].std() == pytest.approx(0.1, rel=1e-5)
    assert 0.02 < found.embeddings[5].std() < 0.3
    # Where the image is the mean, the text alone tells.
    joined = naive_joined(text, image)
    assert (joined[6, TEXT_WIDTH:] == 0).all()
    own = found.embeddings[6] @ found.embeddings[6] / (joined[6] @ joined[6])
    other = found.embeddings[0] @ found.embeddings[0] / (joined[0] @ joined[0])
    assert own == pytest.approx(other, rel=1e-4)


def test_the_same_seed_gives_the_same_and_items_keep_their_rows(monkeypatch) -> None:
    vectors = drawn("text", TEXT_WIDTH), drawn("image", IMAGE_WIDTH, lacking=(3, 7))
    whole = start(*vectors)
    np.testing.assert_array_equal(start(*vectors).embeddings, whole.embeddings)
    assert not np.allclose(
        start(*vectors, rng=np.random.default_rng(4)).embeddings, whole.embeddings
    )
    monkeypatch.setattr(item_start, "_ROWS_AT_A_TIME", 7)
    np.testing.assert_allclose(start(*vectors).embeddings, whole.embeddings, atol=1e-6)
    order = np.random.default_rng(1).permutation(N)
    moved = [ItemVectors(v.modality, v.matrix[order], v.present[order]) for v in vectors]
    np.testing.assert_allclose(start(*moved).embeddings, whole.embeddings[order], atol=1e-5)


def test_vectors_that_are_all_the_same_are_refused() -> None:
    same = np.ones((N, 3), dtype=np.float32)
    with pytest.raises(
        DataError, match=r"40 of 40 .* no two of them differ.*item_start.kind: random"
    ):
        start(ItemVectors("text", same, np.ones(N, dtype=bool)))
    with pytest.raises(DataError, match="0 of 40 items have vectors"):
        start(ItemVectors("text", 0 * same, np.zeros(N, dtype=bool)))


def test_a_vector_of_zeros_is_none() -> None:
    vectors = drawn("text", TEXT_WIDTH)
    lacking = drawn("text", TEXT_WIDTH, lacking=(4,))
    zero = ItemVectors("text", lacking.matrix, vectors.present)
    found = start(zero)
    assert not found.has_content[4]
    np.testing.assert_array_equal(found.embeddings, start(lacking).embeddings)


def test_what_differs_by_rounding_alone_is_no_direction() -> None:
    vectors = drawn("text", TEXT_WIDTH)
    flat = np.zeros((N, 2), dtype=np.float32)
    flat[:, 1] = 1.0 + 1e-6 * np.random.default_rng(0).normal(size=N)
    found = start(vectors, ItemVectors("image", flat, np.ones(N, dtype=bool)), whitening=1.0)
    assert found.n_components == TEXT_WIDTH
