"""Programs that tests run: found or asked for, run within a time limit, ended by their own process id."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import NoReturn

import attrs
import pytest

SYSTEM_FOLDERS = "/usr/local/sbin:/usr/sbin:/sbin"


def unavailable(reason: str) -> NoReturn:
    """End a test that needs a real client which is not to be had: in CI as a failure, elsewhere as a skip."""
    message = f"{reason}; .ci/install-clients, run as root on Debian or Ubuntu, installs the real clients"
    if os.environ.get("CI") == "true":
        pytest.fail(message, pytrace=False)
    pytest.skip(message)


def program(name: str) -> str:
    """The path of an installed program, which ends the test as ``unavailable`` does where there is none."""
    path = shutil.which(name, path=f"{os.environ.get('PATH', os.defpath)}:{SYSTEM_FOLDERS}")
    if path is None:
        unavailable(f"{name} is not installed")
    return path


def root_only(what: str) -> None:
    """End the test as ``unavailable`` does where it is not run by root."""
    if os.geteuid() != 0:
        unavailable(f"{what} runs only as root")


@attrs.frozen
class Outcome:
    """How a program ended and what it said."""

    code: int
    stdout: str
    stderr: str

    @property
    def said(self) -> str:
        return f"{self.stdout}\n{self.stderr}"


def run(
    arguments: Sequence[str | Path],
    *,
    content: bytes | None = None,
    environment: Mapping[str, str] | None = None,
    seconds: float = 60,
    expect: int | None = 0,
) -> Outcome:
    """Run a program to its end, with ``content`` on its standard input.

    Errors:
        AssertionError: it took longer than ``seconds``, or its exit code is not the expected one (None: any will do).
    """
    process = subprocess.Popen(
        [str(argument) for argument in arguments],
        stdin=subprocess.DEVNULL if content is None else subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=None if environment is None else dict(environment),
        start_new_session=True,
    )
    try:
        stdout, stderr = process.communicate(content, timeout=seconds)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        stdout, stderr = process.communicate()
        raise AssertionError(f"{arguments} took longer than {seconds} s: {stdout!r} {stderr!r}") from None
    outcome = Outcome(process.returncode, stdout.decode(errors="replace"), stderr.decode(errors="replace"))
    assert expect is None or outcome.code == expect, f"{arguments} ended with {outcome.code}:\n{outcome.said}"
    return outcome


def wait_until(condition: Callable[[], bool], seconds: float, what: str) -> None:
    """Return once a condition holds.

    Errors:
        AssertionError: it does not within ``seconds``.
    """
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"not within {seconds} s: {what}"
        time.sleep(0.02)


class Service:
    """A program that runs until it is stopped; what it says lies in a file."""

    def __init__(
        self, arguments: Sequence[str | Path], log: Path, environment: Mapping[str, str] | None = None
    ) -> None:
        self._log = log
        with log.open("wb") as output:
            self.process = subprocess.Popen(
                [str(argument) for argument in arguments],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env=None if environment is None else dict(environment),
                start_new_session=True,
            )

    @property
    def log(self) -> str:
        return self._log.read_text(errors="replace")

    def ready(self, condition: Callable[[], bool], seconds: float = 30) -> None:
        """Return once the program does its service.

        Errors:
            AssertionError: it ended, or needs longer than ``seconds``; with what it said.
        """
        try:
            wait_until(lambda: self.process.poll() is not None or condition(), seconds, "ready")
            assert self.process.poll() is None, f"ended with {self.process.returncode}"
        except AssertionError as error:
            self.stop()
            raise AssertionError(f"{self.process.args!r}: {error}:\n{self.log[-4000:]}") from None

    def stop(self, seconds: float = 20) -> int:
        """End the program in its own way, or by force when it takes too long; the exit code."""
        if self.process.poll() is None:
            self.process.terminate()
            try:
                self.process.wait(seconds)
            except subprocess.TimeoutExpired:
                self.process.kill()
        return self.process.wait()

    def __enter__(self) -> Service:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.stop()
