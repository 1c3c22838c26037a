"""Mirrors of real registries: each content is fetched once, and served when they are gone."""

from __future__ import annotations

import os
import socket
import sys
import threading
from pathlib import Path

import pytest

from tests.daemon import Daemon

from .distribution import Distribution, config
from .images import Image, assert_whole, image, push, root_tar, two_platforms
from .mirroring import HUB, KINDS, OTHER, mirror, running, upstream
from .programs import run, wait_until
from .v2 import V2, digest_of

MIB = 1 << 20
CLIENTS = 32
NAME = "team/app"
ADOPT = (sys.executable, "-m", "registryd", "adopt-cache")


def session(daemon: Daemon) -> V2:
    return V2("127.0.0.1", daemon.port)


@pytest.mark.parametrize("kind", KINDS)
def test_pull_while_the_upstream_is_there_and_when_it_is_gone(kind: str, tmp_path: Path) -> None:
    subject = two_platforms(kind)
    with upstream(kind, tmp_path, {NAME: subject}) as settings:
        daemon = mirror({HUB: settings}, default=HUB, freshness="0s")
        daemon.start()
        assert_whole(session(daemon), NAME, "1", subject)
        assert session(daemon).tags(NAME) == ["1"]
    try:
        assert_whole(session(daemon), NAME, "1", subject)
        warning = session(daemon).manifest(NAME, "1").headers["Warning"]
        assert warning.startswith('299 - "')
        assert session(daemon).tags(NAME) == ["1"]
        session(daemon).manifest(NAME, "2").expect(404)
        daemon.restart()
        assert_whole(session(daemon), NAME, "1", subject)
    finally:
        daemon.close()


@pytest.mark.parametrize("kind", ["htpasswd", "tokens"])
def test_wrong_password(kind: str, tmp_path: Path) -> None:
    subject = image([root_tar(kind, busybox=False)])
    with (
        upstream(kind, tmp_path, {NAME: subject}) as settings,
        mirror({HUB: {**settings, "password": "wrong"}}, default=HUB) as daemon,
    ):
        session(daemon).manifest(NAME, "1").expect(404)
        assert "wrong" not in daemon.stderr


def test_each_content_is_fetched_once(tmp_path: Path) -> None:
    """A tag is asked about by HEAD, and what other platforms consist of is not fetched at all."""
    subject = two_platforms("once")
    here, elsewhere = subject.images
    with Distribution(tmp_path / "store", tmp_path) as origin:
        push(origin.connect(), NAME, "1", subject)
        with mirror({HUB: {"remoteurl": f"http://{origin.address}"}}, default=HUB) as daemon:
            for _ in range(3):
                client = session(daemon)
                assert client.manifest(NAME, "1").expect(200).headers["Docker-Content-Digest"] == subject.digest
                assert_whole(client, NAME, here.digest, here)
        for digest in (subject.digest, here.digest):
            assert origin.asked(f"/v2/{NAME}/manifests/{digest}") == 1
        for blob in here.blobs():
            assert origin.asked(f"/v2/{NAME}/blobs/{blob.digest}") == 1
        assert origin.asked(f"/v2/{NAME}/manifests/1") == 0
        assert origin.asked(f"/v2/{NAME}/manifests/1", "HEAD") == 1
        for content in (elsewhere.manifest, *elsewhere.blobs()):
            kind = "manifests" if content is elsewhere.manifest else "blobs"
            assert origin.asked(f"/v2/{NAME}/{kind}/{content.digest}") == 0


