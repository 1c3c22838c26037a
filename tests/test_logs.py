"""The forms of the log."""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Mapping
from typing import Any

from twisted.logger import LogEvent, Logger, LogLevel, LogPublisher
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase

from registryd.config import Log
from registryd.logs import log_observer

TIME = 1795251600.1234
EVENT: LogEvent = {"log_time": TIME, "log_level": LogLevel.info, "log_format": "a", "log_namespace": "n"}


class Broken(io.StringIO):
    """A stream whose reader is gone."""

    def __init__(self, error: Exception) -> None:
        super().__init__()
        self.error = error
        self.tried = False

    def write(self, text: str) -> int:
        self.tried = True
        raise self.error


class LogCase(SynchronousTestCase):
    def lines(
        self,
        tell: Callable[[Logger], object],
        formatter: str = "text",
        level: str = "debug",
        fields: Mapping[str, str] | None = None,
    ) -> list[str]:
        """What is written of what is told."""
        stream = io.StringIO()
        observer = log_observer(Log(level, formatter, fields or {}, True), stream)

        def at_one_time(event: LogEvent) -> None:
            observer({**event, "log_time": TIME})

        tell(Logger(namespace="n", observer=LogPublisher(at_one_time)))  # type: ignore[arg-type]
        written = stream.getvalue()
        self.assertTrue(not written or written.endswith("\n"))
        return written.split("\n")[:-1]

    def record(self, tell: Callable[[Logger], object], formatter: str = "json", **fields: str) -> dict[str, Any]:
        (line,) = self.lines(tell, formatter, fields=fields)
        record: dict[str, Any] = json.loads(line)
        return record


class FormTests(LogCase):
    def test_text(self) -> None:
        (line,) = self.lines(lambda log: log.info("a message of {n}", n=3), fields={"service": "registry"})
        self.assertEqual(line, 'time=2026-11-21T09:00:00.123Z level=info msg="a message of 3" service=registry')

    def test_text_is_quoted_where_it_must_be(self) -> None:
        for text, shown in (
            ("plain", "plain"),
            ("", '""'),
            ("a b", '"a b"'),
            ("a=b", '"a=b"'),
            ('a"b', '"a\\"b"'),
            ("a\\b", '"a\\\\b"'),
            ("a\nlevel=info", '"a\\nlevel=info"'),
            ("a\r\n\t\0\x1b[31m", '"a\\r\\n\\t\\u0000\\u001b[31m"'),
            ("ä", '"ä"'),
        ):
            (line,) = self.lines(lambda log, text=text: log.warn("{text}", text=text))  # type: ignore[misc]
            self.assertEqual(line.partition(" msg=")[2], shown)

    def test_json(self) -> None:
        record = self.record(lambda log: log.error("a {what}", what='"b"\n'), environment="test")
        expected = {"time": "2026-11-21T09:00:00.123Z", "level": "error", "msg": 'a "b"\n', "environment": "test"}
        self.assertEqual(record, expected)

    def test_logstash(self) -> None:
        record = self.record(lambda log: log.warn("a"), "logstash", environment="test")
        self.assertEqual(
            record,
            {
                "@version": "1",
                "@timestamp": "2026-11-21T09:00:00.123Z",
                "level": "warning",
                "message": "a",
                "environment": "test",
            },
        )

    def test_levels_have_the_names_of_distribution(self) -> None:
        for level, name in (
            (LogLevel.debug, "debug"),
            (LogLevel.info, "info"),
            (LogLevel.warn, "warning"),
            (LogLevel.error, "error"),
            (LogLevel.critical, "fatal"),
        ):
            self.assertEqual(self.record(lambda log, level=level: log.emit(level, "a"))["level"], name)  # type: ignore[misc]

    def test_only_what_is_asked_for(self) -> None:
        def tell(log: Logger) -> None:
            for level in LogLevel.iterconstants():
                log.emit(level, "a")

        for level, number in (("debug", 5), ("info", 4), ("warn", 3), ("error", 2)):
            self.assertEqual(len(self.lines(tell, level=level)), number)

    def test_failures_are_one_line(self) -> None:
        def tell(log: Logger) -> None:
            try:
                raise ValueError("what went\nwrong")
            except ValueError:
                log.failure("while {doing}", Failure(), doing="testing")

        for formatter in ("text", "json", "logstash"):
            (line,) = self.lines(tell, formatter)
            self.assertIn("while testing", line)
            self.assertIn("ValueError", line)
            self.assertIn("test_logs.py", line)
        self.assertIn("Traceback", self.record(tell)["error"])

    def test_failures_without_words_of_their_own(self) -> None:
        failure = Failure(ValueError("what went wrong"))
        record = self.record(lambda log: log.emit(LogLevel.critical, log_failure=failure))
        self.assertEqual((record["msg"], record["level"]), ("what went wrong", "fatal"))

    def test_events_that_cannot_be_formatted(self) -> None:
        for formatter in ("text", "json", "logstash"):
            (line,) = self.lines(lambda log: log.info("{missing} {also.missing}"), formatter)
            self.assertTrue(line)

    def test_other_values_in_a_message(self) -> None:
        record = self.record(lambda log: log.info("{a} {b!r} {c}", a=b"\xff", b="x", c=None))
        self.assertEqual(record["msg"], "b'\\xff' 'x' None")

    def test_a_reader_that_is_gone_is_no_error(self) -> None:
        for error in (BrokenPipeError(), OSError(28, "full"), ValueError("I/O operation on closed file")):
            stream = Broken(error)
            log_observer(Log("info", "text", {}, True), stream)(EVENT)
            self.assertTrue(stream.tried)

    def test_every_line_is_written_at_once(self) -> None:
        flushed: list[str] = []

        class Stream(io.StringIO):
            def flush(self) -> None:
                flushed.append(self.getvalue())

        observer = log_observer(Log("info", "text", {}, True), Stream())
        observer(EVENT)
        self.assertEqual(len(flushed), 1)
        self.assertTrue(flushed[0].endswith("msg=a\n"))
