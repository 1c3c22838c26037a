"""Loads: each makes a server do a kind of work, checks every answer, and says how much was done in what time."""

from __future__ import annotations

import json
import os
import random
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from itertools import count

import attrs

from bench.client import (
    BLOB_FIELDS,
    HEAD_FIELDS,
    AnswerError,
    Client,
    checked,
    location,
)
from bench.machine import claim_memory
from bench.servers import CHECKOUT, TLS_SUITE, Server
from bench.stores import GIB, KIB, LargeBlob, blob_folder, digest_of, push_large_blob

CONNECTIONS = 8
PUSHERS = 8
LAYERS = 200
LAYER_SIZE = 16 * KIB

_PULL_SECONDS_A_GIB = 60
# Without encryption a pull takes a tenth of a second, and few of them less than can be measured.
_PLAIN_PULLS = 8


@attrs.frozen
class Amount:
    """How much to measure at a time: ``seconds`` of loads that go on, ``large`` blobs of 1 GiB of those that count."""

    seconds: float
    large: int


@attrs.frozen
class Work:
    """What was done, in the units of its row, and the wall time that it took in seconds."""

    units: float
    wall: float


Load = Callable[[Amount], Work]


def get_many(server: Server, requests: Sequence[bytes], smallest: int) -> Load:
    """GET requests in turn over several kept connections, by wrk; ``smallest`` is the size of the smallest body.

    Errors of the load:
        AnswerError: a socket failed, or an answer was an error or shorter.
    """
    script = server.place.folder / "requests.lua"
    script.write_text(_WRK_SCRIPT.format(requests=",\n".join(json.dumps(request.decode()) for request in requests)))

    def load(amount: Amount) -> Work:
        seconds = max(1, round(amount.seconds))
        command = ["wrk", "-t1", f"-c{CONNECTIONS}", f"-d{seconds}s", "--timeout", "10s", "-s", str(script), server.url]
        told = subprocess.run(command, stdout=subprocess.PIPE, check=True, timeout=seconds + 30).stdout
        summary = json.loads(told.splitlines()[-1])
        if summary["errors"] or summary["bytes"] < summary["requests"] * smallest:
            raise AnswerError(f"wrk saw errors or short answers: {summary}")
        return Work(summary["requests"], summary["duration"] / 1e6)

    return load


# wrk itself counts statuses of 400 and above only; the other ones that could be mistaken have no body.
_WRK_SCRIPT = """\
local requests = {{
{requests}
}}
local last = 0
function request()
  last = last % #requests + 1
  return requests[last]
end
function done(summary, latency)
  local e = summary.errors
  io.write(string.format('\\n{{"requests": %d, "duration": %d, "bytes": %d, "errors": %d}}\\n', summary.requests,
    summary.duration, summary.bytes, e.connect + e.read + e.write + e.status + e.timeout))
end
"""


def head_many(server: Server, requests: Sequence[bytes]) -> Load:
    """HEAD requests in turn over several kept connections; not by wrk, which waits for the body.

    Errors of the load:
        AnswerError: an answer was not 200.
    """

    def load(amount: Amount) -> Work:
        host, _, port = server.address.partition(":")
        connections = [socket.create_connection((host, int(port)), timeout=10) for _ in range(CONNECTIONS)]
        start, sent = time.monotonic(), 0
        while time.monotonic() < start + amount.seconds:
            for connection in connections:
                connection.sendall(requests[sent % len(requests)])
                sent += 1
            for connection in connections:
                _receive_head(connection)
        wall = time.monotonic() - start
        for connection in connections:
            connection.close()
        return Work(sent, wall)

    return load


def _receive_head(connection: socket.socket) -> None:
    head = connection.recv(8 * KIB)
    while head and not head.endswith(b"\r\n\r\n"):
        head += connection.recv(8 * KIB)
    if not head.startswith(b"HTTP/1.1 200 "):
        raise AnswerError(f"HEAD: {head[:300]!r}")


