"""Groups by average linkage: by hand, against SciPy on all pairs, and the sheet."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from gallery_places import toward
from PIL import Image
from scipy.cluster.hierarchy import fcluster, linkage  # type: ignore[import-untyped]

from modelscope_reid.errors import InputError
from modelscope_reid.gallery import clustering
from modelscope_reid.gallery.clustering import Cluster, cluster_vectors, draw_contact_sheet
from modelscope_reid.gallery.entries import Entry


def test_groups_by_hand() -> None:
    """cos 20 is 0.94, cos 30 is 0.87; 100 alone; the larger group is number 0."""
    assert cluster_vectors(toward(0, 50, 10, 100, 60, 20), threshold=0.9).tolist() == [0, 1, 0, 2, 1, 0]
    assert cluster_vectors(toward(0, 50, 10, 100, 60, 20), threshold=-1.0).tolist() == [0] * 6
    assert cluster_vectors(toward(3.0), threshold=0.9).tolist() == [0]
    assert cluster_vectors(np.empty((0, 2), np.float32), threshold=0.9).tolist() == []


def test_a_chain_does_not_hold_two_people_together() -> None:
    """Each is 10 degrees from the next, so that single links join all; ends are 50 degrees apart."""
    groups = cluster_vectors(toward(0, 10, 20, 30, 40, 50), threshold=0.97)
    assert len(set(groups.tolist())) == 3 and groups[0] != groups[-1]


def test_it_is_average_linkage_of_all_pairs(monkeypatch: pytest.MonkeyPatch) -> None:
    random = np.random.default_rng(0)
    vectors = np.repeat(random.standard_normal((40, 8)), 5, axis=0) + 0.4 * random.standard_normal((200, 8))
    unit = (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)
    monkeypatch.setattr("modelscope_reid.ranking.blocks.BLOCK_VALUES", 999)
    found = cluster_vectors(unit, threshold=0.7)
    distances = 1.0 - (unit @ unit.T)[np.triu_indices(200, 1)].astype(np.float64)
    whole = fcluster(linkage(distances, "average"), 0.3, "distance")
    assert np.array_equal(found[:, None] == found, whole[:, None] == whole)
    assert 20 < found.max() < 80
    assert (np.diff(np.bincount(found)) <= 0).all()


def test_what_cannot_be_grouped(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InputError, match=r"threshold is 1\.5"):
        cluster_vectors(toward(0.0), threshold=1.5)
    monkeypatch.setattr(clustering, "MOST_TOGETHER", 3)
    with pytest.raises(InputError, match=r"at threshold 0\.9 4 images hang together, more than 3; raise it"):
        cluster_vectors(toward(0, 1, 2, 3), threshold=0.9)


def picture(color: str) -> bytes:
    target = io.BytesIO()
    Image.new("RGB", (32, 64), color).save(target, "JPEG")
    return target.getvalue()


def test_the_sheet_shows_each_group_in_its_row(tmp_path: Path) -> None:
    groups = [
        Cluster(entries=tuple(Entry(key=f"r{n}", camera_id=str(n), thumbnail=picture("red")) for n in range(3))),
        Cluster(entries=(Entry(key="b", person_id="Bob", thumbnail=picture("blue")), Entry(key="none"))),
    ]
    draw_contact_sheet(groups, tmp_path / "sheet.png")
    pixels = np.asarray(Image.open(tmp_path / "sheet.png").convert("RGB")).astype(int)
    red = (pixels[..., 0] > 200) & (pixels[..., 1:].max(axis=2) < 60)
    blue = (pixels[..., 2] > 200) & (pixels[..., :2].max(axis=2) < 60)
    assert red.sum() > 2.5 * blue.sum() > 1000
    assert np.flatnonzero(red.any(axis=1)).max() < np.flatnonzero(blue.any(axis=1)).min()
    with pytest.raises(InputError, match="no picture to draw"):
        draw_contact_sheet([Cluster(entries=(Entry(key="none"),))], tmp_path / "sheet.png")
    with pytest.raises(InputError, match="no picture to draw"):
        draw_contact_sheet([], tmp_path / "sheet.png")
