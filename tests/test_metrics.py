"""What a registry tells Prometheus, and the port that it tells it on."""

from __future__ import annotations

import re
import shutil
import socket
import tempfile
from io import StringIO
from pathlib import Path
from typing import Any

import yaml
from twisted.internet import reactor as installed
from twisted.internet.task import Clock
from twisted.internet.threads import deferToThread
from twisted.logger import capturedLogs, formatEvent
from twisted.trial.unittest import SynchronousTestCase, TestCase

from registryd.config import load
from registryd.daemon import RegistryService, StartError
from registryd.http.accesslog import AccessLog
from registryd.interfaces import Meters, UpstreamState
from registryd.metrics import CollectorMetrics, Metrics, MirrorMetrics
from registryd.report import Damage, Report, Run

reactor: Any = installed


def figures(metrics: Metrics) -> dict[str, float]:
    """What is told, without what is told of the process."""
    text, _ = metrics.page("")
    return parsed(text.decode())


def parsed(text: str) -> dict[str, float]:
    lines = (line.rpartition(" ") for line in text.splitlines() if not line.startswith("#"))
    return {name: float(value) for name, _, value in lines if not name.startswith("process_")}


def report(**more: Any) -> Report:
    kept = {"repositories": 1, "manifests": 2, "tags": 3, "blobs": 4}
    values = {"seconds": 1.5, "kept": kept, "removed": {"blobs": 5, "links": 6}, "kept_bytes": 7, "removed_bytes": 8}
    return Report(**{**values, "young_bytes": 9, "mirror_bytes": 10, "dropped": 0, "damage": (), **more})


class MirrorTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.mirrors = MirrorMetrics()
        self.metrics = Metrics(self.mirrors)

    def test_nothing_yet(self) -> None:
        names = ("requests", "hits", "misses", "pulled_bytes", "pushed_bytes")
        self.assertEqual(
            figures(self.metrics),
            {f'registry_proxy_{name}_total{{type="{kind}"}}': 0 for name in names for kind in ("blob", "manifest")},
        )

    def test_traffic(self) -> None:
        meters: Meters = self.mirrors
        meters.blobs.fetched(100)
        meters.blobs.served(100, False)
        meters.blobs.served(100, True)
        meters.blobs.served(50, True)
        meters.manifests.served(7, True)
        told = figures(self.metrics)
        for name, blobs, manifests in (
            ("requests", 3, 1),
            ("hits", 2, 1),
            ("misses", 1, 0),
            ("pulled_bytes", 100, 0),
            ("pushed_bytes", 250, 7),
        ):
            self.assertEqual(told[f'registry_proxy_{name}_total{{type="blob"}}'], blobs, name)
            self.assertEqual(told[f'registry_proxy_{name}_total{{type="manifest"}}'], manifests, name)

    def test_upstreams(self) -> None:
        states = {
            "docker.io": UpstreamState(True, 100, 76),
            "ghcr.io": UpstreamState(False),
            "q": UpstreamState(True, None, 3),
        }
        for upstream in states:
            self.mirrors.watch(upstream, lambda upstream=upstream: states[upstream])
        told = figures(self.metrics)
        upstream = {name: value for name, value in told.items() if name.startswith("registryd_upstream_")}
        expected = {
            'registryd_upstream_available{upstream="docker.io"}': 1,
            'registryd_upstream_available{upstream="ghcr.io"}': 0,
            'registryd_upstream_available{upstream="q"}': 1,
            'registryd_upstream_ratelimit_limit{upstream="docker.io"}': 100,
            'registryd_upstream_ratelimit_remaining{upstream="docker.io"}': 76,
            'registryd_upstream_ratelimit_remaining{upstream="q"}': 3,
        }
        self.assertEqual(upstream, expected)
        states["ghcr.io"] = UpstreamState(True)
        self.assertEqual(figures(self.metrics)['registryd_upstream_available{upstream="ghcr.io"}'], 1)

    def test_registries_of_one_process(self) -> None:
        other = MirrorMetrics()
        theirs = Metrics(other)
        other.blobs.fetched(1)
        self.assertEqual(figures(theirs)['registry_proxy_misses_total{type="blob"}'], 1)
        self.assertEqual(figures(self.metrics)['registry_proxy_misses_total{type="blob"}'], 0)


class CollectorTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.collector = CollectorMetrics()
        self.metrics = Metrics(self.collector)

    def test_nothing_yet(self) -> None:
        self.assertEqual(figures(self.metrics), {"registryd_gc_removed_bytes_total": 0})

    def test_runs(self) -> None:
        damage = (Damage("digest", "/p", "", False),) * 2
        self.collector.observe(Run("full", "done", 1e9, report()))
        self.collector.observe(Run("full", "failed", 2e9, None))
        self.collector.observe(Run("expired", "damaged", 1.5e9, report(seconds=0.5, kept_bytes=6, damage=damage)))
        self.collector.observe(Run("expired", "busy", 3e9, None))
        expected = {
            'registryd_gc_runs_total{outcome="done",run="full"}': 1,
            'registryd_gc_runs_total{outcome="failed",run="full"}': 1,
            'registryd_gc_runs_total{outcome="damaged",run="expired"}': 1,
            'registryd_gc_runs_total{outcome="busy",run="expired"}': 1,
            'registryd_gc_last_run_timestamp_seconds{run="full"}': 1e9,
            'registryd_gc_last_run_timestamp_seconds{run="expired"}': 1.5e9,
            'registryd_gc_last_run_duration_seconds{run="full"}': 1.5,
            'registryd_gc_last_run_duration_seconds{run="expired"}': 0.5,
            'registryd_gc_removed_total{kind="blobs"}': 10,
            'registryd_gc_removed_total{kind="links"}': 12,
            "registryd_gc_removed_bytes_total": 16,
            'registryd_gc_kept{kind="repositories"}': 1,
            'registryd_gc_kept{kind="manifests"}': 2,
            'registryd_gc_kept{kind="tags"}': 3,
            'registryd_gc_kept{kind="blobs"}': 4,
            "registryd_gc_kept_bytes": 6,
            "registryd_gc_young_bytes": 9,
            "registryd_gc_damaged": 2,
        }
        self.assertEqual(figures(self.metrics), expected)

    def test_cache(self) -> None:
        self.collector.watch_cache(lambda: 42, 100)
        told = figures(self.metrics)
        self.assertEqual((told["registryd_proxy_cached_bytes"], told["registryd_proxy_maxsize_bytes"]), (42, 100))
        self.collector.watch_cache(lambda: 43, None)
        told = figures(self.metrics)
        self.assertEqual(told["registryd_proxy_cached_bytes"], 43)
        self.assertNotIn("registryd_proxy_maxsize_bytes", told)


class PageTests(SynchronousTestCase):
    def test_media_types(self) -> None:
        metrics = Metrics(MirrorMetrics())
        text, media_type = metrics.page("")
        self.assertEqual(media_type, "text/plain; version=0.0.4; charset=utf-8")
        self.assertIn(b'# TYPE registry_proxy_hits_total counter\nregistry_proxy_hits_total{type="blob"} 0.0\n', text)
        text, media_type = metrics.page("application/openmetrics-text;version=1.0.0,text/plain;q=0.5")
        self.assertTrue(media_type.startswith("application/openmetrics-text; version=1.0.0"), media_type)
        self.assertTrue(text.endswith(b"# EOF\n"))

    def test_process(self) -> None:
        text, _ = Metrics().page("")
        self.assertIn(b"process_resident_memory_bytes ", text)