def pull_large(server: Server, target: str, digest: str) -> Load:
    """Pulls of a large blob, one after another over one connection, by a process of its own; the first is verified."""
    unverified = [digest]

    def load(amount: Amount) -> Work:
        verify = ["--digest", unverified.pop()] if unverified else []
        options = ["--certificate", str(server.certificate), "--suite", TLS_SUITE] if server.certificate else []
        pulls = amount.large * (1 if server.certificate else _PLAIN_PULLS)
        command = [sys.executable, "-m", "bench.pull", *options, *verify, server.address, target, str(pulls)]
        done = subprocess.run(
            command,
            stdout=subprocess.PIPE,
            check=True,
            timeout=pulls * _PULL_SECONDS_A_GIB,
            env=_tls_environment(server),
            cwd=CHECKOUT,
        )
        return Work(pulls, float(done.stdout.split()[0]))

    return load


def _tls_environment(server: Server) -> dict[str, str]:
    # The ssl module has no call that chooses among the suites of TLS 1.3; OpenSSL's configuration does.
    config = server.place.folder / "openssl.cnf"
    config.write_text(_OPENSSL_CONFIG)
    return {**os.environ, "OPENSSL_CONF": str(config)}


_OPENSSL_CONFIG = f"""\
openssl_conf = init
[init]
ssl_conf = ssl
[ssl]
system_default = defaults
[defaults]
MinProtocol = TLSv1.3
Ciphersuites = {TLS_SUITE}
"""


def push_large(server: Server) -> Load:
    """Pushes of large blobs, each of its own digest, one after another; each is removed from the disk again."""
    seeds = count(1)

    def load(amount: Amount) -> Work:
        wall = 0.0
        for _ in range(amount.large):
            blob = LargeBlob(next(seeds))
            claim_memory(server.place.folder, GIB + GIB // 4)
            with Client(server) as client:
                start = time.monotonic()
                push_large_blob(client, "large/pushed", blob)
                wall += time.monotonic() - start
            shutil.rmtree(blob_folder(server, blob.digest))
        return Work(amount.large, wall)

    return load


def push_layers(server: Server) -> Load:
    """Pushes of 200 small layers, each of its own digest, by 8 clients, again and again."""
    seeds = count()

    def load(amount: Amount) -> Work:
        units, wall = 0, 0.0
        while wall < amount.seconds:
            seeded = random.Random(next(seeds))
            layers = [seeded.randbytes(LAYER_SIZE) for _ in range(LAYERS)]
            start = time.monotonic()
            with ThreadPoolExecutor(PUSHERS) as clients:
                shares = [layers[number::PUSHERS] for number in range(PUSHERS)]
                # What map yields has to be taken: that is where a client's error is raised.
                list(clients.map(partial(_push_layers, server), range(PUSHERS), shares))
            wall += time.monotonic() - start
            units += LAYERS
        return Work(units, wall)

    return load


def _push_layers(server: Server, number: int, layers: Sequence[bytes]) -> None:
    name = f"layers/client-{number}"
    with Client(server) as client:
        for layer in layers:
            digest = digest_of(layer)
            client.expect(404, "HEAD", f"/v2/{name}/blobs/{digest}", HEAD_FIELDS)
            upload = client.expect(202, "POST", f"/v2/{name}/blobs/uploads/", BLOB_FIELDS)
            chunks = [b"%x\r\n%b\r\n" % (len(layer), layer), b"0\r\n\r\n"]
            patched = checked(202, "PATCH", client.ask_chunked("PATCH", location(upload), chunks))
            client.expect(201, "PUT", location(patched, digest), BLOB_FIELDS)


def list_all(server: Server, target: str, key: str, names: Sequence[str]) -> Load:
    """Listings from a first page on by the links that the answers hold, again and again, all over one connection.

    Errors of the load:
        AnswerError: the listing is not that of the names.
    """

    def load(amount: Amount) -> Work:
        units, start = 0, time.monotonic()
        with Client(server) as client:
            while time.monotonic() < start + amount.seconds:
                # docker-registry 2.8 lists tags in the order of the folder.
                if sorted(_listed(client, target, key)) != names:
                    raise AnswerError(f"{target} does not list the {len(names)} names of the tree")
                units += 1
        return Work(units, time.monotonic() - start)

    return load


def _listed(client: Client, target: str, key: str) -> Iterator[str]:
    following = target
    while following:
        page = client.expect(200, "GET", following, BLOB_FIELDS)
        yield from json.loads(page.body)[key]
        following = page.fields.get("link", "").partition(">")[0].removeprefix("<")
