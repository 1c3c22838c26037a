"""What a registry counts, in Prometheus' text form. Source: Distribution's names where it has the same figure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping

import attrs
from prometheus_client import CollectorRegistry, ProcessCollector
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.exposition import choose_encoder

from registryd.interfaces import UpstreamState
from registryd.report import Report, Run


@attrs.define
class CountedTraffic:
    """Traffic that is added up."""

    requests: int = 0
    hits: int = 0
    misses: int = 0
    pulled_bytes: int = 0
    pushed_bytes: int = 0

    def fetched(self, size: int) -> None:
        self.misses += 1
        self.pulled_bytes += size

    def served(self, size: int, hit: bool) -> None:
        self.requests += 1
        self.hits += hit
        self.pushed_bytes += size


_TRAFFIC: Mapping[str, str] = {
    "requests": "Requests of clients that the mirrors answered",
    "hits": "Requests that were answered from what was there already",
    "misses": "Fetches from upstreams",
    "pulled_bytes": "Bytes fetched from upstreams",
    "pushed_bytes": "Bytes sent to clients",
}


class MirrorMetrics:
    """What the mirrors of a registry did, and how their upstreams are; the Meters of ``registryd.interfaces``."""

    def __init__(self) -> None:
        self.blobs = CountedTraffic()
        self.manifests = CountedTraffic()
        self._states: dict[str, Callable[[], UpstreamState]] = {}

    def watch(self, upstream: str, state: Callable[[], UpstreamState]) -> None:
        self._states[upstream] = state

    def collect(self) -> Iterator[Metric]:
        for figure, meaning in _TRAFFIC.items():
            family = CounterMetricFamily(f"registry_proxy_{figure}", meaning, labels=["type"])
            for kind, traffic in (("blob", self.blobs), ("manifest", self.manifests)):
                family.add_metric([kind], getattr(traffic, figure))
            yield family
        yield from self._upstreams()

    def _upstreams(self) -> Iterator[Metric]:
        available = _gauge("upstream_available", "Whether the upstream may be asked", "upstream")
        limit = _gauge("upstream_ratelimit_limit", "Requests that the upstream allows in its window", "upstream")
        left = _gauge("upstream_ratelimit_remaining", "Requests that the upstream still allows", "upstream")
        for upstream, ask in self._states.items():
            state = ask()
            available.add_metric([upstream], state.available)
            for family, value in ((limit, state.limit), (left, state.remaining)):
                if value is not None:
                    family.add_metric([upstream], value)
        return iter((available, limit, left))


class CollectorMetrics:
    """What the collector's runs did; those alone that this daemon started."""

    def __init__(self) -> None:
        self._cached: Callable[[], int] | None = None
        self._limit: int | None = None
        self._runs: Counter[tuple[str, str]] = Counter()
        self._removed: Counter[str] = Counter()
        self._removed_bytes = 0
        self._last: dict[str, Run] = {}
        self._report: Report | None = None

    def watch_cache(self, cached: Callable[[], int], limit: int | None) -> None:
        """Ask for the bytes of mirrored content whenever somebody wants to know them; ``limit`` bounds them."""
        self._cached, self._limit = cached, limit

    def observe(self, run: Run) -> None:
        """Count a run that has ended."""
        self._runs[run.kind, run.outcome] += 1
        if run.report is None:
            return
        self._last[run.kind] = run
        self._report = run.report
        self._removed.update(run.report.removed)
        self._removed_bytes += run.report.removed_bytes

    def collect(self) -> Iterator[Metric]:
        runs = CounterMetricFamily("registryd_gc_runs", "Runs of the collector", labels=["run", "outcome"])
        for key, count in self._runs.items():
            runs.add_metric(key, count)
        yield runs
        yield from self._last_runs()
        yield from self._totals()
        yield from self._reported()
        yield from self._cache()

    def _last_runs(self) -> Iterator[Metric]:
        ended = _gauge("gc_last_run_timestamp_seconds", "When the last run ended that did its work", "run")
        took = _gauge("gc_last_run_duration_seconds", "What that run took", "run")
        for kind, run in self._last.items():
            assert run.report is not None
            ended.add_metric([kind], run.ended)
            took.add_metric([kind], run.report.seconds)
        return iter((ended, took))

    def _totals(self) -> Iterator[Metric]:
        removed = CounterMetricFamily("registryd_gc_removed", "What the collector removed", labels=["kind"])
        for kind, count in self._removed.items():
            removed.add_metric([kind], count)
        yield removed
        yield CounterMetricFamily("registryd_gc_removed_bytes", "Bytes that it removed", value=self._removed_bytes)

    def _reported(self) -> Iterator[Metric]:
        if self._report is None:
            return
        kept = _gauge("gc_kept", "What the last run kept", "kind")
        for kind, count in self._report.kept.items():
            kept.add_metric([kind], count)
        yield kept
        for name, meaning, value in (
            ("gc_kept_bytes", "Bytes of the blobs that the last run kept", self._report.kept_bytes),
            ("gc_young_bytes", "Bytes that nothing needs, too young for the last run", self._report.young_bytes),
            ("gc_damaged", "What the last run found damaged", len(self._report.damage)),
        ):
            yield GaugeMetricFamily(f"registryd_{name}", meaning, value=value)

    def _cache(self) -> Iterator[Metric]:
        if self._cached is not None:
            meaning = "Bytes of mirrored content, as of the last run and what came since"
            yield GaugeMetricFamily("registryd_proxy_cached_bytes", meaning, value=self._cached())
        if self._limit is not None:
            yield GaugeMetricFamily("registryd_proxy_maxsize_bytes", "What they may be", value=self._limit)


class Metrics:
    """All that one registry tells, with what the process takes."""

    def __init__(self, *sources: MirrorMetrics | CollectorMetrics) -> None:
        self._registry = CollectorRegistry()
        ProcessCollector(registry=self._registry)
        for source in sources:
            self._registry.register(source)

    def page(self, accept: str) -> tuple[bytes, str]:
        """The metrics in a form that an Accept header asks for, and its media type."""
        encode, media_type = choose_encoder(accept)
        return encode(self._registry), media_type


def _gauge(name: str, meaning: str, label: str) -> GaugeMetricFamily:
    return GaugeMetricFamily(f"registryd_{name}", meaning, labels=[label])