class DebugPortTests(TestCase):
    timeout = 20

    def setUp(self) -> None:
        self.folder = tempfile.mkdtemp()
        self.addCleanup(shutil.rmtree, self.folder)

    def service(self, **sections: Any) -> RegistryService:
        document = {"version": 0.1, "storage": {"filesystem": {"rootdirectory": f"{self.folder}/store"}}, **sections}
        document["http"] = {"addr": "127.0.0.1:0", "draintimeout": "1s", **document["http"]}
        path = Path(self.folder) / "config.yml"
        path.write_text(yaml.safe_dump(document))
        return RegistryService(load(str(path), {}), reactor, AccessLog(StringIO().write, Clock()))

    def started(self, debug: object, **sections: Any) -> int:
        """The debug port of a registry."""
        service = self.service(http={"debug": debug}, **sections)
        with capturedLogs() as events:
            service.privilegedStartService()
            service.startService()
        self.addCleanup(self.stop, service)
        lines = [formatEvent(event) for event in events]
        (port,) = (
            match[1] for line in lines if (match := re.fullmatch(r"debug port on http://127\.0\.0\.1:(\d+)", line))
        )
        return int(port)

    async def stop(self, service: RegistryService) -> None:
        with capturedLogs():
            await service.stopService()

    async def ask(self, port: int, path: str, method: str = "GET") -> tuple[int, str]:
        """The status and body of an answer; its headers are in ``head``."""
        answer = await deferToThread(self._ask, port, f"{method} {path} HTTP/1.0\r\n\r\n")
        head, _, body = answer.partition("\r\n\r\n")
        self.head = head
        return int(head.split(" ")[1]), body

    def _ask(self, port: int, request: str) -> str:
        with socket.create_connection(("127.0.0.1", port), 10) as connected:
            connected.sendall(request.encode())
            received = b""
            while data := connected.recv(65536):
                received += data
            return received.decode()

    async def test_metrics(self) -> None:
        proxy = {"remoteurl": "http://127.0.0.1:9", "maxsize": 1000}
        port = self.started({"addr": "127.0.0.1:0", "prometheus": {"enabled": True}}, proxy=proxy)
        status, body = await self.ask(port, "/metrics?a=b")
        self.assertEqual(status, 200)
        self.assertIn("\r\nContent-Type: text/plain; version=0.0.4; charset=utf-8\r\n", f"{self.head}\r\n")
        told = parsed(body)
        self.assertEqual(told["registryd_proxy_maxsize_bytes"], 1000)
        self.assertEqual(told["registryd_proxy_cached_bytes"], 0)
        self.assertEqual(told['registry_proxy_requests_total{type="blob"}'], 0)
        self.assertEqual(await self.ask(port, "/metrics", "HEAD"), (200, ""))
        self.assertEqual((await self.ask(port, "/metrics", "POST"))[0], 405)
        for path in ("/", "/metrics/", "/metrics/a", "/debug/health", "/v2/"):
            self.assertEqual((await self.ask(port, path))[0], 404, path)

    async def test_path(self) -> None:
        port = self.started({"addr": "127.0.0.1:0", "prometheus": {"enabled": True, "path": "/a/b"}})
        self.assertEqual((await self.ask(port, "/a/b"))[0], 200)
        self.assertEqual((await self.ask(port, "/metrics"))[0], 404)

    async def test_without_metrics(self) -> None:
        port = self.started({"addr": "127.0.0.1:0"})
        self.assertEqual((await self.ask(port, "/metrics"))[0], 404)

    async def test_port_is_free_again(self) -> None:
        service = self.service(http={"debug": {"addr": "127.0.0.1:0"}})
        with capturedLogs():
            service.startService()
        assert service._debug_port is not None
        port = service._debug_port.getHost().port
        await self.stop(service)
        with self.assertRaises(ConnectionRefusedError):
            await deferToThread(self._ask, port, "")

    def test_port_in_use(self) -> None:
        with socket.create_server(("127.0.0.1", 0)) as other:
            address = f"127.0.0.1:{other.getsockname()[1]}"
            service = self.service(http={"debug": {"addr": address}})
            with capturedLogs(), self.assertRaises(StartError) as caught:
                service.startService()
        self.addCleanup(service.stopService)
        self.assertEqual(str(caught.exception), f"cannot listen on {address}: Address already in use")
