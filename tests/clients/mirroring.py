"""Mirrors for real clients, and the registries that they mirror."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from tests.daemon import Daemon

from .distribution import Distribution
from .images import Image, Index, push
from .tokens import TokenServer

USER, PASSWORD = "mirror", "not for everybody"
# Distribution takes bcrypt alone: of the password above, at the least cost.
_HTPASSWD = f"{USER}:$2b$05$tZRfs6FUlAlBTnAkqlC9gOrq238JXiIQlFq7j0S8Ee6H6cW3PJNzO\n"

HUB, OTHER = "docker.io", "registry.invalid"


def mirror(upstreams: Mapping[str, Mapping[str, Any]], root: Path | None = None, **proxy: Any) -> Daemon:
    """A daemon, not yet started, that mirrors upstreams beside its private repositories."""
    return Daemon(root=root, proxy={"upstreams": upstreams, **proxy})


@contextmanager
def _plain(folder: Path) -> Iterator[Mapping[str, Any]]:
    with Distribution(folder / "store", folder / "plain") as upstream:
        yield {"remoteurl": f"http://{upstream.address}"}


@contextmanager
def _htpasswd(folder: Path) -> Iterator[Mapping[str, Any]]:
    users = folder / "users"
    users.write_text(_HTPASSWD)
    auth = {"htpasswd": {"realm": "upstream", "path": str(users)}}
    with Distribution(folder / "store", folder / "closed", auth=auth) as upstream:
        yield {"remoteurl": f"http://{upstream.address}", "username": USER, "password": PASSWORD}


@contextmanager
def _tokens(folder: Path) -> Iterator[Mapping[str, Any]]:
    with (
        TokenServer(folder / "tokens", USER, PASSWORD) as tokens,
        Distribution(folder / "store", folder / "closed", auth=tokens.auth) as upstream,
    ):
        yield {"remoteurl": f"http://{upstream.address}", "username": USER, "password": PASSWORD}


@contextmanager
def _registryd(folder: Path) -> Iterator[Mapping[str, Any]]:
    with Daemon(root=folder / "store") as upstream:
        yield {"remoteurl": upstream.url}


@contextmanager
def _mirrored(folder: Path) -> Iterator[Mapping[str, Any]]:
    with _plain(folder) as settings, mirror({HUB: settings}, default=HUB) as upstream:
        yield {"remoteurl": upstream.url}


KINDS: Mapping[str, Callable[[Path], Any]] = {
    "plain": _plain,
    "htpasswd": _htpasswd,
    "tokens": _tokens,
    "registryd": _registryd,
    "mirror": _mirrored,
}


@contextmanager
def upstream(kind: str, folder: Path, held: Mapping[str, Image | Index]) -> Iterator[Mapping[str, Any]]:
    """Run an upstream that holds images, each as ``1`` of a repository; its settings in a mirror's configuration."""
    with Distribution(folder / "store", folder / "open") as open_registry:
        for repository, subject in held.items():
            push(open_registry.connect(), repository, "1", subject)
    with KINDS[kind](folder) as settings:
        yield settings


@contextmanager
def running(*daemons: Daemon) -> Iterator[Sequence[Daemon]]:
    """Run daemons together."""
    with ExitStack() as stack:
        yield [stack.enter_context(daemon) for daemon in daemons]


def write_hosts(certs: Path, host: str, server: str, *mirrors: str) -> None:
    """Let containerd ask mirrors for what is a host's, and then the server that stands for the host itself."""
    folder = certs / host
    folder.mkdir(parents=True)
    tables = [f'[host."{url}"]\ncapabilities = ["pull", "resolve"]\n' for url in mirrors]
    (folder / "hosts.toml").write_text("\n".join([f'server = "{server}"', *tables]))
