"""One daemon for each module of wire tests, and a repository for each test."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator

import pytest

from tests.daemon import Daemon

from .content import Repository
from .wire import Client

_numbers = itertools.count(1)


@pytest.fixture(scope="module")
def daemon(request: pytest.FixtureRequest) -> Iterator[Daemon]:
    """The module's daemon; its config is the module's ``CONFIG``, else one that allows deletion."""
    config = getattr(request.module, "CONFIG", {"storage": {"delete": {"enabled": True}}})
    with Daemon(**config) as running:
        yield running


@pytest.fixture(autouse=True)
def undisturbed(request: pytest.FixtureRequest) -> Iterator[None]:
    """The daemon still runs after each test, and no code of it has failed."""
    if "daemon" not in request.fixturenames:
        yield
        return
    daemon = request.getfixturevalue("daemon")
    position = len(daemon.err)
    yield
    check_undisturbed(daemon, position)


def check_undisturbed(daemon: Daemon, position: int = 0) -> None:
    """Fail the test if the daemon has ended, or has told of an error in its own code since a position of its log."""
    said = daemon.err.since(position)
    # Not an assert: pytest would compare a word with all of the log, line by line, for minutes.
    if "Traceback" in said or not daemon.running:
        pytest.fail(f"the daemon {'runs' if daemon.running else 'has ended'} and said:\n{said[-5000:]}")


@pytest.fixture
def client(daemon: Daemon) -> Iterator[Client]:
    connected = Client(daemon.address)
    yield connected
    connected.close()


@pytest.fixture
def repo(client: Client, request: pytest.FixtureRequest) -> Repository:
    """A repository of the test's own, which does not exist yet."""
    return Repository(client, unique_name(request.node.name))


@pytest.fixture
def other(client: Client, request: pytest.FixtureRequest) -> Repository:
    """Another one."""
    return Repository(client, unique_name(f"other-{request.node.name}"))


def unique_name(text: str) -> str:
    """A repository name that no other test has."""
    readable = re.sub("[^a-z0-9]+", "-", text.lower()).strip("-")
    return f"t/{readable[:80].strip('-')}/{next(_numbers)}"