def pull_together(daemons: list[Daemon], path: str, origin: Distribution) -> list[bytes]:
    """What clients get who have all asked before the origin answers the first."""
    origin.stand_still()
    sockets = []
    for number in range(CLIENTS):
        connection = socket.create_connection(("127.0.0.1", daemons[number % len(daemons)].port), timeout=30)
        connection.sendall(f"GET {path} HTTP/1.1\r\nHost: mirror\r\nConnection: close\r\n\r\n".encode())
        sockets.append(connection)
    origin.go_on()
    bodies: list[bytes] = [b""] * CLIENTS

    def receive(number: int) -> None:
        with sockets[number] as connection, connection.makefile("rb") as stream:
            bodies[number] = stream.read().partition(b"\r\n\r\n")[2]

    threads = [threading.Thread(target=receive, args=(number,)) for number in range(CLIENTS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    return bodies


@pytest.mark.parametrize("processes", [1, 2])
def test_many_clients_on_one_cold_blob(processes: int, tmp_path: Path) -> None:
    content = os.urandom(4 * MIB)
    with Distribution(tmp_path / "store", tmp_path) as origin:
        digest = origin.connect().push_blob(NAME, content)
        settings = {HUB: {"remoteurl": f"http://{origin.address}"}}
        path = f"/v2/{NAME}/blobs/{digest}"
        with running(*[mirror(settings, tmp_path / "mirror", default=HUB) for _ in range(processes)]) as daemons:
            bodies = pull_together(list(daemons), path, origin)
            assert {digest_of(body) for body in bodies} == {digest}
            assert origin.asked(path) == 1
            for daemon in daemons:
                assert session(daemon).blob(NAME, digest).expect(200).body == content
        assert origin.asked(path) == 1


@pytest.mark.parametrize("processes", [1, 2])
def test_many_clients_on_one_cold_manifest(processes: int, tmp_path: Path) -> None:
    subject = image([root_tar("many", busybox=False)])
    with Distribution(tmp_path / "store", tmp_path) as origin:
        push(origin.connect(), NAME, "1", subject)
        settings = {HUB: {"remoteurl": f"http://{origin.address}"}}
        with running(*[mirror(settings, tmp_path / "mirror", default=HUB) for _ in range(processes)]) as daemons:
            bodies = pull_together(list(daemons), f"/v2/{NAME}/manifests/{subject.digest}", origin)
        assert set(bodies) == {subject.manifest.content}
        assert origin.asked(f"/v2/{NAME}/manifests/{subject.digest}") == 1


def test_upstream_that_comes_after_the_daemon(tmp_path: Path) -> None:
    """The daemon starts without it, keeps private repositories meanwhile, and mirrors it once it is there."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    subject, own = image([root_tar("theirs", busybox=False)]), image([root_tar("own", busybox=False)])
    settings = {OTHER: {"remoteurl": f"http://127.0.0.1:{port}"}}
    with mirror(settings) as daemon:
        session(daemon).manifest(f"{OTHER}/{NAME}", "1").expect(404)
        push(session(daemon), NAME, "1", own)
        assert_whole(session(daemon), NAME, "1", own)
        with Distribution(tmp_path / "store", tmp_path, http={"addr": f"127.0.0.1:{port}"}) as origin:
            push(origin.connect(), NAME, "1", subject)
            daemon.restart()
            assert_whole(session(daemon), f"{OTHER}/{NAME}", "1", subject)
        assert_whole(session(daemon), NAME, "1", own)


def test_same_names_at_two_upstreams_and_here(tmp_path: Path) -> None:
    subjects = [image([root_tar(where, busybox=False)]) for where in ("hub", "other", "here")]
    with (
        upstream("plain", tmp_path / "hub", {NAME: subjects[0]}) as hub,
        upstream("plain", tmp_path / "other", {NAME: subjects[1]}) as other,
        mirror({HUB: hub, OTHER: other}) as daemon,
    ):
        push(session(daemon), NAME, "1", subjects[2])
        for name, subject in zip((f"{HUB}/{NAME}", f"{OTHER}/{NAME}", NAME), subjects, strict=True):
            assert_whole(session(daemon), name, "1", subject)
        for host, subject in zip((HUB, OTHER), subjects, strict=False):
            answer = session(daemon).get(f"/v2/{NAME}/manifests/1?ns={host}").expect(200)
            assert answer.headers["Docker-Content-Digest"] == subject.digest
            assert answer.headers["OCI-Namespace"] == host


def test_config_file_of_distribution(tmp_path: Path) -> None:
    """The file with which Distribution mirrors serves for registryd too."""
    subject = two_platforms("drop in")
    with upstream("tokens", tmp_path, {NAME: subject}) as settings:
        proxy = {"proxy": {**settings, "ttl": "168h"}}
        with Distribution(tmp_path / "theirs", tmp_path / "mirror", **proxy) as theirs:
            assert_whole(theirs.connect(), NAME, "1", subject)
        daemon = Daemon({**config(tmp_path / "ours"), **proxy})
        daemon.start()
        assert_whole(session(daemon), NAME, "1", subject)
    try:
        assert_whole(session(daemon), NAME, "1", subject)
        refused = session(daemon).ask("POST", f"/v2/{NAME}/blobs/uploads/", b"").expect(405)
        assert [error["code"] for error in refused.json["errors"]] == ["UNSUPPORTED"]
        kind = {"Content-Type": subject.manifest.media_type}
        refused = session(daemon).ask("PUT", f"/v2/{NAME}/manifests/2", subject.manifest.content, kind).expect(405)
        assert [error["code"] for error in refused.json["errors"]] == ["UNSUPPORTED"]
    finally:
        daemon.close()


def test_cache_of_distribution(tmp_path: Path) -> None:
    """What Distribution has cached is served as it is, and filled once it is adopted."""
    first, second = image([root_tar("first", busybox=False)]), image([root_tar("second", busybox=False)])
    with Distribution(tmp_path / "store", tmp_path / "origin") as origin:
        push(origin.connect(), NAME, "1", first)
        proxy = {"proxy": {"remoteurl": f"http://{origin.address}"}}
        with Distribution(tmp_path / "theirs", tmp_path / "mirror", **proxy) as theirs:
            assert_whole(theirs.connect(), NAME, "1", first)
            # It stores beside what it answers, and later.
            wait_until(lambda: not missing(tmp_path / "theirs", first), 10, "Distribution has stored it")
        push(origin.connect(), NAME, "2", second)
        with Daemon({**config(tmp_path / "theirs"), **proxy}) as daemon:
            assert_whole(session(daemon), NAME, "1", first)
            session(daemon).manifest(NAME, "2").expect(404)
            run([*ADOPT, *daemon.config_files])
            daemon.restart()
            assert_whole(session(daemon), NAME, "2", second)
            origin.stop()
            for tag, subject in (("1", first), ("2", second)):
                assert_whole(session(daemon), NAME, tag, subject)


def missing(store: Path, subject: Image) -> list[str]:
    """The layers and configs of an image whose links a store lacks."""
    links = store / "docker/registry/v2/repositories" / NAME / "_layers" / "sha256"
    digests = [blob.digest for blob in subject.blobs()]
    return [digest for digest in digests if not (links / digest.partition(":")[2] / "link").exists()]


def test_layer_gone_behind_a_cached_manifest(tmp_path: Path) -> None:
    subject = image([root_tar("healed", busybox=False)])
    layer = subject.layers[0].digest
    with (
        upstream("plain", tmp_path, {NAME: subject}) as settings,
        mirror({HUB: settings}, default=HUB) as daemon,
    ):
        assert_whole(session(daemon), NAME, "1", subject)
        value = layer.partition(":")[2]
        (daemon.tree / "blobs" / "sha256" / value[:2] / value / "data").unlink()
        assert_whole(session(daemon), NAME, "1", subject)
