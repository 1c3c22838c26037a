"""What is said on a connection until it ends, and what the daemon took for a request meanwhile."""

from __future__ import annotations

from tests.daemon import Daemon

from .content import random_bytes
from .wire import Connection, Response


def last_words(daemon: Daemon, *sent: bytes) -> list[Response]:
    """All answers to some bytes, on a connection that has to end; none is a fault of the server's own."""
    with Connection(daemon.address) as connection:
        try:
            connection.send(*sent)
            connection.finish()
        except ConnectionError:
            pass
        responses = connection.answers()
    assert all(response.status < 500 or response.status in (501, 505) for response in responses), responses
    return responses


def paths_in_access_log(daemon: Daemon) -> str:
    with Connection(daemon.address) as connection:
        marker = f"/v2/marker-{random_bytes(8).hex()}"
        connection.exchange("GET", marker)
    daemon.out.wait_for(marker)
    return daemon.stdout
