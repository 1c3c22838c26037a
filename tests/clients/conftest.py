"""Clients that are started once for all tests, each with all its data in a temporary folder."""

from __future__ import annotations

import itertools
import re
import shutil
import ssl
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.daemon import Daemon

from .certificates import Certificates, issue
from .containers import Containers
from .engine import Engine
from .registry import Registry

_NUMBERS = itertools.count(1)


@pytest.fixture(scope="session")
def short_folder() -> Iterator[Path]:
    """A temporary folder whose path leaves room for those of unix sockets."""
    folder = Path(tempfile.mkdtemp(prefix="rd-"))
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="session")
def engine(short_folder: Path) -> Iterator[Engine]:
    """A running Docker engine."""
    folder = short_folder / "d"
    folder.mkdir()
    started = Engine(folder)
    yield started
    started.stop()


@pytest.fixture(scope="session")
def containers(short_folder: Path) -> Containers:
    """podman, buildah and skopeo."""
    folder = short_folder / "c"
    folder.mkdir()
    return Containers(folder)


@pytest.fixture
def repository(request: pytest.FixtureRequest) -> str:
    """The name of a repository that no other test uses."""
    name = re.sub(r"[^a-z0-9]+", "-", request.node.name.removeprefix("test_").lower()).strip("-")
    return f"tests/{name}-{next(_NUMBERS)}"


@pytest.fixture(scope="session")
def certificates(short_folder: Path) -> Certificates:
    """The certificate of a registry on loopback, and of the authority that clients are to trust."""
    folder = short_folder / "t"
    (folder / "client").mkdir(parents=True)
    files = issue(folder, ["127.0.0.1", "0.0.0.0"], ["localhost"])
    shutil.copy(files.authority, folder / "client" / "ca.crt")
    return files


@pytest.fixture(scope="session")
def registry() -> Iterator[Registry]:
    """The registry that clients talk to in plain HTTP; tests keep to repositories of their own."""
    with Daemon(storage={"delete": {"enabled": True}}) as daemon:
        yield Registry(daemon.port, daemon.root)


@pytest.fixture
def own_registry() -> Iterator[Registry]:
    """A registry that no other test uses."""
    with Daemon(storage={"delete": {"enabled": True}}) as daemon:
        yield Registry(daemon.port, daemon.root)


@pytest.fixture(scope="session")
def tls_registry(certificates: Certificates) -> Iterator[Registry]:
    """The registry that clients talk to over TLS."""
    tls = {"certificate": str(certificates.certificate), "key": str(certificates.key)}
    with Daemon(http={"tls": tls}) as daemon:
        yield Registry(daemon.port, daemon.root, ssl.create_default_context(cafile=str(certificates.authority)))
