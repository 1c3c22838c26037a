"""The daemon as a process of its own, for tests that have to see what its users see.

    with Daemon(storage={"delete": {"enabled": True}}) as daemon:
        ...  # daemon.url, daemon.address, daemon.pid, daemon.stderr, daemon.tree

Keyword arguments are the sections of one config file, merged over a store in a temporary folder and a free port of
127.0.0.1. Mappings as positional arguments are several config files for one process.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from types import TracebackType
from typing import IO, Any

import yaml

SERVE: Sequence[str] = (sys.executable, "-m", "registryd", "serve")
TWISTD: Sequence[str] = (str(Path(sys.executable).with_name("twistd")), "--nodaemon", "--pidfile=", "registryd")
PATIENCE = 30.0
"""Seconds that a start or an end may take on a machine that is busy with other things."""

_LISTENING = re.compile(
    r"listening on (?:(unix:)(?P<path>[^\s\"]+)|(?:(?P<scheme>https?)://)?(?P<host>\S+):(?P<port>\d+))"
)
_NOT_DRIVERS = {"delete", "cache", "maintenance", "redirect", "tag"}

Address = str | tuple[str, int]
"""The path of a unix socket, or host and port."""


class DaemonFailedError(Exception):
    """The process ended, or said nothing, instead of serving."""

    def __init__(self, exit_code: int | None, stdout: str, stderr: str) -> None:
        super().__init__(f"exit code {exit_code}\n{stdout}\n{stderr}")
        self.exit_code = exit_code
        self.stdout = stdout
        self.stderr = stderr


class Transcript:
    """All that one stream of a process has said; a thread reads it, so that the process never waits for a reader."""

    def __init__(self) -> None:
        self._content = bytearray()
        self._grown = threading.Condition()
        self._readers: list[threading.Thread] = []

    def follow(self, stream: IO[bytes]) -> None:
        """Add what comes from a stream until it ends."""
        reader = threading.Thread(target=self._read, args=(stream,), daemon=True)
        self._readers.append(reader)
        reader.start()

    def _read(self, stream: IO[bytes]) -> None:
        with stream:
            while content := os.read(stream.fileno(), 65536):
                with self._grown:
                    self._content += content
                    self._grown.notify_all()

    def __len__(self) -> int:
        return len(self._content)

    def since(self, position: int = 0) -> str:
        """What was said after a position, as ``len`` told it."""
        with self._grown:
            return self._content[position:].decode("utf-8", "replace")

    def wait_for(self, pattern: str, position: int = 0, timeout: float = PATIENCE) -> re.Match[str]:
        """The first match of a pattern in what is said after a position; a failed assertion if none comes in time."""
        deadline = time.monotonic() + timeout
        with self._grown:
            while True:
                text = self._content[position:].decode("utf-8", "replace")
                if match := re.search(pattern, text):
                    return match
                remaining = deadline - time.monotonic()
                assert remaining > 0, f"nothing like {pattern!r} in {timeout} s:\n{text}"
                self._grown.wait(remaining)

    def end(self) -> None:
        """Return when every stream has ended and all of it is here."""
        for reader in self._readers:
            reader.join(PATIENCE)
        self._readers.clear()


class Daemon:
    """A registry daemon in a process of its own; a context manager.

    ``command`` is run with the config files behind it: ``SERVE``, ``TWISTD`` (each file behind ``--config``), or what
    else there is. ``root`` is the store's root directory, else one in a temporary folder. ``env`` are variables for the
    process beside those of the tests, ``cwd`` its working folder, else the temporary one. ``exit_code`` is what SIGTERM
    has to end it with.
    """

    def __init__(
        self,
        *configs: Mapping[str, Any],
        command: Sequence[str] = SERVE,
        root: str | os.PathLike[str] | None = None,
        env: Mapping[str, str] | None = None,
        cwd: str | os.PathLike[str] | None = None,
        exit_code: int = 0,
        **config: Any,
    ) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="registryd-test-"))
        self.root = Path(root) if root is not None else self.folder / "store"
        self.command = command
        self.exit_code = exit_code
        self.addresses: list[Address] = []
        self.urls: list[str] = []
        self._env = dict(env or {})
        self._cwd = Path(cwd) if cwd is not None else self.folder
        self._configs = [self._complete(given, number) for number, given in enumerate(configs or (config,))]
        self._process: subprocess.Popen[bytes] | None = None
        self.out = Transcript()
        self.err = Transcript()

    def _complete(self, given: Mapping[str, Any], number: int) -> dict[str, Any]:
        defaults: dict[str, Any] = {"version": 0.1, "http": {"addr": "127.0.0.1:0"}}
        storage = given.get("storage", {})
        if isinstance(storage, Mapping) and not set(storage) - _NOT_DRIVERS:
            root = self.root if number == 0 else self.root.with_name(f"{self.root.name}-{number}")
            defaults["storage"] = {"filesystem": {"rootdirectory": str(root)}}
        return _merged(defaults, given)

    @property
    def url(self) -> str:
        """Where the first registry is served, without a slash at the end."""
        return self.urls[0]

    @property
    def address(self) -> Address:
        return self.addresses[0]

    @property
    def port(self) -> int:
        address = self.address
        assert not isinstance(address, str), f"{address} has no port"
        return address[1]

    @property
    def pid(self) -> int:
        assert self._process is not None, "not started"
        return self._process.pid

    @property
    def running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    @property
    def stdout(self) -> str:
        """All that was said on standard output, by earlier starts too."""
        return self.out.since()

    @property
    def stderr(self) -> str:
        """All that was said on standard error, by earlier starts too."""
        return self.err.since()

    @property
    def tree(self) -> Path:
        """The folder that holds ``blobs`` and ``repositories``."""
        return self.root / "docker" / "registry" / "v2"

    @property
    def config_files(self) -> list[Path]:
        """The config files; they are written at each start."""
        return [self.folder / f"config-{number}.yml" for number in range(len(self._configs))]

    def configure(self, **changes: Any) -> None:
        """Merge sections into the first config file; the next start reads it."""
        self._configs[0] = _merged(self._configs[0], changes)

    def start(self) -> None:
        """Start the process and return when each of its registries can be connected to.

        Errors:
            DaemonFailedError: it ended, or did not say in time where it listens.
        """
        assert not self.running, "already running"
        for path, config in zip(self.config_files, self._configs, strict=True):
            # Whole at any moment: a collector may be reading it while the daemon is started anew.
            written = path.with_suffix(".new")
            written.write_text(yaml.safe_dump(config, sort_keys=False), encoding="utf-8")
            written.rename(path)
        position = len(self.err)
        self._process = subprocess.Popen(
            [*self.command, *self._arguments()],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            cwd=self._cwd,
            env=self._environment(),
        )
        assert self._process.stdout is not None and self._process.stderr is not None
        self.out.follow(self._process.stdout)
        self.err.follow(self._process.stderr)
        self._learn_addresses(position)

    def _arguments(self) -> list[str]:
        files = [str(path) for path in self.config_files]
        if self.command == TWISTD:
            return [argument for path in files for argument in ("--config", path)]
        return files

    def _environment(self) -> dict[str, str]:
        # The process has to run the code that the tests import, installed or not, and no setting of whoever runs them.
        inherited = {name: value for name, value in os.environ.items() if not name.startswith("REGISTRY_")}
        spec = find_spec("registryd")
        if spec is not None and spec.submodule_search_locations:
            package = Path(next(iter(spec.submodule_search_locations)))
            inherited["PYTHONPATH"] = os.pathsep.join(filter(None, [str(package.parent), inherited.get("PYTHONPATH")]))
        return {**inherited, **self._env}

    def _learn_addresses(self, position: int) -> None:
        assert self._process is not None
        deadline = time.monotonic() + PATIENCE
        while True:
            # Whether it has ended is asked first: what it said before it ended is then complete below.
            exit_code = self._process.poll()
            if exit_code is not None:
                self.out.end()
                self.err.end()
            lines = list(_LISTENING.finditer(self.err.since(position)))
            if len(lines) >= len(self._configs) and exit_code is None:
                break
            if exit_code is not None or time.monotonic() > deadline:
                self.kill()
                raise DaemonFailedError(exit_code, self.stdout, self.err.since(position))
            time.sleep(0.01)
        self.addresses = [_address(line) for line in lines]
        self.urls = [_url(line) for line in lines]

    def kill(self) -> None:
        """End the process at once, as a crash would."""
        if self._process is not None:
            self._process.kill()
            self._ended()

    def terminate(self) -> None:
        """End the process by SIGTERM; a failed assertion if it takes too long or ends with another exit code."""
        assert self._process is not None, "not started"
        self._process.send_signal(signal.SIGTERM)
        try:
            exit_code = self._process.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            self.kill()
            raise AssertionError(f"SIGTERM did not end the daemon in {PATIENCE} s:\n{self.stderr}") from None
        self._ended()
        assert exit_code == self.exit_code, f"exit code {exit_code} after SIGTERM:\n{self.stderr}"

    def wait(self, timeout: float = PATIENCE) -> int:
        """The exit code of a process that is about to end."""
        assert self._process is not None, "not started"
        exit_code = self._process.wait(timeout)
        self._ended()
        return exit_code

    def _ended(self) -> None:
        assert self._process is not None
        self._process.wait()
        self.out.end()
        self.err.end()

    def restart(self) -> None:
        """End the process by SIGTERM, if it runs, and start another on the same store; its port may be another."""
        if self.running:
            self.terminate()
        self.start()

    def close(self) -> None:
        """End the process, if it runs, and remove its temporary folder."""
        try:
            if self.running:
                self.terminate()
        finally:
            shutil.rmtree(self.folder, ignore_errors=True)

    def __enter__(self) -> Daemon:
        try:
            self.start()
        except BaseException:
            self.kill()
            shutil.rmtree(self.folder, ignore_errors=True)
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if error is not None:
            self.kill()
        self.close()


def _merged(under: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    result = dict(under)
    for key, value in over.items():
        below = result.get(key)
        if isinstance(below, Mapping) and isinstance(value, Mapping):
            result[key] = _merged(below, value)
        else:
            result[key] = value
    return result


def _address(line: re.Match[str]) -> Address:
    if line["path"]:
        return line["path"]
    return line["host"].strip("[]"), int(line["port"])


def _url(line: re.Match[str]) -> str:
    if line["path"]:
        return f"unix:{line['path']}"
    return f"{line['scheme'] or 'http'}://{line['host']}:{line['port']}"
