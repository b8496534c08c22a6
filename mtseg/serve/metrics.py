"""What the service counts, for Prometheus."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector

SECONDS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)
IMAGES = (1, 2, 4, 8, 16, 32, 64)


class Metrics:
    """Those of one service; with the process's own, such as its memory, on Linux."""

    def __init__(self) -> None:
        self.registry = registry = CollectorRegistry()
        ProcessCollector(registry=registry)
        self.requests = Counter(
            "mtseg_requests", "Responses, by path and HTTP status.", ["path", "status"], registry=registry
        )
        self.request_seconds = Histogram(
            "mtseg_request_seconds", "Time from a request for a prediction to its answer, of those answered with 200.",
            registry=registry, buckets=SECONDS,
        )  # fmt: skip
        self.batch_seconds = Histogram(
            "mtseg_batch_seconds", "Time of the network and the filter on a batch.", registry=registry, buckets=SECONDS
        )
        self.batch_images = Histogram(
            "mtseg_batch_images", "Images of a batch; the sum is that of all images.", registry=registry, buckets=IMAGES
        )
        self.failures = Counter(
            "mtseg_failures", "Images that the network failed on, a bug or lack of memory.", registry=registry
        )
        self.accepted = Gauge(
            "mtseg_accepted_requests", "Requests for predictions that are accepted and not answered.", registry=registry
        )
        self.waiting = Gauge("mtseg_waiting_images", "Images that wait for the network.", registry=registry)
