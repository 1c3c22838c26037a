"""Upload sessions outlive the process that took them."""

from __future__ import annotations

import os

import pytest

from tests.clients.v2 import V2, digest_of, with_digest
from tests.daemon import Daemon

from .flight import Flight

CONTENT = os.urandom((3 << 20) + 17)
HALF = len(CONTENT) // 2


def end(daemon: Daemon, how: str) -> None:
    if how == "kill":
        daemon.kill()
    else:
        daemon.terminate()


@pytest.mark.parametrize("algorithm", ["sha256", "sha512"])
@pytest.mark.parametrize("how", ["kill", "terminate"])
def test_upload_goes_on_after_a_restart(how: str, algorithm: str) -> None:
    digest = digest_of(CONTENT, algorithm)
    octets = {"Content-Type": "application/octet-stream"}
    with Daemon() as daemon:
        session = V2("127.0.0.1", daemon.port)
        path = f"/v2/some/blobs/uploads/?digest-algorithm={algorithm}"
        location = session.ask("POST", path, b"").expect(202).location
        location = session.ask("PATCH", location, CONTENT[:HALF], octets).expect(202).location
        end(daemon, how)
        daemon.start()

        session = V2("127.0.0.1", daemon.port)
        status = session.get(location).expect(204)
        assert status.headers["Range"] == f"0-{HALF - 1}"
        rest = {**octets, "Content-Range": f"{HALF}-{len(CONTENT) - 1}"}
        location = session.ask("PATCH", location, CONTENT[HALF:], rest).expect(202).location
        session.blob("some", digest).expect(404)
        session.ask("PUT", with_digest(location, digest), b"").expect(201)
        assert session.blob("some", digest).expect(200).body == CONTENT


@pytest.mark.parametrize("how", ["kill", "terminate"])
def test_upload_cut_in_the_middle_of_a_request(how: str) -> None:
    """What came of the broken request may be kept or not; status tells, and the upload goes on from there."""
    digest = digest_of(CONTENT)
    with Daemon(http={"draintimeout": "0s"}) as daemon:
        location = V2("127.0.0.1", daemon.port).start_upload("some")
        with Flight(daemon.port, "PATCH", location, len(CONTENT)) as flight:
            flight.send(CONTENT[:HALF])
            end(daemon, how)
        daemon.start()

        session = V2("127.0.0.1", daemon.port)
        size = held(session, location)
        assert size <= HALF
        session.ask("PUT", with_digest(location, digest), CONTENT[size:]).expect(201)
        assert session.blob("some", digest).expect(200).body == CONTENT


def held(session: V2, location: str) -> int:
    """How many bytes an upload session holds; ``Range: 0-0`` is Distribution's way to tell none."""
    last = int(session.get(location).expect(204).headers["Range"].partition("-")[2])
    return last + 1 if last else 0


def test_what_was_acknowledged_is_there_after_kill() -> None:
    with Daemon() as daemon:
        session = V2("127.0.0.1", daemon.port)
        digest = session.push_blob("some", CONTENT)
        config = session.push_blob("some", b"{}")
        manifest = (
            '{"schemaVersion": 2, "mediaType": "application/vnd.oci.image.manifest.v1+json",'
            f' "config": {{"mediaType": "application/example", "digest": "{config}", "size": 2}}, "layers": []}}'
        ).encode()
        session.push_manifest("some", "1", manifest, "application/vnd.oci.image.manifest.v1+json")
        daemon.kill()
        daemon.start()
        session = V2("127.0.0.1", daemon.port)
        assert session.blob("some", digest).expect(200).body == CONTENT
        assert session.manifest("some", "1").expect(200).body == manifest
        assert session.tags("some") == ["1"]
