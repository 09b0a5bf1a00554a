"""Counters and histograms of the request path: plain numbers, turned into series when they are read.

prometheus_client's own take a lock and some microseconds for each change, and a request makes fifteen.
All of these change on the event loop's thread, so that no lock is needed; a scrape reads them there too.
"""

from collections.abc import Iterator, Sequence
from typing import Final

from prometheus_client import CollectorRegistry, Metric
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.registry import Collector

Labels = tuple[str, ...]


class CounterValue:
    """One number that grows, or, as a gauge, falls as well."""

    __slots__ = ("value",)

    def __init__(self) -> None:
        self.value = 0.0

    def inc(self, by: float = 1) -> None:
        self.value += by

    def dec(self, by: float = 1) -> None:
        self.value -= by


class Counter(Collector):
    """A family of counts; `labels` gives the one with these values, in the order of the names."""

    def __init__(self, name: str, text: str, labels: Sequence[str], registry: CollectorRegistry) -> None:
        self._name = name
        self._text = text
        self._names: Final = tuple(labels)
        self._counts: dict[Labels, CounterValue] = {}
        registry.register(self)

    def labels(self, *values: str) -> CounterValue:
        count = self._counts.get(values)
        if count is None:
            if len(values) != len(self._names):
                raise ValueError(f"{self._name} has the labels {self._names}")
            count = self._counts[values] = CounterValue()
        return count

    def collect(self) -> Iterator[Metric]:
        """The family, for a scrape."""
        family = CounterMetricFamily(self._name, self._text, labels=self._names)
        for values, count in tuple(self._counts.items()):
            family.add_metric(values, count.value)
        yield family


class Gauge(CounterValue, Collector):
    """One number without labels."""

    __slots__ = ("_name", "_text")

    def __init__(self, name: str, text: str, registry: CollectorRegistry) -> None:
        super().__init__()
        self._name = name
        self._text = text
        registry.register(self)

    def collect(self) -> Iterator[Metric]:
        """The family, for a scrape."""
        yield GaugeMetricFamily(self._name, self._text, value=self.value)


class HistogramValue:
    """How often values fell into each bucket, and their sum."""

    __slots__ = ("_bounds", "counts", "total")

    def __init__(self, bounds: tuple[float, ...]) -> None:
        self._bounds = bounds
        self.counts: list[int] = [0] * (len(bounds) + 1)
        self.total = 0.0

    def observe(self, value: float) -> None:
        place = 0
        for bound in self._bounds:  # a call of `bisect_left` takes longer: they are few, and values small
            if value <= bound:
                break
            place += 1
        counts = self.counts
        counts[place] = counts[place] + 1  # compiled, `+=` would add objects
        self.total += value

    def cumulative(self) -> list[tuple[str, float]]:
        """Prometheus' buckets: how many were at most so large."""
        found, below = [], 0
        for bound, count in zip((*map(str, self._bounds), "+Inf"), self.counts, strict=True):
            below += count
            found.append((bound, float(below)))
        return found


class Histogram(Collector):
    """A family of spreads over the same buckets."""

    def __init__(
        self,
        name: str,
        text: str,
        labels: Sequence[str],
        buckets: Sequence[float],
        registry: CollectorRegistry,
    ) -> None:
        self._name = name
        self._text = text
        self._names: Final = tuple(labels)
        self._bounds = tuple(float(bound) for bound in buckets)
        self._spreads: dict[Labels, HistogramValue] = {}
        registry.register(self)

    def labels(self, *values: str) -> HistogramValue:
        spread = self._spreads.get(values)
        if spread is None:
            if len(values) != len(self._names):
                raise ValueError(f"{self._name} has the labels {self._names}")
            spread = self._spreads[values] = HistogramValue(self._bounds)
        return spread

    def collect(self) -> Iterator[Metric]:
        """The family, for a scrape."""
        family = HistogramMetricFamily(self._name, self._text, labels=self._names)
        for values, spread in tuple(self._spreads.items()):
            family.add_metric(values, spread.cumulative(), sum_value=spread.total)
        yield family
