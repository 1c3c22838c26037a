"""The collector beside the daemon: when it runs, what becomes of its report, and how it ends."""

from __future__ import annotations

import json
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from io import StringIO
from pathlib import Path
from typing import Any

import attrs
import yaml
from twisted.internet import reactor as installed
from twisted.internet.defer import Deferred
from twisted.internet.error import ProcessDone, ProcessExitedAlready, ProcessTerminated
from twisted.internet.protocol import ProcessProtocol
from twisted.internet.task import Clock, deferLater
from twisted.logger import LogLevel, capturedLogs, formatEvent
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase, TestCase

from registryd.child import MOST_OUTPUT, Child, Ended
from registryd.collection import PAUSE, STOP_PATIENCE, CollectorProcess, UnboundedSpace
from registryd.config import Config, load
from registryd.daemon import RegistryService
from registryd.http.accesslog import AccessLog
from registryd.reference import Digest, RepositoryName
from registryd.report import Damage, Report, Run
from registryd.storage import layout
from registryd.storage.filesystem import FilesystemDriver
from tests.daemon import PATIENCE, Daemon

reactor: Any = installed
HOUR = 3600.0
MIRROR = {"remoteurl": "https://upstream.example"}
DAMAGE = {"kind": "digest", "path": "blobs/sha256/ab/abcd/data", "detail": "other bytes", "repaired": False}


def config(folder: str, environ: Mapping[str, str] | None = None, **sections: Any) -> Config:
    document = {"version": 0.1, "storage": {"filesystem": {"rootdirectory": f"{folder}/store"}}, **sections}
    path = Path(folder) / "config.yml"
    path.write_text(yaml.safe_dump({"http": {"addr": "127.0.0.1:0"}, **document}))
    return load(str(path), environ or {})


def report(mirror: int = 0, freed: int = 0, damage: Sequence[object] = (), **more: Any) -> bytes:
    """A document as the collector writes it."""
    blobs = {"kept": 5, "removed": 1 if freed else 0, "kept_bytes": 5000, "removed_bytes": freed, "young_bytes": 7}
    document = {"seconds": 1.25, "blobs": blobs, "mirror": {"bytes": mirror}, "damage": list(damage), **more}
    return json.dumps(document).encode()


@attrs.define
class Process:
    """A process that the test plays."""

    protocol: ProcessProtocol
    arguments: list[str]
    folder: str | None
    signals: list[str] = attrs.field(factory=list)
    gone: bool = False
    pid: int | None = None

    def closeStdin(self) -> None:
        pass

    def signalProcess(self, name: str) -> None:
        if self.gone:
            raise ProcessExitedAlready
        self.signals.append(name)

    @property
    def options(self) -> list[str]:
        """What it was started with beside what every run is."""
        return [word for word in self.arguments[1:-1] if word not in ("--json", "--quiet")]

    def end(self, code: int | None = 0, out: bytes = b"", err: bytes = b"") -> None:
        self.gone = True
        self.protocol.childDataReceived(1, out)
        self.protocol.childDataReceived(2, err)
        done = code == 0
        reason = ProcessDone(0) if done else ProcessTerminated(code, 9 if code is None else None)
        self.protocol.processEnded(Failure(reason))


class Processes(Clock):
    """A clock whose processes do nothing by themselves."""

    def __init__(self) -> None:
        super().__init__()
        self.started: list[Process] = []
        self.refuses = False

    def spawnProcess(
        self, protocol: Any, executable: str, arguments: list[str], env: object, path: str | None
    ) -> Process:
        if self.refuses:
            raise BlockingIOError(11, "Resource temporarily unavailable")
        assert env is None, "the daemon's environment"
        process = Process(protocol, arguments, path)
        self.started.append(process)
        protocol.makeConnection(process)
        return process

    @property
    def running(self) -> Process:
        """The one that runs."""
        (process,) = (process for process in self.started if not process.gone)
        return process


