"""Requests for blobs that no mirror has yet, and that need none of their bytes."""

from __future__ import annotations

import pytest

from tests.cache.mirror import APP, LARGE, Mirror
from tests.daemon import Daemon
from tests.upstream.process import HostileProcess

from .in_process import InProcess
from .wire import Client

PATH = f"/v2/{APP}/blobs/"


class Cold:
    """A mirror without anything, over an upstream with one blob."""

    def __init__(self) -> None:
        self.mirror = Mirror()
        self.upstream = self.mirror.upstream
        self.digest = self.upstream.add_blob(LARGE)
        self.front = InProcess(self.mirror.registry, None)

    def get(self, **headers: str) -> tuple[int, str | None, bytes]:
        fields = {name.replace("_", "-"): value for name, value in headers.items()}
        answer = self.front.get(f"{PATH}{self.digest}", fields)
        return answer.status, next(iter(answer.all("Content-Range")), None), answer.body


@pytest.fixture
def cold() -> Cold:
    return Cold()


@pytest.mark.parametrize("condition", ['"{0}"', "{0}", 'W/"{0}"', '"other", "{0}"', "*"])
def test_what_the_client_has_is_not_fetched(cold: Cold, condition: str) -> None:
    assert cold.get(If_None_Match=condition.format(cold.digest))[0] == 304
    assert (cold.upstream.asked, cold.upstream.bytes_sent) == ({"resolve_blob": 1}, 0)


def test_what_the_client_has_and_the_upstream_has_not_is_unknown(cold: Cold) -> None:
    cold.upstream.blobs.clear()
    assert cold.get(If_None_Match="*")[0] == 404


def test_another_is_fetched_at_once(cold: Cold) -> None:
    assert cold.get(If_None_Match='"other"') == (200, None, LARGE)
    assert cold.upstream.asked == {"fetch_blob": 1}


@pytest.mark.parametrize("wanted", [f"{len(LARGE)}-", f"{len(LARGE)}-{len(LARGE) + 1}", "-0", "9999999-, -0", "x"])
def test_a_part_that_is_not_there_is_not_fetched(cold: Cold, wanted: str) -> None:
    status, content_range, _ = cold.get(Range=f"bytes={wanted}")
    assert (status, content_range) == (416, f"bytes */{len(LARGE)}")
    assert (cold.upstream.asked, cold.upstream.bytes_sent) == ({"resolve_blob": 1}, 0)


def test_a_part_that_is_there_is(cold: Cold) -> None:
    expected = f"bytes 5-{len(LARGE) - 1}/{len(LARGE)}"
    assert cold.get(Range="bytes=5-") == (206, expected, LARGE[5:])
    assert cold.get(Range=f"bytes={len(LARGE)}-")[0] == 416
    assert cold.upstream.asked == {"resolve_blob": 1, "fetch_blob": 1}


def test_the_beginning_is_fetched_without_a_question(cold: Cold) -> None:
    assert cold.get(Range="bytes=0-9") == (206, f"bytes 0-9/{len(LARGE)}", LARGE[:10])
    assert cold.upstream.asked == {"fetch_blob": 1}


def test_an_upstream_whose_head_is_wrong_is_asked_by_get(cold: Cold) -> None:
    cold.upstream.heads_blobs = False
    assert cold.get(Range=f"bytes={len(LARGE)}-")[0] == 416
    assert cold.get(If_None_Match=str(cold.digest))[0] == 304
    assert cold.upstream.bytes_sent == 0
    assert cold.get(Range="bytes=5-")[2] == LARGE[5:]


def test_an_upstream_that_tells_no_size_is_waited_for(cold: Cold) -> None:
    cold.upstream.heads_blobs = cold.upstream.tells_size = False
    assert cold.get(Range=f"bytes={len(LARGE)}-")[:2] == (416, f"bytes */{len(LARGE)}")
    assert cold.get(If_None_Match=str(cold.digest))[0] == 304


def test_a_blob_without_a_size_may_not_be_larger_than_the_whole_cache() -> None:
    with HostileProcess() as hostile:
        _, (large, small) = hostile.image("team/app", "latest", bytes(3_000_000), bytes(900_000))
        hostile.switch(chunked=True)
        with Daemon(proxy={"upstreams": {"up.example": {"remoteurl": hostile.url}}, "maxsize": "1MB"}) as daemon:
            client = Client(daemon.address)
            client.get(f"/v2/up.example/team/app/blobs/{large}").refuses(404, "BLOB_UNKNOWN")
            client.get(f"/v2/up.example/team/app/blobs/{small}").is_(200)
            client.close()
            told = f"{large} is given up: up.example tells no size of it, and sent more than 1000000 bytes"
            assert told in daemon.stderr
