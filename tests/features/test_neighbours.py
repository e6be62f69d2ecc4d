import pytest
import torch
import torch.nn.functional as F

from dinolab.features.neighbours import nearest


def features(rows: int, width: int = 8, seed: int = 0) -> torch.Tensor:
    return torch.randn(rows, width, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize(("query_chunk", "reference_chunk"), [(1024, 16384), (7, 13), (1, 1), (50, 3)])
def test_same_as_sorting_all_similarities(query_chunk: int, reference_chunk: int) -> None:
    reference, query = features(60), features(20, seed=1)
    similarities, indices = nearest(reference, query, 5, query_chunk, reference_chunk)
    every = F.normalize(query, dim=1) @ F.normalize(reference, dim=1).T
    values, order = every.sort(1, descending=True)
    assert torch.equal(indices, order[:, :5])
    assert torch.allclose(similarities, values[:, :5], atol=1e-6)


def test_length_of_rows_does_not_matter() -> None:
    reference, query = features(30), features(6, seed=1)
    scale = torch.linspace(0.01, 100, 30)[:, None]
    assert torch.equal(nearest(reference, query, 3)[1], nearest(reference * scale, 7 * query, 3)[1])


def test_no_more_neighbours_than_reference_rows() -> None:
    similarities, indices = nearest(features(4), features(3, seed=1), 10, reference_chunk=3)
    assert similarities.shape == (3, 4)
    assert [sorted(row) for row in indices.tolist()] == [[0, 1, 2, 3]] * 3


def test_a_row_is_its_own_nearest() -> None:
    rows = features(25)
    similarities, indices = nearest(rows.half(), rows.half(), 2, 4, 6)
    assert indices[:, 0].tolist() == [*range(25)]
    assert similarities.dtype == torch.float32
    assert torch.allclose(similarities[:, 0], torch.ones(25), atol=1e-5)