class PlayedCase(SynchronousTestCase):
    def setUp(self) -> None:
        self.folder = tempfile.mkdtemp()
        self.addCleanup(shutil.rmtree, self.folder)
        self.clock = Processes()
        self.runs: list[Run] = []

    def collector(self, **sections: Any) -> CollectorProcess:
        self.config = config(self.folder, **sections)
        return CollectorProcess(self.config, self.clock, self.runs.append, ["collector"], lambda: 1e9)

    def started(self, **sections: Any) -> CollectorProcess:
        collector = self.collector(**sections)
        collector.start()
        return collector

    def run_all(self, seconds: float, out: bytes = report()) -> list[list[str]]:
        """The options of all that run within some seconds, where each ends at once."""
        before = len(self.clock.started)
        steps = 200
        for _ in range(steps):
            self.clock.advance(seconds / steps)
            for process in self.clock.started:
                if not process.gone:
                    process.end(0, out)
        return [process.options for process in self.clock.started[before:]]

    def logged(self, level: LogLevel, process: Process, *ending: Any) -> str:
        """The one line of a level that is logged when a process ends."""
        with capturedLogs() as events:
            process.end(*ending)
        (line,) = (formatEvent(event) for event in events if event["log_level"] is level)
        return line


class ScheduleTests(PlayedCase):
    def test_nothing_to_do(self) -> None:
        self.started()
        self.started(proxy={**MIRROR, "ttl": "0s"})
        self.assertEqual(self.run_all(100 * HOUR), [])

    def test_interval(self) -> None:
        self.started(gc={"interval": "24h"})
        self.assertEqual(self.run_all(HOUR + 1), [[]])
        self.assertEqual(self.run_all(72 * HOUR), [[], [], []])

    def test_short_interval(self) -> None:
        self.started(gc={"interval": "10m"})
        self.assertEqual(self.run_all(601), [[]])

    def test_daemons_that_start_at_once_do_not_collect_at_once(self) -> None:
        for _ in range(8):
            self.started(gc={"interval": "24h"})
        self.assertGreater(len({call.getTime() for call in self.clock.getDelayedCalls()}), 6)

    def test_what_is_run(self) -> None:
        self.started(gc={"interval": "1m"})
        self.clock.advance(61)
        process = self.clock.running
        self.assertEqual(process.arguments, ["collector", "--json", "--quiet", f"{self.folder}/config.yml"])
        self.assertEqual(process.folder, None)

    def test_built_in_configuration(self) -> None:
        built_in = load(None, {"REGISTRY_GC_INTERVAL": "1m"})
        CollectorProcess(built_in, self.clock, command=["collector"]).start()
        self.clock.advance(61)
        self.assertEqual(self.clock.running.arguments, ["collector", "--json", "--quiet"])

    def test_daemon_that_works_in_another_folder_later(self) -> None:
        self.started(gc={"interval": "1m"})
        here = os.getcwd()
        self.addCleanup(os.chdir, here)
        os.chdir(self.folder)
        self.clock.advance(61)
        self.assertEqual(self.clock.running.folder, here)

    def test_one_at_a_time(self) -> None:
        self.started(gc={"interval": "1m"})
        self.clock.pump([30.0] * 20)
        self.assertEqual(len(self.clock.started), 1)
        self.clock.running.end(0, report())
        self.clock.pump([30.0] * 3)
        self.assertEqual(len(self.clock.started), 2)

    def test_expired_content(self) -> None:
        for proxy, interval in (
            ({**MIRROR}, HOUR),
            ({**MIRROR, "ttl": "5h"}, HOUR / 2),
            ({**MIRROR, "ttl": "1s"}, 10.0),
            ({**MIRROR, "ttl": "0s", "maxsize": "1GB"}, HOUR),
            ({"upstreams": {"a.example": {**MIRROR, "ttl": "5h"}, "b.example": MIRROR}, "ttl": "0s"}, HOUR / 2),
        ):
            self.clock = Processes()
            self.started(proxy=proxy)
            self.assertEqual(self.run_all(min(61.0, interval)), [["--expired-only"]], proxy)
            self.assertEqual(self.run_all(10 * interval), [["--expired-only"]] * 10, proxy)

    def test_full_run_is_one_for_expired_content_too(self) -> None:
        collector = self.started(gc={"interval": "1h"}, proxy=MIRROR)
        collector.make_room()
        self.clock.pump([30.0] * 130)
        self.clock.running.end(0, report(freed=1))
        self.assertEqual(self.clock.running.options, [])
        self.clock.running.end(0, report())
        self.assertEqual(len(self.clock.started), 2)


