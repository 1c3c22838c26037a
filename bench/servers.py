"""The servers that are measured: how each is configured, started on one CPU, and stopped."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import attrs

from bench.machine import busy_seconds, cpu_seconds

REGISTRYD = "registryd"
DISTRIBUTION = "docker-registry"
NGINX = "nginx"
PROGRAMS = (REGISTRYD, DISTRIBUTION, NGINX)

# The suite that all three have; Go's and OpenSSL's servers would else choose different ones.
TLS_SUITE = "TLS_AES_128_GCM_SHA256"

CHECKOUT = Path(__file__).resolve().parent.parent
_START_SECONDS = 20.0
_STOP_SECONDS = 20.0
_LISTENING = re.compile(r"listening on (?:https?://)?(127\.0\.0\.1:\d+)")


class ServerError(Exception):
    """A server is not installed, did not start, or did not stop; says what its log says."""


@attrs.frozen
class Place:
    """Where a server keeps its files and its store, and the certificate and key that it uses if it is to speak TLS.

    ``upstream``, where it is set, is the URL of a registry that it mirrors, or, for nginx, that it passes requests on
    to; ``rate`` bounds the bytes a second of what nginx answers then.
    """

    folder: Path
    store: Path
    certificate: Path | None = None
    key: Path | None = None
    upstream: str | None = None
    rate: int = 0


@attrs.frozen
class Server:
    """A running server. ``address`` is host and port; ``certificate`` is set where it speaks TLS."""

    name: str
    pid: int
    address: str
    place: Place
    cpus: set[int]

    @property
    def certificate(self) -> Path | None:
        return self.place.certificate

    @property
    def url(self) -> str:
        return f"{'https' if self.certificate else 'http'}://{self.address}"

    def cpu_seconds(self) -> float:
        """The CPU time that it has used since it started."""
        return cpu_seconds(self.pid)

    def others_seconds(self) -> float:
        """The time that its CPU has spent on anything else, the kernel's own work for it included."""
        return busy_seconds(self.cpus) - self.cpu_seconds()


@attrs.frozen
class _Launch:
    """A command, and how to learn the address that its process serves, which is None until it does."""

    command: Sequence[str]
    address: Callable[[], str | None]


@contextlib.contextmanager
def running(name: str, place: Place, cpus: set[int]) -> Iterator[Server]:
    """A server of a program's name that runs on the CPUs until the block ends.

    Errors:
        ServerError: it is not installed, or ends, or does not listen within 20 s.
    """
    place.folder.mkdir(parents=True, exist_ok=True)
    place.store.mkdir(parents=True, exist_ok=True)
    launch = _LAUNCHES[name](place)
    if shutil.which(launch.command[0]) is None:
        raise ServerError(f"{launch.command[0]} is not installed")
    pinned = ["taskset", "--cpu-list", ",".join(map(str, sorted(cpus))), *launch.command]
    with open(place.folder / "stdout", "wb") as out, open(place.folder / "stderr", "wb") as err:
        process = subprocess.Popen(pinned, stdout=out, stderr=err, env=environment(), cwd=CHECKOUT)
    try:
        yield Server(name, process.pid, _await_address(name, place, process, launch), place, cpus)
    finally:
        _stop(process)


def environment() -> dict[str, str]:
    """The variables that a measured program gets of ours."""
    # REGISTRY_* would configure two of them; PYTHONUNBUFFERED and the like would slow one.
    return {name: value for name, value in os.environ.items() if name in ("PATH", "HOME", "LANG", "TMPDIR")}


def _await_address(name: str, place: Place, process: subprocess.Popen[bytes], launch: _Launch) -> str:
    deadline = time.monotonic() + _START_SECONDS
    while process.poll() is None and time.monotonic() < deadline:
        address = launch.address()
        if address is not None:
            return address
        time.sleep(0.02)
    log = (place.folder / "stderr").read_text(errors="replace")
    raise ServerError(f"{name} did not start (exit code {process.poll()}): {log[-2000:]}")


