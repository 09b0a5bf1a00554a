"""Every series that the proxy exports. Labels are bounded: no token, no repo, no user by default."""

import platform
from contextlib import suppress

from prometheus_client import (
    CollectorRegistry,
    Info,
    ProcessCollector,
    disable_created_metrics,
    generate_latest,
)
from prometheus_client import Counter as PromCounter
from prometheus_client import Gauge as PromGauge
from prometheus_client import Histogram as PromHistogram

from hubgate.proxy.metrics.instruments import Counter, Gauge, Histogram, HistogramValue
from hubgate.runtime import build

_SECONDS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300, 600)
_DAYS = (1, 7, 14, 30, 60, 75, 90, 120, 180, 365)

MAX_USERS = 1000  # that have series of their own


class EndpointTimes:
    """How long the requests of one endpoint took."""

    def __init__(self, total: HistogramValue, overhead: HistogramValue, first_byte: HistogramValue) -> None:
        self.total = total
        self.overhead = overhead
        self.first_byte = first_byte


class Metrics:
    """One registry of its own, so that nothing else in the process slips into it."""

    def __init__(self) -> None:
        disable_created_metrics()  # type: ignore[no-untyped-call]  # a second series beside each, which nobody reads
        self.registry = CollectorRegistry()
        registry = self.registry
        ProcessCollector(registry=registry)
        Info("hubgate_build", "What runs here", registry=registry).info(
            {
                "version": build.VERSION,
                "python": platform.python_version(),
                "compiled": "true" if build.compiled() else "false",
            }
        )
        self.requests = Counter(
            "hubgate_requests",
            "Requests answered; code is `ok` or the error's, also where it came after the headers",
            ["endpoint", "status", "code"],
            registry=registry,
        )
        self.request_seconds = Histogram(
            "hubgate_request_seconds",
            "From the headers to the last byte",
            ["endpoint"],
            buckets=_SECONDS,
            registry=registry,
        )
        self.overhead_seconds = Histogram(
            "hubgate_overhead_seconds",
            "Time spent in the proxy itself: neither waiting for the Hub, a load or the engine",
            ["endpoint"],
            buckets=_SECONDS,
            registry=registry,
        )
        self.first_byte_seconds = Histogram(
            "hubgate_time_to_first_byte_seconds",
            "From the headers to the first byte of the answer",
            ["endpoint"],
            buckets=_SECONDS,
            registry=registry,
        )
        self.queue_seconds = Histogram(
            "hubgate_queue_seconds",
            "Time that an engine's gate let a request wait for its caller's share; of those that waited",
            [],
            buckets=_SECONDS,
            registry=registry,
        )
        self.in_flight = Gauge("hubgate_in_flight_requests", "Requests under way", registry=registry)
        self.authentications = Counter(
            "hubgate_authentications", "Credentials checked", ["result", "source"], registry=registry
        )
        self.doubled_bearers = PromCounter(
            "hubgate_doubled_bearers", "Credentials sent as `Bearer Bearer …`", registry=registry
        )
        self.name_conflicts = PromCounter(
            "hubgate_name_conflicts",
            "Callers under a configured name that is kept for another account of the Hub",
            ["kind"],
            registry=registry,
        )
        self.authorizations = Counter(
            "hubgate_authorizations", "Models checked for a caller", ["result", "source"], registry=registry
        )
        self.hub_requests = PromCounter(
            "hubgate_hub_requests", "Questions to the Hub", ["call", "status"], registry=registry
        )
        self.hub_seconds = PromHistogram(
            "hubgate_hub_request_seconds", "The Hub's time to answer", ["call"], registry=registry
        )
        self.token_age = Histogram(
            "hubgate_token_age_days",
            "Age of the token, once per authenticated request",
            [],
            buckets=_DAYS,
            registry=registry,
        )
        self.tokens_over_age = PromGauge(
            "hubgate_tokens_over_age",
            "Different tokens over the age limit, seen within a day",
            registry=registry,
        )
        self.tokens = Counter("hubgate_tokens", "Tokens that engines counted", ["kind"], registry=registry)
        self.user_requests = Counter(
            "hubgate_user_requests", "Requests by user (metrics.per_user)", ["user"], registry=registry
        )
        self.user_tokens = Counter(
            "hubgate_user_tokens", "Tokens by user (metrics.per_user)", ["user", "kind"], registry=registry
        )
        self._users: set[str] = set()
        self._times: dict[str, EndpointTimes] = {}
        self.audit_records = Counter("hubgate_audit_records", "Audit records", ["event"], registry=registry)
        self.audit_free_bytes = PromGauge(
            "hubgate_audit_free_bytes",
            "Room on the audit's disk when it was last looked at",
            registry=registry,
        )
        self.unwritten_refusals = Counter(
            "hubgate_unwritten_refusals",
            "Refusals that the audit only counts: the budget is spent, or the disk nearly full",
            ["reason"],
            registry=registry,
        )
        self.dropped_connections = Counter(
            "hubgate_dropped_connections",
            "Callers' connections closed because there were too many, in all or of one client",
            ["reason"],
            registry=registry,
        )
        self.upstream_up = PromGauge(
            "hubgate_upstream_up", "Whether the backend answers its hello", ["upstream"], registry=registry
        )
        self.certificate_expiry = PromGauge(
            "hubgate_certificate_expiry_timestamp_seconds",
            "When a certificate of ours ends, by its place in the settings; seconds since the epoch",
            ["certificate"],
            registry=registry,
        )
        self.upstream_name_conflicts = PromCounter(
            "hubgate_upstream_name_conflicts",
            "Hellos of a backend under the name of another one that answers too",
            registry=registry,
        )
        self.upstream_pauses = PromCounter(
            "hubgate_upstream_pauses",
            "Times that a backend was left alone for a pause because its engine failed in a row",
            ["upstream"],
            registry=registry,
        )

        self.limits_storage_up = PromGauge(
            "hubgate_limits_storage_up",
            "Whether limits are counted where they should be; 0: Redis is away, each proxy counts for itself",
            registry=registry,
        )
        self.hub_up = PromGauge(
            "hubgate_hub_up",
            "0 while some kind of question is not asked because the Hub did not answer the last ones",
            registry=registry,
        )
        self.hub_questions_waiting = PromGauge(
            "hubgate_hub_questions_waiting",
            "Questions to the Hub that wait for their turn, because others are under way",
            registry=registry,
        )

    def times(self, endpoint: str) -> EndpointTimes:
        """The histograms of one endpoint."""
        found = self._times.get(endpoint)
        if found is None:
            found = self._times[endpoint] = EndpointTimes(
                self.request_seconds.labels(endpoint),
                self.overhead_seconds.labels(endpoint),
                self.first_byte_seconds.labels(endpoint),
            )
        return found

    def user(self, name: str, prompt: int | None, completion: int | None) -> None:
        """Count one request of a user, if the operator wants names in the metrics (`metrics.per_user`).

        A name that comes after `MAX_USERS` others is counted as `(other)`.
        """
        if name not in self._users:
            if len(self._users) >= MAX_USERS:
                name = "(other)"
            self._users.add(name)
        self.user_requests.labels(name).inc()
        if prompt is not None:
            self.user_tokens.labels(name, "prompt").inc(prompt)
            self.user_tokens.labels(name, "completion").inc(completion or 0)

    def forget_upstream(self, name: str) -> None:
        """It is none of this proxy's any more: its gauge would stay as it was."""
        with suppress(KeyError):
            self.upstream_up.remove(name)

    def hub(self, call: str, status: str, seconds: float) -> None:
        """Count one question to the Hub."""
        self.hub_requests.labels(call, status).inc()
        self.hub_seconds.labels(call).observe(seconds)

    def expose(self) -> bytes:
        """All series in Prometheus' text format."""
        return generate_latest(self.registry)