class LimitTests(PlayedCase):
    """``proxy.maxsize`` is 1000 bytes."""

    def limited(self) -> CollectorProcess:
        return self.collector(proxy={**MIRROR, "maxsize": 1000})

    def test_below(self) -> None:
        self.limited().came(1000)
        self.assertEqual(self.clock.started, [])

    def test_without_limit(self) -> None:
        self.collector(proxy=MIRROR).came(1 << 60)
        self.assertEqual(self.clock.started, [])

    def test_passed(self) -> None:
        collector = self.limited()
        collector.came(1000)
        collector.came(1)
        self.assertEqual(self.clock.running.options, ["--expired-only"])
        self.clock.running.end(0, report(mirror=900))
        self.assertEqual(collector.cached_bytes(), 900)
        collector.came(100)
        self.assertEqual(len(self.clock.started), 1)
        collector.came(1)
        self.assertEqual(len(self.clock.started), 2)

    def test_what_comes_meanwhile_counts(self) -> None:
        collector = self.limited()
        collector.came(1001)
        collector.came(101)
        self.assertEqual(len(self.clock.started), 1)
        self.clock.running.end(0, report(mirror=900))
        self.assertEqual(collector.cached_bytes(), 1001)
        self.assertEqual(self.clock.running.options, ["--expired-only"])

    def test_nothing_can_go(self) -> None:
        collector = self.limited()
        collector.came(1536)
        line = self.logged(LogLevel.warn, self.clock.running, 0, report(mirror=1536))
        self.assertIn("mirrored content takes 1.5 KiB, beyond proxy.maxsize (1000 B)", line)
        collector.came(1)
        self.clock.advance(PAUSE - 1)
        self.assertEqual(len(self.clock.started), 1)
        self.clock.advance(1)
        with capturedLogs() as events:
            self.clock.running.end(0, report(mirror=1537))
        self.assertEqual([event for event in events if event["log_level"] is LogLevel.warn], [], "told once")
        self.clock.advance(PAUSE)
        self.clock.running.end(0, report(mirror=900))
        collector.came(101)
        self.assertEqual(len(self.clock.started), 4)

    def test_failures_are_not_repeated_at_once(self) -> None:
        collector = self.limited()
        collector.came(1536)
        with capturedLogs():
            self.clock.running.end(1, b"", b"no such folder")
        collector.came(1)
        self.clock.advance(PAUSE - 1)
        self.assertEqual(len(self.clock.started), 1)
        self.clock.advance(1)
        self.assertEqual(len(self.clock.started), 2)

    def test_full_run_counts(self) -> None:
        collector = self.started(gc={"interval": "1m"}, proxy={**MIRROR, "maxsize": 1000, "ttl": "0s"})
        self.clock.advance(61)
        self.clock.running.end(0, report(mirror=990))
        while any(not process.gone for process in self.clock.started):
            self.clock.running.end(0, report(mirror=990))
        before = len(self.clock.started)
        collector.came(11)
        self.assertEqual(len(self.clock.started), before + 1)


