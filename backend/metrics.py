"""The backend's metrics: an explicit registry, labels from fixed lists, no repo or user in any."""

from collections.abc import Callable, Iterable, Mapping

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.registry import Collector

_SECONDS = (0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600, 1800, 3600)
# Its labels are the names of adapters.
_DROPPED = frozenset({"vllm:lora_requests_info"})
_STATES = ("downloading", "starting", "ready", "draining", "stopping", "failed")
_RESULTS = frozenset({"ok", "denied", "not_found", "rejected", "hub_unavailable"})


class Metrics:
    """What is counted, one method for each thing that happens."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        kind = ("kind",)
        self._downloads = Counter(
            "hubgate_downloads_total", "Downloads by outcome", ("kind", "result"), registry=self.registry
        )
        self._bytes = Counter("hubgate_download_bytes_total", "Bytes fetched", kind, registry=self.registry)
        self._seconds = Histogram(
            "hubgate_download_seconds", "Time of a download", kind, buckets=_SECONDS, registry=self.registry
        )
        self._cold = Counter(
            "hubgate_cold_starts_total", "Loads by outcome", ("kind", "result"), registry=self.registry
        )

    def downloaded(self, kind: str, result: str, size: int, seconds: float) -> None:
        """A download ended."""
        self._downloads.labels(kind, result if result in _RESULTS else "error").inc()
        self._bytes.labels(kind).inc(size)
        self._seconds.labels(kind).observe(seconds)

    def cold_start(self, kind: str, result: str) -> None:
        """An engine was started (kind base), or an adapter loaded (kind adapter), or not."""
        self._cold.labels(kind, result).inc()

    def observe(
        self, states: Callable[[], Iterable[str]], adapters: Callable[[], int], stored: Callable[[], int]
    ) -> None:
        """Name the sources of what is measured at the time of asking."""
        self.registry.register(_States(states))
        gauge = Gauge("hubgate_adapters_loaded", "Adapters in running engines", registry=self.registry)
        gauge.set_function(adapters)
        gauge = Gauge("hubgate_store_bytes", "Bytes of finished downloads on disk", registry=self.registry)
        gauge.set_function(stored)

    def render(self, engines: Mapping[str, str]) -> bytes:
        """The exposition: ours, then the `vllm:*` series of each engine (id to its own exposition)."""
        merged = CollectorRegistry()
        merged.register(_Given(merge(engines)))
        return generate_latest(self.registry) + generate_latest(merged)


def merge(engines: Mapping[str, str]) -> list[Metric]:
    """One family for each of the engines' `vllm:*` ones, with a label that tells the engine.

    vLLM has a label `engine` of its own (the rank within one server), so ours is `hubgate_engine`.
    """
    families: dict[str, Metric] = {}
    for engine, text in engines.items():
        for family in text_string_to_metric_families(text):
            if not family.name.startswith("vllm:") or family.name in _DROPPED:
                continue
            target = families.setdefault(family.name, Metric(family.name, family.documentation, family.type))
            for sample in family.samples:
                labels = {**sample.labels, "hubgate_engine": engine}
                target.add_sample(sample.name, labels, sample.value, sample.timestamp, sample.exemplar)
    return list(families.values())


class _Given(Collector):
    def __init__(self, families: list[Metric]) -> None:
        self._families = families

    def collect(self) -> Iterable[Metric]:
        return self._families


class _States(Collector):
    def __init__(self, states: Callable[[], Iterable[str]]) -> None:
        self._states = states

    def collect(self) -> Iterable[Metric]:
        now = list(self._states())
        family = GaugeMetricFamily("hubgate_engines", "Engines by state", labels=["state"])
        for state in _STATES:
            family.add_metric([state], now.count(state))
        return [family]
