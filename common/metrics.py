"""The figures of /health, and the replies so far, in the text format of Prometheus."""

from collections import Counter
from collections.abc import Iterator, Mapping

from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector


class _Snapshot(Collector):
    """What is known at one moment."""

    def __init__(self, figures: Mapping[str, float], answered: Counter[int]) -> None:
        self._figures = figures
        self._answered = answered

    def collect(self) -> Iterator[Metric]:
        for name, value in self._figures.items():
            yield GaugeMetricFamily(f"exchange_{name}", name.replace("_", " "), value=value)
        replies = CounterMetricFamily(
            "exchange_http_replies", "replies by status", labels=["status"]
        )
        for status, count in self._answered.items():
            replies.add_metric([str(int(status))], count)
        yield replies


def render_metrics(figures: Mapping[str, float], answered: Counter[int]) -> tuple[bytes, str]:
    """The page, and its content type."""
    registry = CollectorRegistry()
    registry.register(_Snapshot(figures, answered))
    return generate_latest(registry), CONTENT_TYPE_LATEST
