"""What ``twistd registryd`` runs: its options, and the services that they come to."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from types import FrameType
from typing import Any, NoReturn

from twisted.application.service import IService, MultiService
from twisted.internet.defer import maybeDeferred
from twisted.internet.error import ReactorNotRunning
from twisted.logger import ILogObserver, Logger
from twisted.python import usage
from twisted.python.components import Componentized

from registryd.allocator import keep_buffers
from registryd.config import Config, ConfigError, Log, load
from registryd.daemon import RegistryService, StartError
from registryd.http.accesslog import AccessLog
from registryd.logs import log_observer

_log = Logger()


class Options(usage.Options):
    """The options of ``twistd registryd``."""

    synopsis = "[--config FILE]..."
    longdesc = "A container registry. Each --config is a registry of its own, with its port and its store."

    def __init__(self) -> None:
        super().__init__()
        self.configs: list[str] = []

    def opt_config(self, path: str) -> None:
        """A configuration file; none: the built-in one, or what REGISTRY_CONFIGURATION_PATH names."""
        self.configs.append(path)

    opt_c = opt_config


def load_all(paths: Sequence[str]) -> Sequence[Config]:
    """The configurations of some files, or the one that is found without a file.

    Errors:
        StartError: one cannot be read.
    """
    try:
        return [load(path, os.environ) for path in paths or (None,)]
    except ConfigError as error:
        raise StartError(str(error)) from error


def _log_lines(text: str) -> None:
    """Let lines become events of the log: for a daemon, which has no standard output."""
    for line in text.splitlines():
        _log.info("{line}", line=line)


def _to_descriptor(descriptor: int) -> Callable[[str], None]:
    """Writes text to a descriptor, without a buffer whose lock would outlive a write that never ends."""

    def write(text: str) -> None:
        data = text.encode("utf-8")
        while data:
            data = data[os.write(descriptor, data) :]

    return write


def standard_observer(settings: Log) -> ILogObserver:
    """What writes the log to standard error."""
    return log_observer(settings, _own(sys.stderr.fileno()))


class Registries(MultiService):
    """The registries of one process. They start all or not at all."""

    def __init__(
        self, configs: Sequence[Config], reactor: Any, write_access: Callable[[str], None] | None = None
    ) -> None:
        super().__init__()
        self._reactor = reactor
        self._access_log = AccessLog(write_access or _to_descriptor(os.dup(sys.stdout.fileno())), reactor)
        for config in configs:
            RegistryService(config, reactor, self._access_log).setServiceParent(self)

    def startService(self) -> None:
        keep_buffers()
        super().startService()
        self._reactor.callWhenRunning(self._stop_quietly)

    def stopService(self) -> Any:
        return maybeDeferred(super().stopService).addCallback(lambda _: self._access_log.close())

    def _stop_quietly(self) -> None:
        """Let SIGTERM end the process with success, once all is drained, instead of by the signal."""

        def stop(number: int, frame: FrameType | None) -> None:
            self._reactor.callFromThread(self._stop_reactor)

        signal.signal(signal.SIGTERM, stop)

    def _stop_reactor(self) -> None:
        try:
            self._reactor.stop()
        except ReactorNotRunning:
            pass  # It is stopping already.


class _UnderTwistd(Registries):
    """The registries as twistd starts them: its log is ours unless its command line says otherwise."""

    def __init__(self, configs: Sequence[Config], reactor: Any, twistd: Any) -> None:
        self._daemonizes = not twistd.get("nodaemon")
        super().__init__(configs, reactor, _log_lines if self._daemonizes else None)
        self._keeps_log = self._daemonizes or any(twistd.get(option) for option in ("logfile", "logger", "syslog"))
        self._log_settings = configs[0].log

    def setServiceParent(self, parent: Any) -> None:
        super().setServiceParent(parent)
        if isinstance(parent, Componentized) and not self._keeps_log:
            parent.setComponent(ILogObserver, standard_observer(self._log_settings))

    def privilegedStartService(self) -> None:
        with self._one_line():
            super().privilegedStartService()

    def startService(self) -> None:
        with self._one_line():
            super().startService()

    @contextmanager
    def _one_line(self) -> Iterator[None]:
        """Tell a failed start in one line. A daemon's parent waits for an exception to be told of: it tells it then."""
        try:
            yield
        except StartError as error:
            if self._daemonizes:
                raise
            _give_up(error)


def makeService(options: Options) -> IService:
    """The services of a twistd command line."""
    from twisted.internet import reactor

    try:
        return _UnderTwistd(load_all(options.configs), reactor, options.parent or {})
    except StartError as error:
        _give_up(error)


def _give_up(error: StartError) -> NoReturn:
    """End the process with one line instead of a traceback."""
    raise SystemExit(f"registryd: {error}")


def _own(descriptor: int) -> Any:
    """A line-buffered text stream over a standard descriptor, which twistd's own redirection leaves alone."""
    return open(os.dup(descriptor), "w", buffering=1, encoding="utf-8", errors="backslashreplace")
