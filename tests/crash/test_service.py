"""How the daemon starts, refuses to start, and ends; by ``registryd serve`` and by twistd."""

from __future__ import annotations

import os
import signal
import socket
import time
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

import pytest

from tests.clients.programs import Outcome, program, run, wait_until
from tests.clients.v2 import V2, digest_of, with_digest
from tests.daemon import SERVE, TWISTD, Daemon, DaemonFailedError

from .flight import Flight

BOTH = pytest.mark.parametrize("command", [SERVE, TWISTD], ids=["serve", "twistd"])
SOON = 8.0
"""Seconds within which an end is at once, on a machine that is busy with other things."""


def refused(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), timeout=5).close()
    except ConnectionRefusedError:
        return True
    return False


@BOTH
def test_serves_and_ends(command: Sequence[str]) -> None:
    with Daemon(command=command) as daemon:
        V2("127.0.0.1", daemon.port).get("/v2/").expect(200)
        daemon.terminate()
        assert refused(daemon.port)
        assert "Traceback" not in daemon.stderr


@BOTH
def test_several_registries_in_one_process(command: Sequence[str]) -> None:
    with Daemon({}, {"storage": {"delete": {"enabled": True}}}, command=command) as daemon:
        first, second = (V2("127.0.0.1", int(address[1])) for address in daemon.addresses)
        digest = first.push_blob("only/first", b"content")
        first.blob("only/first", digest).expect(200)
        second.blob("only/first", digest).expect(404)
        second.ask("DELETE", f"/v2/only/first/manifests/{digest}").expect(404)
        first.ask("DELETE", f"/v2/only/first/manifests/{digest}").expect(405)


@BOTH
def test_upload_in_flight_is_finished(command: Sequence[str]) -> None:
    content = os.urandom(1 << 20)
    with Daemon(command=command, http={"draintimeout": "20s"}) as daemon:
        location = V2("127.0.0.1", daemon.port).start_upload("some")
        path = with_digest(location, digest_of(content))
        with Flight(daemon.port, "PUT", path, len(content)) as flight:
            flight.send(content[:1000])
            os.kill(daemon.pid, signal.SIGTERM)
            wait_until(lambda: refused(daemon.port), 5, "new connections refused")
            assert daemon.running
            flight.send(content[1000:])
            assert flight.response().status == 201
        assert daemon.wait(SOON) == 0
        daemon.start()
        assert V2("127.0.0.1", daemon.port).blob("some", digest_of(content)).expect(200).body == content


def test_download_in_flight_is_finished() -> None:
    content = os.urandom(32 << 20)
    with Daemon(http={"draintimeout": "20s"}) as daemon:
        digest = V2("127.0.0.1", daemon.port).push_blob("some", content)
        with Flight(daemon.port, "GET", f"/v2/some/blobs/{digest}", receive_buffer=65536) as flight:
            response = flight.response()
            os.kill(daemon.pid, signal.SIGTERM)
            wait_until(lambda: refused(daemon.port), 5, "new connections refused")
            assert response.read() == content
        assert daemon.wait(SOON) == 0


def test_idle_connection_does_not_delay_the_end() -> None:
    with Daemon(http={"draintimeout": "60s"}) as daemon:
        idle = V2("127.0.0.1", daemon.port)
        idle.get("/v2/").expect(200)
        with socket.create_connection(("127.0.0.1", daemon.port)):
            os.kill(daemon.pid, signal.SIGTERM)
            assert daemon.wait(SOON) == 0
        idle.close()


@pytest.mark.parametrize("seconds", [1, 0])
def test_drain_has_an_end(seconds: int) -> None:
    with Daemon(http={"draintimeout": f"{seconds}s"}) as daemon:
        location = V2("127.0.0.1", daemon.port).start_upload("some")
        with Flight(daemon.port, "PATCH", location, 1 << 20) as flight:
            flight.send(bytes(1000))
            started = time.monotonic()
            os.kill(daemon.pid, signal.SIGTERM)
            assert daemon.wait(SOON) == 0
            assert time.monotonic() - started > seconds - 0.1
        assert "Traceback" not in daemon.stderr


