"""A mirror whose process, client or disk fails in the middle of a fetch."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from tests.clients.distribution import Distribution
from tests.clients.images import assert_whole, image, push, root_tar
from tests.clients.mirroring import HUB, mirror
from tests.clients.programs import wait_until
from tests.clients.v2 import V2, digest_of
from tests.daemon import Daemon
from tests.upstream.process import HostileProcess

from .flight import Flight
from .test_full_disk import MIB, disk, fill

__all__ = ["disk"]

NAME = "team/app"
LAYER = os.urandom(3 * MIB)
DIGEST = digest_of(LAYER)
PATH = f"/v2/{NAME}/blobs/{DIGEST}"


@pytest.fixture
def hostile() -> Iterator[HostileProcess]:
    with HostileProcess() as running:
        running.image(NAME, "1", LAYER)
        yield running


def settings(hostile: HostileProcess) -> dict[str, dict[str, str]]:
    return {HUB: {"remoteurl": hostile.url}}


def stored(daemon: Daemon) -> int:
    """How many bytes of a blob on its way are stored."""
    sizes = [path.stat().st_size for path in (daemon.tree / "repositories").glob("**/_uploads/*/data")]
    return max(sizes, default=0)


def blob_file(daemon: Daemon) -> Path:
    value = DIGEST.partition(":")[2]
    return daemon.tree / "blobs" / "sha256" / value[:2] / value / "data"


def ranges(hostile: HostileProcess) -> list[str | None]:
    """The Range of each GET of a blob that the upstream was sent."""
    asked = [request for request in hostile.requests if request["method"] == "GET" and "/blobs/" in request["path"]]
    return [request["headers"].get("range") for request in asked]


@pytest.mark.parametrize("ending", ["kill", "terminate"])
def test_fetch_goes_on_after_a_restart(hostile: HostileProcess, ending: str) -> None:
    """Nothing that has come is fetched again, whether the process was killed or stopped in good order."""
    hostile.switch(stall_after=MIB, stall_times=1)
    with mirror(settings(hostile), default=HUB, freshness="0s") as daemon:
        # A stop in good order waits for clients; this one is none to wait for long.
        daemon.configure(http={"draintimeout": "100ms"})
        daemon.restart()
        with Flight(daemon.port, "GET", PATH) as flight:
            assert flight.response().read(MIB // 2) == LAYER[: MIB // 2]
            wait_until(lambda: stored(daemon) == MIB, 10, "the first part is stored")
            getattr(daemon, ending)()
        daemon.start()
        assert V2("127.0.0.1", daemon.port).blob(NAME, DIGEST).expect(200).body == LAYER
        assert ranges(hostile) == [None, f"bytes={MIB}-"]
        # A client has all as soon as it is verified, before it is durable.
        wait_until(lambda: stored(daemon) == 0, 10, "the session has become a blob")


def test_other_daemon_goes_on_with_the_fetch_of_a_killed_one(hostile: HostileProcess, tmp_path: Path) -> None:
    hostile.switch(stall_after=MIB, stall_times=1)
    store = tmp_path / "store"
    with mirror(settings(hostile), store, default=HUB) as first, mirror(settings(hostile), store, default=HUB) as other:
        bodies: list[bytes] = []
        with Flight(first.port, "GET", PATH) as flight:
            flight.response().read(1)
            wait_until(lambda: stored(first) == MIB, 10, "the first part is stored")
            session = V2("127.0.0.1", other.port)
            follower = threading.Thread(target=lambda: bodies.append(session.blob(NAME, DIGEST).expect(200).body))
            follower.start()
            first.kill()
            follower.join(30)
        assert bodies == [LAYER]
        assert ranges(hostile) == [None, f"bytes={MIB}-"]


def test_client_that_leaves_does_not_end_the_fetch(hostile: HostileProcess) -> None:
    hostile.switch(drip=0.02)
    with mirror(settings(hostile), default=HUB) as daemon:
        with Flight(daemon.port, "GET", PATH) as flight:
            assert flight.response().read(1) == LAYER[:1]
            assert not blob_file(daemon).exists()
        wait_until(blob_file(daemon).exists, 20, "all is stored")
        assert V2("127.0.0.1", daemon.port).blob(NAME, DIGEST).expect(200).body == LAYER
        assert ranges(hostile) == [None]


def test_client_that_dawdles_does_not_hold_up_others(hostile: HostileProcess) -> None:
    hostile.switch(drip=0.005)
    with (
        mirror(settings(hostile), default=HUB) as daemon,
        Flight(daemon.port, "GET", PATH, receive_buffer=4096) as slow,
    ):
        response = slow.response()
        assert V2("127.0.0.1", daemon.port).blob(NAME, DIGEST).expect(200).body == LAYER
        wait_until(blob_file(daemon).exists, 20, "all is stored")
        assert response.read() == LAYER
        assert ranges(hostile) == [None]


def test_wrong_content_is_never_a_clean_answer(hostile: HostileProcess) -> None:
    """Of a blob that comes slowly and fits into the socket's buffer: nothing but the daemon keeps its end back."""
    content = os.urandom(200_000)
    _, (digest,) = hostile.image(NAME, "2", content)
    hostile.switch(corrupt_blobs=True, drip=0.05)
    with mirror(settings(hostile), default=HUB) as daemon:
        with Flight(daemon.port, "GET", f"/v2/{NAME}/blobs/{digest}") as flight:
            response = flight.response()
            received = b""
            with suppress(OSError):
                while part := response.read1(MIB):
                    received += part
            assert len(received) < len(content)
        daemon.err.wait_for("the upstream sent other content")
        hostile.switch(corrupt_blobs=False)
        assert V2("127.0.0.1", daemon.port).blob(NAME, str(digest)).expect(200).body == content


