"""Nearest images block by block are those of the whole matrix."""

from __future__ import annotations

import numpy as np
import pytest
from toy_embeddings import embeddings, random_embeddings

from modelscope_reid.ranking import neighbours
from modelscope_reid.ranking.neighbours import nearest_among, nearest_in


def test_by_hand() -> None:
    unit = embeddings([(0, 1, 1), (50, 1, 1), (10, 1, 1), (180, 1, 1)]).unit
    nearest = nearest_among(unit, 3)
    assert nearest.indices.tolist() == [[0, 2, 1], [1, 2, 0], [2, 0, 1], [3, 1, 2]]
    assert nearest.lowest == pytest.approx(np.cos(np.deg2rad([180, 130, 170, 180])), abs=1e-6)
    assert nearest_in(unit[:1], unit[1:], 1).indices.tolist() == [[1]]


def test_fewer_images_than_neighbours_and_equal_images() -> None:
    unit = embeddings([(30, 1, 1)] * 4).unit
    assert nearest_among(unit, 9).indices.tolist() == [[0, 1, 2, 3]] * 4
    assert nearest_in(unit[:0], unit, 2).indices.shape == (0, 2)
    assert nearest_in(unit, unit[:0], 2).indices.shape == (4, 0)


@pytest.mark.parametrize("count", [1, 7, 40])
@pytest.mark.parametrize("block_values", [100, 2000, 2**20])
def test_like_sorting_the_whole_matrix(count: int, block_values: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(neighbours, "BLOCK_VALUES", block_values)
    monkeypatch.setattr(neighbours, "PART_VALUES", block_values // 3)
    unit = random_embeddings(count, 90, people=3, dim=12).unit
    similarities = unit @ unit.T
    order = np.argsort(-similarities, axis=1, kind="stable")[:, :count]
    for nearest in (nearest_among(unit, count), nearest_in(unit, unit, count)):
        assert (nearest.indices == order).all()
        np.testing.assert_allclose(nearest.similarities, np.take_along_axis(similarities, order, axis=1), atol=1e-6)
        np.testing.assert_allclose(nearest.lowest, similarities.min(axis=1), atol=1e-6)
