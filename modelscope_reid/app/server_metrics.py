"""What a server has done so far, as Prometheus reads it.

In: each answered request, and a `Service` to be asked when somebody reads. Out: Prometheus's text. Every server has a
registry of its own. Knows nothing of how requests are answered.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from prometheus_client import CollectorRegistry, Counter, Histogram, ProcessCollector, generate_latest
from prometheus_client.core import GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

from modelscope_reid.app.service import Service

PREFIX = "modelscope_reid"
CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
SECONDS = (0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0)
BATCH_SIZES = (1, 2, 4, 8, 16, 32, 64)


class Metrics:
    """Counts of requests by route and status, their seconds, and what the service tells of itself."""

    def __init__(self, service: Service) -> None:
        self.registry = CollectorRegistry()
        self._requests = Counter(
            f"{PREFIX}_requests", "Answered requests.", ("route", "status"), registry=self.registry
        )
        self._seconds = Histogram(
            f"{PREFIX}_request_seconds",
            "Seconds from a request's first byte to its answer's last.",
            ("route",),
            buckets=SECONDS,
            registry=self.registry,
        )
        self.registry.register(_ServiceCollector(service))
        ProcessCollector(registry=self.registry)

    def observe(self, route: str, status: int, seconds: float) -> None:
        """Count one answered request; `route` is one of few names, not what a visitor typed."""
        self._requests.labels(route, str(status)).inc()
        self._seconds.labels(route).observe(seconds)

    def text(self) -> bytes:
        """Return everything as Prometheus's text.

        Raises:
            GalleryError: the gallery cannot be read.
        """
        return generate_latest(self.registry)


class _ServiceCollector(Collector):
    """Reads the service when it is asked."""

    def __init__(self, service: Service) -> None:
        self._service = service

    def collect(self) -> Iterator[Metric]:
        """Yield the service's figures."""
        stats = self._service.stats()
        yield GaugeMetricFamily(f"{PREFIX}_entries", "Images enrolled in the gallery.", value=stats.entries)
        yield GaugeMetricFamily(f"{PREFIX}_people", "People enrolled in the gallery.", value=stats.people)
        waiting = self._service.waiting
        yield GaugeMetricFamily(f"{PREFIX}_waiting_images", "Images that wait for the model.", value=waiting)
        sizes = self._service.batch_sizes()
        batches = HistogramMetricFamily(f"{PREFIX}_batch_images", "Images of each call of the model.")
        total = sum(size * count for size, count in sizes.items())
        batches.add_metric([], cumulative(sizes), total)
        yield batches


def cumulative(sizes: Mapping[int, int]) -> list[tuple[str, float]]:
    """Return how many calls had up to so many images, as Prometheus's histograms have it."""
    buckets = [
        (f"{bound:.1f}", float(sum(calls for size, calls in sizes.items() if size <= bound))) for bound in BATCH_SIZES
    ]
    return [*buckets, ("+Inf", float(sum(sizes.values())))]