class RoomTests(PlayedCase):
    def test_shared(self) -> None:
        collector = self.collector(proxy=MIRROR)
        rooms = [collector.make_room() for _ in range(3)]
        self.assertEqual(self.clock.running.options, ["--expired-only", "--evict"])
        for room in rooms:
            self.assertNoResult(room)
        self.clock.running.end(0, report(freed=10))
        self.assertEqual([self.successResultOf(room) for room in rooms], [True] * 3)
        self.assertEqual(len(self.clock.started), 1)

    def test_nothing_was_freed(self) -> None:
        room = self.collector(proxy=MIRROR).make_room()
        self.clock.running.end(0, report(freed=0))
        self.assertEqual(self.successResultOf(room), False)

    def test_failed(self) -> None:
        for ending in ((1, b"", b"x: another collector is running\n"), (1,), (None,), (0, b"nonsense")):
            room = self.collector(proxy=MIRROR).make_room()
            with capturedLogs():
                self.clock.running.end(*ending)
            self.assertEqual(self.successResultOf(room), False, ending)

    def test_no_process_can_be_started(self) -> None:
        self.clock.refuses = True
        with capturedLogs() as events:
            room = self.collector(proxy=MIRROR).make_room()
        self.assertEqual(self.successResultOf(room), False)
        self.assertIn("cannot be started: Resource temporarily unavailable", formatEvent(events[0]))
        self.assertEqual([run.outcome for run in self.runs], ["failed"])

    def test_run_that_was_under_way_helps(self) -> None:
        collector = self.started(gc={"interval": "1m"}, proxy=MIRROR)
        self.clock.advance(61)
        first = self.clock.running
        room = collector.make_room()
        self.assertEqual(self.clock.running, first)
        first.end(0, report(freed=10))
        self.assertEqual(self.successResultOf(room), True)

    def test_run_that_was_under_way_does_not_help(self) -> None:
        collector = self.collector(gc={"interval": "1m"}, proxy={**MIRROR, "ttl": "0s"})
        collector.start()
        self.clock.advance(60)
        room = collector.make_room()
        self.clock.running.end(0, report(freed=0))
        self.assertNoResult(room)
        self.assertEqual(self.clock.running.options, ["--expired-only", "--evict"])
        self.clock.running.end(0, report(freed=5))
        self.assertEqual(self.successResultOf(room), True)

    def test_unbounded(self) -> None:
        space = UnboundedSpace()
        space.came(1)
        self.assertEqual(self.successResultOf(space.make_room()), False)