def test_wrong_bytes_on_the_disk_are_fetched_again(hostile: HostileProcess) -> None:
    with mirror(settings(hostile), default=HUB) as daemon:
        assert V2("127.0.0.1", daemon.port).blob(NAME, DIGEST).expect(200).body == LAYER
        wait_until(blob_file(daemon).exists, 10, "it is a blob")
        with blob_file(daemon).open("r+b") as content:
            content.seek(MIB)
            content.write(bytes(byte ^ 1 for byte in LAYER[MIB : MIB + 100]))
        daemon.restart()
        assert V2("127.0.0.1", daemon.port).blob(NAME, DIGEST).expect(200).body != LAYER
        daemon.err.wait_for(f"{DIGEST} is damaged on the disk")
        assert V2("127.0.0.1", daemon.port).blob(NAME, DIGEST).expect(200).body == LAYER
        wait_until(lambda: blob_file(daemon).read_bytes() == LAYER, 10, "it is mended")
        assert ranges(hostile) == [None, None]


@pytest.mark.parametrize("leave", [None, 5 * MIB, 0], ids=["too small", "nearly full", "full"])
def test_full_disk_streams_through(disk: Path, tmp_path: Path, leave: int | None) -> None:
    """A disk of 16 MiB, and a blob that is larger; what was taken of it is given back."""
    content = os.urandom(24 * MIB)
    subject = image([root_tar("small", busybox=False)])
    with Distribution(tmp_path / "origin", tmp_path / "run") as origin:
        digest = origin.connect().push_blob(NAME, content)
        push(origin.connect(), NAME, "1", subject)
        with mirror({HUB: {"remoteurl": f"http://{origin.address}"}}, disk / "store", default=HUB) as daemon:
            filler = fill(disk, leave) if leave is not None else None
            free = os.statvfs(disk).f_bavail
            session = V2("127.0.0.1", daemon.port)
            assert session.blob(NAME, digest).expect(200).body == content
            assert session.blob(NAME, digest).expect(200).body == content
            assert_whole(session, NAME, "1", subject)
            room = os.statvfs(disk)
            assert (free - room.f_bavail) * room.f_frsize < MIB
            assert "Traceback" not in daemon.stderr
            if filler is not None:
                filler.unlink()
            daemon.restart()
            assert_whole(V2("127.0.0.1", daemon.port), NAME, "1", subject)
        origin.stop()