def serve(command: Sequence[str], *arguments: str) -> Outcome:
    """Run the daemon where it has to refuse."""
    spec = find_spec("registryd")
    assert spec is not None and spec.submodule_search_locations is not None
    environment = {**os.environ, "PYTHONPATH": str(Path(spec.submodule_search_locations[0]).parent)}
    return run([*command, *arguments], environment=environment, expect=None, seconds=30)


def assert_refused(outcome: Outcome, *words: str) -> None:
    """Check for an exit code and one line that says what is wrong."""
    assert outcome.code not in (0, None), outcome.said
    lines = [line for line in outcome.stderr.splitlines() if line.strip()]
    assert len(lines) == 1, outcome.said
    assert not [word for word in words if word not in lines[0]], lines[0]
    assert "Traceback" not in outcome.said


def failed(daemon: Daemon) -> Outcome:
    with pytest.raises(DaemonFailedError) as caught, daemon:
        pass
    error = caught.value
    assert error.exit_code is not None, "still running, and serves nothing"
    return Outcome(error.exit_code, error.stdout, error.stderr)


def test_port_in_use() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert_refused(failed(Daemon(http={"addr": f"127.0.0.1:{port}"})), str(port), "in use")


def test_port_of_the_second_registry_in_use() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        outcome = failed(Daemon({}, {"http": {"addr": f"127.0.0.1:{port}"}}))
        assert outcome.code != 0
        assert "in use" in outcome.stderr
        assert "Traceback" not in outcome.said


def test_store_below_a_file(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    assert_refused(failed(Daemon(root=tmp_path / "file" / "store")), str(tmp_path / "file"))


def without_privilege() -> list[str]:
    """What, before a command, makes permissions count for root too."""
    if os.geteuid() != 0:
        return []
    return [program("setpriv"), "--bounding-set=-dac_override,-dac_read_search"]


def test_store_that_may_not_be_written(tmp_path: Path) -> None:
    store = tmp_path / "store"
    store.mkdir(mode=0o500)
    assert_refused(failed(Daemon(root=store, command=[*without_privilege(), *SERVE])), str(store))


def test_config_that_may_not_be_read(tmp_path: Path) -> None:
    config = tmp_path / "config.yml"
    config.write_text("version: 0.1\nstorage: inmemory\nhttp: {addr: '127.0.0.1:0'}\n")
    config.chmod(0)
    assert_refused(serve([*without_privilege(), *SERVE], str(config)), str(config))


BAD_CONFIGS = {
    "not YAML": ("version: 0.1\nstorage: [", ["config.yml"]),
    "no mapping": ("- a\n- b\n", ["config.yml"]),
    "another version": ("version: 7\nstorage: inmemory\n", ["version"]),
    "no storage": ("version: 0.1\nhttp: {addr: '127.0.0.1:0'}\n", ["storage"]),
    "wrong type": (
        "version: 0.1\nstorage: inmemory\nhttp:\n  addr: '127.0.0.1:0'\n  draintimeout: soon\n",
        ["draintimeout", "5"],
    ),
}


@pytest.mark.parametrize("name", BAD_CONFIGS)
def test_bad_config(tmp_path: Path, name: str) -> None:
    content, words = BAD_CONFIGS[name]
    config = tmp_path / "config.yml"
    config.write_text(content)
    assert_refused(serve(SERVE, str(config)), *words)


@BOTH
def test_missing_config(tmp_path: Path, command: Sequence[str]) -> None:
    config = str(tmp_path / "none.yml")
    arguments = [config] if command is SERVE else ["--config", config]
    outcome = serve(command, *arguments)
    assert outcome.code != 0
    assert config in outcome.said
    assert "Traceback" not in outcome.said


def test_twistd_says_why_it_does_not_start() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        outcome = failed(Daemon(command=TWISTD, http={"addr": f"127.0.0.1:{port}"}))
        assert outcome.code != 0
        assert "in use" in outcome.said
        assert "Traceback" not in outcome.said
