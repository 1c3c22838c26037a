"""A registry as a service: the addresses it listens on, what keeps it from starting, and how it drains."""

from __future__ import annotations

import os
import re
import shutil
import socket
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from io import StringIO
from pathlib import Path
from typing import Any

import yaml
from twisted.internet import reactor as installed
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.internet.threads import deferToThread
from twisted.logger import capturedLogs
from twisted.trial.unittest import TestCase

from registryd.config import load
from registryd.daemon import RegistryService, StartError
from registryd.http.accesslog import AccessLog
from registryd.storage.filesystem import FilesystemDriver
from tests.test_streaming import ChannelCase, answer
from tests.values import Sink

reactor: Any = installed
PING = b"GET /v2/ HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n"


def exchange(connected: socket.socket, request: bytes) -> bytes:
    """What comes of a request until the end of the connection."""
    with connected:
        connected.settimeout(10)
        connected.sendall(request)
        received = b""
        while data := connected.recv(65536):
            received += data
        return received


def ping(host: str, port: int) -> bytes:
    """The status line of an answer."""
    return exchange(socket.create_connection((host, port), 10), PING).partition(b"\r\n")[0]


class ServiceCase(TestCase):
    timeout = 20

    def setUp(self) -> None:
        self.folder = tempfile.mkdtemp()
        self.addCleanup(shutil.rmtree, self.folder)
        self.services: list[RegistryService] = []
        self.addCleanup(self.stop_all)

    async def stop_all(self) -> None:
        for service in list(self.services):
            await self.stop(service)

    async def stop(self, service: RegistryService) -> None:
        with capturedLogs():
            await service.stopService()
        self.services.remove(service)

    def service(self, environ: Mapping[str, str] | None = None, /, **sections: Any) -> RegistryService:
        """A service of a configuration with a store of its own, unless that says otherwise."""
        document: dict[str, Any] = {
            "version": 0.1,
            "storage": {"filesystem": {"rootdirectory": f"{self.folder}/store"}},
            **sections,
        }
        # A test that fails leaves connections open: they are not to be waited for.
        document["http"] = {"draintimeout": "1s", **document["http"]}
        path = Path(self.folder) / "config.yml"
        path.write_text(yaml.safe_dump(document))
        return RegistryService(load(str(path), environ or {}), reactor, AccessLog(StringIO().write, Clock()))

    def start(self, service: RegistryService) -> str:
        """Where a service listens, as it tells."""
        with capturedLogs() as logged:
            service.privilegedStartService()
            service.startService()
        self.services.append(service)
        told = [event["address"] for event in logged if "listening on" in (event.get("log_format") or "")]
        self.assertEqual(len(told), 1)
        return str(told[0])

    def why_not(self, service: RegistryService) -> str:
        """The one line that tells why a service does not start."""
        with capturedLogs(), self.assertRaises(StartError) as caught:
            service.privilegedStartService()
            service.startService()
        line = str(caught.exception)
        self.assertNotIn("\n", line)
        self.addCleanup(service.stopService)
        return line


class AddressTests(ServiceCase):
    async def test_addresses(self) -> None:
        for given, host, shown in (
            ("127.0.0.1:0", "127.0.0.1", r"http://127\.0\.0\.1:(\d+)"),
            ("localhost:0", "127.0.0.1", r"http://127\.0\.0\.1:(\d+)"),
            ("0.0.0.0:0", "127.0.0.1", r"http://0\.0\.0\.0:(\d+)"),
            ("[::1]:0", "::1", r"http://\[::1\]:(\d+)"),
            (":0", "127.0.0.1", r"http://(?:\[::\]|0\.0\.0\.0):(\d+)"),
        ):
            service = self.service(http={"addr": given})
            match = re.fullmatch(shown, self.start(service))
            assert match is not None, given
            self.assertEqual(await deferToThread(ping, host, int(match[1])), b"HTTP/1.1 200 OK", given)
            await self.stop(service)

    async def test_both_protocols(self) -> None:
        if not socket.has_dualstack_ipv6():
            return
        port = int(self.start(self.service(http={"addr": ":0"})).rpartition(":")[2])
        for host in ("127.0.0.1", "::1"):
            self.assertEqual(await deferToThread(ping, host, port), b"HTTP/1.1 200 OK")

    async def test_unix_socket(self) -> None:
        path = f"{self.folder}/socket"
        self.assertEqual(self.start(self.service(http={"addr": path, "net": "unix"})), f"unix:{path}")
        connected = socket.socket(socket.AF_UNIX)
        connected.connect(path)
        self.assertTrue((await deferToThread(exchange, connected, PING)).startswith(b"HTTP/1.1 200 OK\r\n"))

    async def test_unix_socket_that_was_left_behind(self) -> None:
        path = f"{self.folder}/socket"
        with socket.socket(socket.AF_UNIX) as left:
            left.bind(path)
        dead = subprocess.Popen(["true"])
        dead.wait()
        # As Twisted names the process that listens.
        os.symlink(str(dead.pid), f"{path}.lock")
        self.start(self.service(http={"addr": path, "net": "unix"}))

    async def test_port_is_free_again(self) -> None:
        service = self.service(http={"addr": "127.0.0.1:0"})
        port = int(self.start(service).rpartition(":")[2])
        await self.stop(service)
        with self.assertRaises(ConnectionRefusedError):
            await deferToThread(ping, "127.0.0.1", port)


