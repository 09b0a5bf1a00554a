"""The backend's metrics: an explicit registry, labels from fixed lists, no repo or user in any."""

from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from typing import Literal

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.registry import Collector

from hubgate.backend.fairness.shares import Why
from hubgate.wire.control_api import EngineQueue

_SECONDS = (0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600, 1800, 3600)
# Its labels are the names of adapters.
_DROPPED = frozenset({"vllm:lora_requests_info"})
# Labels that name a model: adapters belong to callers, and on demand there is no end of base models.
_NAMING = frozenset({"model_name", "lora_name", "lora_adapter", "adapter_name"})
# What vLLM counts in each step in which it does something, whatever callers do meanwhile.
_PROGRESS = ("vllm:generation_tokens_total", "vllm:iteration_tokens_total_sum", "vllm:kv_cache_usage_perc")
_STATES = ("downloading", "starting", "ready", "draining", "asleep", "stopping", "failed")
_RESULTS = frozenset({"ok", "denied", "not_found", "rejected", "hub_unavailable"})
_OF_QUEUES = (
    ("hubgate_engine_seats", "Sequences that an engine runs at once", "seats"),
    ("hubgate_engine_seats_taken", "Sequences of requests that its gate has let in", "taken"),
    ("hubgate_engine_waiting_requests", "Requests that wait at its gate for their share", "waiting"),
    ("hubgate_engine_longest_wait_seconds", "How long the first of them has waited", "longest_wait"),
)

# Why an engine ended: asked for, or a failure.
End = Literal["idle", "room", "refresh", "tenure", "shutdown", "not_started", "not_woken", "crashed", "hung"]

Kind = Literal["adapter", "engine", "repo"]
# What a load may have to wait for.
Wait = Literal["download", "engine"]


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
        self._ends = Counter(
            "hubgate_engine_ends_total", "Ends of engines by reason", ("reason",), registry=self.registry
        )
        self._evictions = Counter(
            "hubgate_adapters_evicted_total", "Adapters that made room", registry=self.registry
        )
        self._waits = Histogram(
            "hubgate_load_wait_seconds",
            "Time that a load waited for its turn",
            ("for",),
            buckets=_SECONDS,
            registry=self.registry,
        )
        self._called_back = Counter(
            "hubgate_downloads_called_back_total",
            "Places of downloads that were wanted by who had less",
            registry=self.registry,
        )
        self._made_room = Counter(
            "hubgate_evictions_total",
            "What made room, and why it was that",
            ("what", "why"),
            registry=self.registry,
        )
        self._refused = Counter(
            "hubgate_refused_loads_total",
            "Loads that were not begun: too many of one caller, or too soon after a refusal",
            registry=self.registry,
        )
        self._cold = Counter(
            "hubgate_cold_starts_total", "Loads by outcome", ("kind", "result"), registry=self.registry
        )

        self._certificates = Gauge(
            "hubgate_certificate_expiry_timestamp_seconds",
            "When a certificate of ours ends, by its place in the settings; seconds since the epoch",
            ("certificate",),
            registry=self.registry,
        )

    def downloaded(self, kind: str, result: str, size: int, seconds: float) -> None:
        """A download ended."""
        self._downloads.labels(kind, result if result in _RESULTS else "error").inc()
        self._bytes.labels(kind).inc(size)
        self._seconds.labels(kind).observe(seconds)

    def waited(self, what: Wait, seconds: float) -> None:
        """A load's turn came."""
        self._waits.labels(what).observe(seconds)

    def refused(self) -> None:
        """A load was not begun."""
        self._refused.inc()

    def called_back(self) -> None:
        """A download gave up its place for a while."""
        self._called_back.inc()

    def cold_start(self, kind: str, result: str) -> None:
        """An engine was started (kind base) or woken up (wake), or an adapter loaded (adapter), or not."""
        self._cold.labels(kind, result).inc()

    def engine_ended(self, reason: End) -> None:
        """An engine is gone."""
        self._ends.labels(reason).inc()

    def evicted(self, what: Kind, why: Why) -> None:
        """Something made room: a repo of the store, an adapter in an engine, or an engine."""
        self._made_room.labels(what, why).inc()
        if what == "adapter":
            self._evictions.inc()

    def observe(
        self,
        states: Callable[[], Iterable[str]],
        adapters: Callable[[], int],
        stored: Callable[[], int],
        queues: Callable[[], Mapping[str, EngineQueue]],
    ) -> None:
        """Name the sources of what is measured at the time of asking."""
        self.registry.register(_States(states))
        self.registry.register(_Queues(queues))
        gauge = Gauge("hubgate_adapters_loaded", "Adapters in running engines", registry=self.registry)
        gauge.set_function(adapters)
        gauge = Gauge("hubgate_store_bytes", "Bytes of finished downloads on disk", registry=self.registry)
        gauge.set_function(stored)

    def certificate(self, name: str, until: Callable[[], float]) -> None:
        """When this certificate ends, in seconds since the epoch."""
        self._certificates.labels(name).set_function(until)

    def render(self, engines: Mapping[str, str], configured: Mapping[str, str] | None = None) -> bytes:
        """The exposition: ours, then the `vllm:*` series of each engine (id to its own exposition).

        `configured` names the model of each engine whose model the operator configured.
        """
        merged = CollectorRegistry()
        merged.register(_Given(merge(engines, configured or {})))
        return generate_latest(self.registry) + generate_latest(merged)


def progress(text: str) -> float:
    """How far vLLM's own counters have come, in an engine's exposition; 0 where it counts nothing."""
    total = 0.0
    for line in text.splitlines():
        if line.startswith(_PROGRESS):
            with suppress(ValueError):
                total += float(line.rpartition(" ")[2])
    return total


def merge(engines: Mapping[str, str], configured: Mapping[str, str]) -> list[Metric]:
    """One family for each of the engines' `vllm:*` ones, with a label that tells the engine.

    vLLM has a label `engine` of its own (the rank within one server), so ours is `hubgate_engine`. What
    names a model is dropped; `model_name` comes back for configured ones, without the commit.
    """
    families: dict[str, Metric] = {}
    for engine, text in engines.items():
        for family in text_string_to_metric_families(text):
            if not family.name.startswith("vllm:") or family.name in _DROPPED:
                continue
            target = families.setdefault(family.name, Metric(family.name, family.documentation, family.type))
            for sample in family.samples:
                labels = {name: value for name, value in sample.labels.items() if name not in _NAMING}
                labels["hubgate_engine"] = engine
                if "model_name" in sample.labels:
                    labels["model_name"] = configured.get(engine, "")
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


class _Queues(Collector):
    """Of each engine: its seats, how many are taken, and who waits for one."""

    def __init__(self, queues: Callable[[], Mapping[str, EngineQueue]]) -> None:
        self._queues = queues

    def collect(self) -> Iterable[Metric]:
        queues = self._queues()
        families = []
        for name, text, attribute in _OF_QUEUES:
            family = GaugeMetricFamily(name, text, labels=["hubgate_engine"])
            for engine, queue in queues.items():
                family.add_metric([engine], getattr(queue, attribute))
            families.append(family)
        return families
