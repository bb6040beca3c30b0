"""What Prometheus is told: parsed by its own parser, of a real gallery."""

from __future__ import annotations

from pathlib import Path

import pytest
from gallery_models import tiny_embedder, write_crops
from prometheus_client.parser import text_string_to_metric_families

from modelscope_reid.app.server_metrics import Metrics, cumulative
from modelscope_reid.app.service import Service
from modelscope_reid.errors import GalleryError
from modelscope_reid.gallery.gallery import Gallery


def figures(metrics: Metrics) -> dict[tuple[str, ...], float]:
    """Every sample by its name and labels, these in the order of their names."""
    families = text_string_to_metric_families(metrics.text().decode())
    samples = [one for family in families for one in family.samples]
    return {(one.name, *(value for _, value in sorted(one.labels.items()))): one.value for one in samples}


def test_what_is_counted(tmp_path: Path) -> None:
    with Gallery.open(tmp_path / "g.db", tiny_embedder()) as gallery:
        service = Service(gallery)
        metrics, other = Metrics(service), Metrics(service)
        crops = write_crops(tmp_path / "crops", 3)
        service.enroll([crop.read_bytes() for crop in crops], person_id="p")
        images = [service.read(crop.read_bytes(), name="a") for crop in crops]
        for count in (1, 3, 3):
            service.embed(images[:count])
        for status, seconds in ((200, 0.003), (200, 0.3), (429, 0.001)):
            metrics.observe("/search", status, seconds)
        found = figures(metrics)
        assert found["modelscope_reid_requests_total", "/search", "200"] == 2
        assert found["modelscope_reid_requests_total", "/search", "429"] == 1
        assert found["modelscope_reid_request_seconds_bucket", "0.005", "/search"] == 2
        assert found["modelscope_reid_request_seconds_count", "/search"] == 3
        assert found["modelscope_reid_request_seconds_sum", "/search"] == pytest.approx(0.304)
        assert found["modelscope_reid_entries",] == 3 and found["modelscope_reid_people",] == 1
        assert found["modelscope_reid_waiting_images",] == 0
        assert found["modelscope_reid_batch_images_bucket", "2.0"] == 1
        assert found["modelscope_reid_batch_images_bucket", "4.0"] == 3
        assert found["modelscope_reid_batch_images_sum",] == 7 and found["modelscope_reid_batch_images_count",] == 3
        assert found["process_resident_memory_bytes",] > 1e7
        assert ("modelscope_reid_requests_total", "/search", "200") not in figures(other)  # each server has its own
        service.close()


def test_batch_sizes_add_up() -> None:
    assert cumulative({}) == [(bound, 0.0) for bound in ("1.0", "2.0", "4.0", "8.0", "16.0", "32.0", "64.0", "+Inf")]
    found = dict(cumulative({1: 5, 3: 2, 32: 1, 100: 4}))
    assert (found["1.0"], found["2.0"], found["4.0"], found["32.0"], found["64.0"], found["+Inf"]) == (
        5,
        5,
        7,
        8,
        8,
        12,
    )


def test_a_gallery_that_is_gone_is_an_error(tmp_path: Path) -> None:
    gallery = Gallery.open(tmp_path / "g.db", tiny_embedder())
    service = Service(gallery)
    metrics = Metrics(service)
    gallery.close()
    with pytest.raises(GalleryError):
        metrics.text()
    service.close()