class RefusalTests(ServiceCase):
    def test_port_in_use(self) -> None:
        with socket.create_server(("127.0.0.1", 0)) as other:
            address = f"127.0.0.1:{other.getsockname()[1]}"
            line = self.why_not(self.service(http={"addr": address}))
        self.assertEqual(line, f"cannot listen on {address}: Address already in use")

    def test_unknown_host(self) -> None:
        self.assertIn("no-such-host.invalid", self.why_not(self.service(http={"addr": "no-such-host.invalid:0"})))

    def test_no_address_and_no_socket_from_systemd(self) -> None:
        # What systemd has told another process, whose environment this one inherited.
        service = self.service({"LISTEN_FDS": "1"}, http={})
        self.assertIn("http.addr: missing", self.why_not(service))

    def test_unix_socket_that_cannot_be(self) -> None:
        path = f"{self.folder}/missing/socket"
        self.assertIn(f"cannot listen on {path}: ", self.why_not(self.service(http={"addr": path, "net": "unix"})))

    def test_certificate_that_is_missing(self) -> None:
        tls = {"certificate": f"{self.folder}/c.pem", "key": f"{self.folder}/k.pem"}
        line = self.why_not(self.service(http={"addr": "127.0.0.1:0", "tls": tls}))
        self.assertEqual(line, f"{self.folder}/c.pem: No such file or directory")

    def test_driver_that_is_not_supported(self) -> None:
        storage = {"s3": {"bucket": "b", "region": "r"}}
        with self.assertRaises(StartError) as caught:
            self.service(http={"addr": "127.0.0.1:0"}, storage=storage)
        self.assertIn("s3: this storage driver is not supported", str(caught.exception))

    def test_store_that_an_offline_collector_holds(self) -> None:
        collector = FilesystemDriver(f"{self.folder}/store")
        collector.lock(True)
        self.addCleanup(collector.close)
        line = self.why_not(self.service(http={"addr": "127.0.0.1:0"}))
        self.assertEqual(line, f"{self.folder}/store: an offline collector holds this store")

    async def test_store_is_shared_with_other_daemons_alone(self) -> None:
        services = [self.service(http={"addr": "127.0.0.1:0"}) for _ in range(2)]
        for service in services:
            self.start(service)
        collector = FilesystemDriver(f"{self.folder}/store")
        for service in services:
            with self.assertRaises(BlockingIOError):
                collector.lock(True)
            await self.stop(service)
        collector.lock(True)
        collector.close()

    def test_store_that_cannot_be_written(self) -> None:
        Path(f"{self.folder}/store").write_bytes(b"a file")
        line = self.why_not(self.service(http={"addr": "127.0.0.1:0"}))
        self.assertIn(f"{self.folder}/store: the store cannot be written: ", line)


class DrainTests(ServiceCase):
    """Over real connections."""

    def connect(self, address: str) -> socket.socket:
        connected = socket.create_connection(("127.0.0.1", int(address.rpartition(":")[2])), 10)
        self.addCleanup(connected.close)
        return connected

    async def begin(self, connected: socket.socket) -> None:
        """Have a request under way that lacks its body, ``abc``."""
        digest = "sha256:ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
        target = f"/v2/a/blobs/uploads/?digest={digest}"
        head = f"POST {target} HTTP/1.1\r\nHost: h\r\nContent-Length: 3\r\nExpect: 100-continue\r\n\r\n"
        connected.sendall(head.encode())
        self.assertIn(b"100 Continue", await deferToThread(connected.recv, 65536))

    async def test_what_is_under_way_is_finished(self) -> None:
        service = self.service(http={"addr": "127.0.0.1:0", "draintimeout": "15s"})
        address = self.start(service)
        idle, busy = self.connect(address), self.connect(address)
        idle.sendall(PING.replace(b"Connection: close\r\n", b""))
        await deferToThread(idle.recv, 65536)
        await self.begin(busy)
        stopped: Deferred[None] = Deferred.fromCoroutine(self.stop(service))
        self.addCleanup(lambda: stopped)
        self.assertEqual(await deferToThread(idle.recv, 1), b"")
        self.assertFalse(stopped.called)
        with self.assertRaises(ConnectionRefusedError):
            self.connect(address)
        answered = await deferToThread(exchange, busy, b"abc")
        self.assertTrue(answered.startswith(b"HTTP/1.1 201 Created\r\n"), answered)
        await stopped

    async def test_what_takes_longer_is_broken_off(self) -> None:
        service = self.service(http={"addr": "127.0.0.1:0", "draintimeout": "200ms"})
        busy = self.connect(self.start(service))
        await self.begin(busy)
        started = reactor.seconds()
        await self.stop(service)
        self.assertLess(reactor.seconds() - started, 5)
        with self.assertRaises(ConnectionResetError):
            while await deferToThread(busy.recv, 65536):
                pass
            raise ConnectionResetError


