"""A real client that is missing is a failure in CI and a skip elsewhere; no program runs for ever."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from .programs import Service, program, run


def test_missing_program_is_skipped_with_advice(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CI", raising=False)
    with pytest.raises(pytest.skip.Exception, match=r"no-such-client is not installed; \.ci/install-clients"):
        program("no-such-client")


def test_missing_program_fails_in_ci(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CI", "true")
    with pytest.raises(pytest.fail.Exception, match=r"no-such-client is not installed; \.ci/install-clients"):
        program("no-such-client")


def test_program_that_takes_too_long_is_ended() -> None:
    started = time.monotonic()
    with pytest.raises(AssertionError, match="took longer than"):
        run(["/bin/sh", "-c", "sleep 60 & wait"], seconds=0.2)
    assert time.monotonic() - started < 30


def test_exit_code_is_checked() -> None:
    with pytest.raises(AssertionError, match="ended with 3:\nthis\n"):
        run(["/bin/sh", "-c", "echo this; exit 3"])
    assert run(["/bin/sh", "-c", "exit 3"], expect=3).code == 3


def test_service_that_ends_early_tells_what_it_said(tmp_path: Path) -> None:
    with (
        Service(["/bin/sh", "-c", "echo this"], tmp_path / "log") as service,
        pytest.raises(AssertionError, match="this"),
    ):
        service.ready(lambda: False)


def test_service_is_ended_by_force_when_it_must(tmp_path: Path) -> None:
    stubborn = ["/bin/sh", "-c", "trap '' TERM; echo up; while :; do sleep 0.05; done"]
    service = Service(stubborn, tmp_path / "log")
    service.ready(lambda: "up" in service.log)
    assert service.stop(seconds=0.2) == -9