class OutcomeTests(PlayedCase):
    def running(self) -> Process:
        self.subject = self.collector(proxy=MIRROR)
        self.subject.make_room()
        return self.clock.running

    def test_done(self) -> None:
        manifests = {"kept": 8, "removed": 2}
        out = report(freed=1_500_000, mirror=42, manifests=manifests, repositories={"kept": 3, "removed": 0})
        line = self.logged(LogLevel.info, self.running(), 0, out)
        self.assertEqual(
            line,
            "room for mirrored content: 2 manifests, 0 tags, 1 blobs and 1.4 MiB removed;"
            " 3 repositories, 8 manifests, 5 blobs and 4.9 KiB kept; 1.2 s",
        )
        (run,) = self.runs
        self.assertEqual(run, self.subject.last)
        self.assertEqual((run.kind, run.outcome, run.ended), ("evict", "done", 1e9))
        assert run.report is not None
        self.assertEqual(run.report.removed["manifests"], 2)
        self.assertEqual((run.report.mirror_bytes, run.report.young_bytes, run.report.damage), (42, 7, ()))

    def test_damage(self) -> None:
        line = self.logged(
            LogLevel.warn, self.running(), 3, report(damage=[{**DAMAGE, "repaired": True}, DAMAGE, DAMAGE])
        )
        self.assertIn("found 2 damaged: blobs/sha256/ab/abcd/data: digest: other bytes; registryd-gc verify", line)
        (run,) = self.runs
        self.assertEqual(run.outcome, "damaged")
        assert run.report is not None
        self.assertEqual(run.report.damage[1], Damage("digest", "blobs/sha256/ab/abcd/data", "other bytes", False))

    def test_another_collector(self) -> None:
        line = self.logged(LogLevel.info, self.running(), 1, b"", b"a note\n/s: another collector is running\n\n")
        self.assertEqual(line, "room for mirrored content: not now: /s: another collector is running")
        self.assertEqual([(run.outcome, run.report) for run in self.runs], [("busy", None)])
        self.assertIs(self.subject.last, None)

    def test_failed(self) -> None:
        for ending, told in (
            ((1, b"", b"a note\nregistryd-gc: /x: no such folder\n"), "registryd-gc: /x: no such folder"),
            ((2,), "ended by exit code 2"),
            ((None,), "ended by a signal"),
            ((0, b""), "its report cannot be read"),
            ((0, b"[]"), "its report cannot be read"),
            ((0, b'{"blobs": 3}'), "its report cannot be read"),
            ((0, b'{"damage": 3}'), "its report cannot be read"),
            ((3, b" " * (MOST_OUTPUT + 1)), "its report is too long: run registryd-gc verify"),
        ):
            line = self.logged(LogLevel.error, self.running(), *ending)
            self.assertEqual(line, f"room for mirrored content: the collector failed: {told}")
            self.assertEqual(self.runs[-1].outcome, "failed")

    def test_long_output_is_not_kept(self) -> None:
        process = self.running()
        for _ in range(3):
            process.protocol.childDataReceived(1, b" " * (MOST_OUTPUT // 2))
        process.protocol.childDataReceived(1, report())
        assert isinstance(process.protocol, Child)
        self.assertLess(sum(map(len, process.protocol._output)), MOST_OUTPUT // 2)


class StopTests(PlayedCase):
    def test_nothing_runs(self) -> None:
        collector = self.started(gc={"interval": "1m"}, proxy=MIRROR)
        self.successResultOf(collector.stop())
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_intervals_end(self) -> None:
        collector = self.started(gc={"interval": "1m"}, proxy={**MIRROR, "maxsize": 10})
        self.run_all(600)
        collector.came(100)
        self.clock.running.end(0, report(mirror=100))
        collector.came(100)
        self.successResultOf(collector.stop())
        self.assertEqual(self.clock.getDelayedCalls(), [])
        collector.came(100)
        self.assertEqual(self.successResultOf(collector.make_room()), False)
        self.assertEqual([process for process in self.clock.started if not process.gone], [])

    def test_it_ends_when_asked(self) -> None:
        collector = self.collector(proxy=MIRROR)
        room = collector.make_room()
        process = self.clock.running
        stopped = collector.stop()
        self.assertEqual(process.signals, ["TERM"])
        self.assertEqual(self.successResultOf(room), False)
        self.assertNoResult(stopped)
        with capturedLogs() as events:
            process.end(None)
        self.successResultOf(stopped)
        self.assertEqual((events, self.runs, self.clock.getDelayedCalls()), ([], [], []))

    def test_it_does_not(self) -> None:
        collector = self.collector(proxy=MIRROR)
        collector.make_room()
        process = self.clock.running
        stopped = collector.stop()
        self.clock.advance(STOP_PATIENCE)
        self.assertEqual(process.signals, ["TERM", "KILL"])
        self.assertNoResult(stopped)
        self.clock.advance(5)
        self.successResultOf(stopped)
        process.end(None)
        self.assertEqual(len(self.clock.started), 1)


class ReportTests(SynchronousTestCase):
    def test_all(self) -> None:
        names = ("repositories", "manifests", "tags", "blobs")
        document: dict[str, Any] = {name: {"kept": 10 + place, "removed": place} for place, name in enumerate(names)}
        others = ("links", "history", "referrers", "uploads", "temporary", "trash")
        document |= {name: {"removed": 20 + place} for place, name in enumerate(others)}
        document["blobs"] |= {"kept_bytes": 100, "removed_bytes": 200, "young": 1, "young_bytes": 300}
        document["uploads"]["removed_bytes"] = 1000
        document["temporary"]["removed_bytes"] = 2000
        document["mirror"] = {"manifests_expired": 4, "manifests_evicted": 5, "bytes": 6}
        read = Report.parse(json.dumps({**document, "seconds": 2}).encode())
        removed = {"manifests": 1, "repositories": 0, "tags": 2, "blobs": 3}
        removed |= {name: 20 + place for place, name in enumerate(others)}
        kept = {"repositories": 10, "manifests": 11, "tags": 12, "blobs": 13}
        self.assertEqual(read, Report(2.0, kept, removed, 100, 3200, 300, 6, 9, ()))

    def test_nothing(self) -> None:
        read = Report.parse(b"{}")
        self.assertEqual((read.kept["blobs"], read.removed["trash"], read.mirror_bytes), (0, 0, 0))


class ProcessTests(TestCase):
    """With processes of the system."""

    timeout = 30

    def child(self, script: str, niceness: int = 0) -> Child:
        child = Child.start(reactor, [sys.executable, "-c", script], None, niceness)
        self.addCleanup(child.stop, 0.0)
        return child

    async def test_output_and_last_line(self) -> None:
        child = self.child("import sys; print('out'); sys.stderr.write('first\\nlast\\n\\n'); sys.exit(3)")
        self.assertEqual(await child.ended, Ended(3, b"out\n", "last"))

    async def test_input_is_empty(self) -> None:
        self.assertEqual((await self.child("import sys; print(len(sys.stdin.read()))").ended).output, b"0\n")

    async def test_niceness(self) -> None:
        # It may run before its priority is lowered.
        script = "import os, time\nwhile os.getpriority(os.PRIO_PROCESS, 0) < {}: time.sleep(0.01)\nprint('low')"
        wanted = min(os.getpriority(os.PRIO_PROCESS, 0) + 5, 19)
        child = self.child(script.format(wanted), wanted)
        self.assertEqual((await child.ended).output, b"low\n")

    async def test_signal(self) -> None:
        child = self.child("import signal; signal.pause()")
        await child.stop(20)
        self.assertEqual((await child.ended).exit_code, None)

    async def test_process_that_does_not_end(self) -> None:
        script = "import signal; signal.signal(15, signal.SIG_IGN); print('deaf', flush=True)\nwhile 1: signal.pause()"
        child = self.child(script)
        while not child._output:
            await deferLater(reactor, 0.01)
        started = reactor.seconds()
        await child.stop(0.1)
        self.assertLess(reactor.seconds() - started, 5)
        self.assertEqual((await child.ended).exit_code, None)

    async def test_program_that_is_not_there(self) -> None:
        folder = tempfile.mkdtemp()
        self.addCleanup(shutil.rmtree, folder)
        collector = CollectorProcess(config(folder, proxy=MIRROR), reactor, command=["/nonexistent/collector"])
        with capturedLogs() as events:
            self.assertEqual(await collector.make_room(), False)
        self.assertIn("the collector failed: ", formatEvent(events[0]))


class CollectorTests(TestCase):
    """The collector itself, on a small tree."""

    timeout = 60

    def setUp(self) -> None:
        if find_spec("registryd_gc.__main__") is None:
            self.skipTest("the collector is not installed")
        self.folder = tempfile.mkdtemp()
        self.addCleanup(shutil.rmtree, self.folder)
        self.driver = FilesystemDriver(f"{self.folder}/store")
        self.addCleanup(self.driver.close)
        self.runs: list[Run] = []
        self.ran: Deferred[Run] = Deferred()

    def collector(self, **sections: Any) -> CollectorProcess:
        environ = {"PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
        before = {name: os.environ.get(name) for name in environ}
        os.environ.update(environ)
        self.addCleanup(lambda: [_restore(name, value) for name, value in before.items()])
        found = config(self.folder, gc={"grace": "1h", "interval": "10ms"}, **sections)
        collector = CollectorProcess(found, reactor, self.observe)
        self.addCleanup(collector.stop)
        return collector

    def observe(self, run: Run) -> None:
        if not self.ran.called:
            self.ran.callback(run)

    def blob(self, content: bytes, age: float) -> str:
        """The path of a blob that nothing needs."""
        path = layout.blob_data(Digest.of(content))
        self.driver.put_content(path, content)
        place = f"{self.folder}/store{path}"
        time = os.stat(place).st_mtime - age
        os.utime(place, (time, time))
        return place

    async def first_run(self, **sections: Any) -> Run:
        collector = self.collector(**sections)
        collector.start()
        run = await self.ran
        await collector.stop()
        return run

    async def test_collects(self) -> None:
        old, young = self.blob(b"old", 2 * HOUR), self.blob(b"young", 0)
        self.driver.put_content(layout.layer_link(RepositoryName("a"), Digest.of(b"young")), b"")
        run = await self.first_run()
        self.assertEqual((run.kind, run.outcome), ("full", "done"))
        assert run.report is not None
        self.assertEqual(run.report.removed["blobs"], 1)
        self.assertEqual((run.report.removed_bytes, run.report.young_bytes), (3, 5))
        self.assertEqual((os.path.exists(old), os.path.exists(young)), (False, True))

    async def test_another_collector(self) -> None:
        writer = self.driver.writer(f"{layout.TRASH}.lock", True)
        self.addCleanup(writer.close)
        run = await self.first_run()
        self.assertEqual(run.outcome, "busy")

    def cached(self, content: bytes, age: float) -> list[str]:
        """The paths of a blob, and of its link in a mirrored repository."""
        name, digest = RepositoryName("mirrored/app"), Digest.of(content)
        self.driver.put_content(layout.mirror(name), b"upstream.example")
        link = layout.layer_link(name, digest)
        self.driver.put_content(link, str(digest).encode())
        place = f"{self.folder}/store{link}"
        time = os.stat(place).st_mtime - age
        os.utime(place, (time, time))
        return [self.blob(content, age), place]

    async def test_make_room(self) -> None:
        old, lately = self.cached(b"o" * 3000, 3 * HOUR), self.cached(b"l" * 1000, HOUR)
        collector = self.collector(proxy=MIRROR)
        self.assertEqual(await collector.make_room(), True)
        self.assertEqual([os.path.exists(place) for place in (*old, *lately)], [False, False, True, True])
        self.assertEqual(collector.cached_bytes(), 1000)

    async def test_beyond_the_limit(self) -> None:
        self.cached(b"o" * 3000, 3 * HOUR)
        self.cached(b"l" * 1000, HOUR)
        collector = self.collector(proxy={**MIRROR, "maxsize": 3500})
        collector.came(3501)
        run = await self.ran
        self.assertEqual((run.kind, collector.cached_bytes()), ("expired", 1000))

    async def test_make_room_where_nothing_is_mirrored(self) -> None:
        old = self.blob(b"old", 2 * HOUR)
        self.assertEqual(await self.collector(proxy=MIRROR).make_room(), False)
        self.assertTrue(os.path.exists(old))
        self.assertEqual((await self.ran).outcome, "done")


class UncollectableTests(TestCase):
    timeout = 20

    async def test_told_at_the_start(self) -> None:
        folder = tempfile.mkdtemp()
        self.addCleanup(shutil.rmtree, folder)
        for storage in (
            "inmemory",
            {"inmemory": None, "maintenance": {"readonly": {"enabled": True}}},
            {"filesystem": {"rootdirectory": f"{folder}/store"}, "maintenance": {"readonly": {"enabled": True}}},
        ):
            loaded = config(folder, storage=storage, gc={"interval": "1h"})
            service = RegistryService(loaded, reactor, AccessLog(StringIO().write, Clock()))
            with capturedLogs() as events:
                service.startService()
            lines = [formatEvent(event) for event in events if event["log_level"] is LogLevel.warn]
            with capturedLogs():
                await service.stopService()
            self.assertEqual(
                lines, [f"{folder}/config.yml: gc.interval: what is read-only or in memory is not collected"]
            )


class DaemonTests(SynchronousTestCase):
    """A daemon whose collector is another: one that goes on until it is ended."""

    PROGRAM = """
import os, signal, sys
with open(os.environ["SAID"] + ".new", "w") as file:
    file.write(" ".join([str(os.getpid()), *sys.argv[1:]]))
os.rename(file.name, os.environ["SAID"])
signal.pause()
"""

    def test_the_process_ends_with_the_daemon(self) -> None:
        folder = tempfile.mkdtemp()
        self.addCleanup(shutil.rmtree, folder)
        package = Path(folder) / "registryd_gc"
        package.mkdir()
        (package / "__init__.py").write_text("")
        (package / "__main__.py").write_text(self.PROGRAM)
        said = Path(folder) / "said"
        env = {"SAID": str(said), "PYTHONPATH": os.pathsep.join([folder, *filter(None, sys.path)])}
        with Daemon(gc={"interval": "10ms"}, env=env) as daemon:
            deadline = time.monotonic() + PATIENCE
            while not said.exists():
                self.assertLess(time.monotonic(), deadline, daemon.stderr)
                time.sleep(0.01)
            pid, *arguments = said.read_text().split()
            self.assertEqual(arguments, ["--json", "--quiet", str(daemon.config_files[0])])
            started = time.monotonic()
            daemon.terminate()
        self.assertLess(time.monotonic() - started, STOP_PATIENCE)
        with self.assertRaises(ProcessLookupError):
            os.kill(int(pid), 0)


def _restore(name: str, value: str | None) -> None:
    if value is None:
        os.environ.pop(name, None)
    else:
        os.environ[name] = value