class SiteDrainTests(ChannelCase):
    """By the clock."""

    def test_idle_connections_are_closed_at_once(self) -> None:
        drained = self.site.drain(10)
        self.assertTrue(self.closed)
        self.assertNoResult(drained)
        self.lose()
        self.clock.advance(0.1)
        self.successResultOf(drained)

    def test_without_connections(self) -> None:
        self.lose()
        self.successResultOf(self.site.drain(10))

    def test_busy_connections_are_waited_for(self) -> None:
        request = self.put(b"Content-Length: 3")
        drained = self.site.drain(10)
        self.clock.pump([0.1] * 50)
        self.assertEqual((self.closed, self.transport.disconnected), (False, False))
        sink = Sink()
        request.body.deliver_to(sink)
        self.send(b"abc")
        answer(request)
        self.assertTrue(self.closed)
        self.assertIn(b"Connection: close\r\n", self.transport.value())
        self.lose()
        self.clock.advance(0.1)
        self.successResultOf(drained)

    def test_busy_connections_are_broken_off_in_the_end(self) -> None:
        self.put(b"Content-Length: 3")
        drained = self.site.drain(10)
        self.clock.pump([0.1] * 98)
        self.assertNoResult(drained)
        self.clock.pump([0.1] * 4)
        self.assertTrue(self.transport.disconnected)
        self.successResultOf(drained)

    def test_without_time(self) -> None:
        self.put(b"Content-Length: 3")
        self.successResultOf(self.site.drain(0))
        self.assertTrue(self.transport.disconnected)


class SystemdTests(ServiceCase):
    """Sockets that systemd hands over. Source: sd_listen_fds(3)."""

    # The pid is that of the process that is started, which becomes the daemon.
    SCRIPT = """
import os, sys
os.dup2(int(sys.argv[1]), 3)
os.environ.update(LISTEN_FDS="1", LISTEN_FDNAMES="registryd.socket", LISTEN_PID=str(os.getpid()))
os.execv(sys.executable, [sys.executable, "-m", "registryd", "serve", sys.argv[2]])
"""

    def run_with(self, listening: socket.socket) -> subprocess.Popen[bytes]:
        path = Path(self.folder) / "config.yml"
        storage = {"filesystem": {"rootdirectory": f"{self.folder}/store"}}
        path.write_text(yaml.safe_dump({"version": 0.1, "storage": storage, "http": {"draintimeout": "1s"}}))
        number = listening.fileno()
        root = str(Path(__file__).parents[1])
        process = subprocess.Popen(
            [sys.executable, "-c", self.SCRIPT, str(number), str(path)],
            pass_fds=[number],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": root},
        )
        self.addCleanup(process.wait)
        self.addCleanup(process.kill)
        return process

    def listening_on(self, process: subprocess.Popen[bytes]) -> str:
        assert process.stderr is not None
        said = b""
        for line in process.stderr:
            said += line
            if b"listening on" in line:
                return line.decode()
        raise AssertionError(said)

    def end(self, process: subprocess.Popen[bytes]) -> None:
        process.terminate()
        assert process.stderr is not None
        said = process.stderr.read().decode()
        process.stderr.close()
        self.assertEqual(process.wait(10), 0, said)

    def test_tcp(self) -> None:
        with socket.create_server(("127.0.0.1", 0)) as listening:
            host, port = listening.getsockname()
            process = self.run_with(listening)
            self.assertIn(f"listening on http://127.0.0.1:{port}", self.listening_on(process))
            self.assertEqual(ping(host, port), b"HTTP/1.1 200 OK")
            self.end(process)

    def test_unix(self) -> None:
        path = f"{self.folder}/socket"
        with socket.socket(socket.AF_UNIX) as listening:
            listening.bind(path)
            listening.listen()
            process = self.run_with(listening)
            self.assertIn("listening on unix:", self.listening_on(process))
            connected = socket.socket(socket.AF_UNIX)
            connected.connect(path)
            self.assertTrue(exchange(connected, PING).startswith(b"HTTP/1.1 200 OK\r\n"))
            self.end(process)