def _stop(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    try:
        process.wait(_STOP_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def _launch_registry(place: Place, command: Sequence[str], mirror: str) -> _Launch:
    config = place.folder / "config.yml"
    more = mirror.format(upstream=place.upstream) if place.upstream else ""
    config.write_text(_registry_config(place) + more)
    return _Launch([*command, "serve", str(config)], lambda: _announced(place.folder / "stderr"))


def _announced(log: Path) -> str | None:
    found = _LISTENING.search(log.read_text(errors="replace"))
    return found.group(1) if found else None


def _registry_config(place: Place) -> str:
    """The configuration of both registries: that of Debian's package, without its password file."""
    tls = f"\n  tls: {{certificate: {place.certificate}, key: {place.key}}}" if place.certificate else ""
    return f"""\
version: 0.1
log:
  fields: {{service: registry}}
storage:
  cache: {{blobdescriptor: inmemory}}
  filesystem: {{rootdirectory: {place.store}}}
  delete: {{enabled: true}}
http:
  addr: 127.0.0.1:0
  headers: {{X-Content-Type-Options: [nosniff]}}{tls}
health:
  storagedriver: {{enabled: true, interval: 10s, threshold: 3}}
"""


def _launch_nginx(place: Place) -> _Launch:
    # nginx cannot be asked which port it got.
    with socket.create_server(("127.0.0.1", 0)) as probe:
        address = f"127.0.0.1:{probe.getsockname()[1]}"
    config = place.folder / "nginx.conf"
    config.write_text(_nginx_config(place, address))
    command = ["nginx", "-p", str(place.folder), "-e", "stderr", "-c", str(config)]
    return _Launch(command, lambda: address if _accepts(address) else None)


def _accepts(address: str) -> bool:
    host, _, port = address.partition(":")
    try:
        socket.create_connection((host, int(port)), timeout=1).close()
    except OSError:
        return False
    return True


def _nginx_config(place: Place, address: str) -> str:
    """One worker, files by sendfile, an access log as the registries write one."""
    kinds = ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    temporary = "".join(f"  {kind}_temp_path {kind}_temp;\n" for kind in kinds)
    tls = (
        f"    ssl_certificate {place.certificate};\n    ssl_certificate_key {place.key};\n    ssl_protocols TLSv1.3;\n"
        f"    ssl_conf_command Ciphersuites {TLS_SUITE};\n"
        if place.certificate
        else ""
    )
    answers = (
        f"location / {{ proxy_pass {place.upstream}; proxy_set_header Host $http_host; proxy_max_temp_file_size 0;"
        f" proxy_buffers 64 64k; limit_rate {place.rate}; }}"
        if place.upstream
        else f"root {place.store};"
    )
    return f"""\
daemon off;
worker_processes 1;
{"user root;" if os.geteuid() == 0 else ""}
pid nginx.pid;
events {{ worker_connections 256; }}
http {{
  sendfile on;
  tcp_nopush on;
  keepalive_requests 1000000000;
  default_type application/octet-stream;
  access_log access.log;
{temporary}  server {{
    listen {address}{" ssl" if place.certificate else ""};
{tls}    {answers}
  }}
}}
"""


# Distribution mirrors one registry and nothing else; registryd holds private repositories beside it.
_MIRROR = "proxy: {{remoteurl: '{upstream}'}}\n"
_SIDE_BY_SIDE = """\
proxy:
  upstreams: {{docker.io: {{remoteurl: '{upstream}'}}}}
  default: docker.io
  private: [private/**]
"""

_LAUNCHES: dict[str, Callable[[Place], _Launch]] = {
    REGISTRYD: lambda place: _launch_registry(place, [sys.executable, "-m", "registryd"], _SIDE_BY_SIDE),
    DISTRIBUTION: lambda place: _launch_registry(place, ["docker-registry"], _MIRROR),
    NGINX: _launch_nginx,
}
