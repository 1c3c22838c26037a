"""Bodies in chunks of one byte cost neither the time nor the memory of a million pieces."""

from __future__ import annotations

import re
import time
from pathlib import Path

from tests.daemon import Daemon

from .content import Repository, digest_of, random_bytes, with_query
from .wire import Connection, head

SIZE = 1024 * 1024
SECONDS = 6.0
"""CPU seconds that the body may cost; it takes one or two, and gathered badly a dozen and more."""

MEMORY = 48 * 1024 * 1024
"""Bytes that the daemon may grow by; a view of each byte would take 200 MB."""

CHUNKED = {"Transfer-Encoding": "chunked", "Content-Type": "application/octet-stream"}


def _cpu(daemon: Daemon) -> float:
    fields = Path(f"/proc/{daemon.pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / 100


def _memory(daemon: Daemon, which: str) -> int:
    match = re.search(rf"{which}:\s+(\d+) kB", Path(f"/proc/{daemon.pid}/status").read_text())
    assert match is not None
    return int(match[1]) * 1024


def _one_by_one(content: bytes) -> bytes:
    return b"".join(b"1\r\n%c\r\n" % byte for byte in content) + b"0\r\n\r\n"


def test_chunks_of_one_byte(daemon: Daemon, repo: Repository) -> None:
    content = random_bytes(SIZE)
    digest = digest_of(content)
    location = repo.start()
    body = _one_by_one(content)
    cpu, memory = _cpu(daemon), _memory(daemon, "VmRSS")
    with Connection(daemon.address, timeout=60) as connection:
        answer = connection.exchange("PUT", with_query(location, f"digest={digest}"), CHUNKED, body)
    assert answer.status == 201
    assert _cpu(daemon) - cpu < SECONDS
    assert _memory(daemon, "VmHWM") - memory < MEMORY
    assert repo.client.get(repo.path(f"blobs/{digest}")).is_(200).body == content


def test_others_are_answered_meanwhile(daemon: Daemon, repo: Repository) -> None:
    content = random_bytes(SIZE // 4)
    location = repo.start()
    body = _one_by_one(content)
    with Connection(daemon.address, timeout=60) as connection:
        connection.send(head("PATCH", location, CHUNKED))
        longest = 0.0
        step = len(body) // 8 + 1
        for start in range(0, len(body), step):
            connection.send(body[start : start + step])
            asked = time.monotonic()
            repo.client.get("/v2/").is_(200)
            longest = max(longest, time.monotonic() - asked)
        assert connection.receive("PATCH").status == 202
    assert longest < 2.0


def test_a_manifest_in_chunks_of_one_byte(daemon: Daemon, repo: Repository) -> None:
    content = repo.image().content
    with Connection(daemon.address) as connection:
        fields = {**CHUNKED, "Content-Type": "application/vnd.oci.image.manifest.v1+json"}
        answer = connection.exchange("PUT", repo.path("manifests/latest"), fields, _one_by_one(content))
    assert answer.status == 201
    assert repo.get("latest").is_(200).body == content
