"""The daemon's log: Twisted's events as lines of text or JSON, the way Distribution's users read them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import datetime, timezone
from typing import Any, TextIO

from twisted.logger import FilteringLogObserver, ILogObserver, LogEvent, LogLevel, LogLevelFilterPredicate, formatEvent
from twisted.python.failure import Failure
from zope.interface import provider

from registryd.config import Log

_LEVELS = {"error": LogLevel.error, "warn": LogLevel.warn, "info": LogLevel.info, "debug": LogLevel.debug}
_NAMES = {"critical": "fatal", "warn": "warning"}


def log_observer(settings: Log, stream: TextIO) -> ILogObserver:
    """What writes events to a stream, as a configuration's ``log`` section asks for.

    Source: Distribution's logs: logrus's text and JSON formatters, and logstash's.
    """
    form = {"json": _json, "logstash": _logstash}.get(settings.formatter, _text)

    @provider(ILogObserver)
    def write(event: LogEvent) -> None:
        try:
            stream.write(form(_record(event, settings.fields)) + "\n")
            stream.flush()
        except (OSError, ValueError):
            pass  # The reader of the log is gone; the daemon goes on.

    return FilteringLogObserver(write, [LogLevelFilterPredicate(defaultLogLevel=_LEVELS[settings.level])])


def _record(event: LogEvent, fields: Mapping[str, str]) -> dict[str, Any]:
    moment = datetime.fromtimestamp(event["log_time"], timezone.utc)
    level = event["log_level"].name
    record = {
        "time": moment.isoformat(timespec="milliseconds").replace("+00:00", "Z"),
        "level": _NAMES.get(level, level),
        "msg": formatEvent(event),
    }
    record.update((key, value) for key, value in fields.items() if key not in record)
    failure = event.get("log_failure")
    if isinstance(failure, Failure):
        record["msg"] = record["msg"] or failure.getErrorMessage()
        record["error"] = failure.getTraceback()
    return record


def _text(record: Mapping[str, Any]) -> str:
    return " ".join(f"{key}={_quoted(str(value))}" for key, value in record.items())


def _quoted(text: str) -> str:
    plain = text.isascii() and text.isprintable() and text and not any(character in text for character in ' "=\\')
    return text if plain else json.dumps(text, ensure_ascii=False)


def _json(record: Mapping[str, Any]) -> str:
    return json.dumps(record, ensure_ascii=False)


def _logstash(record: Mapping[str, Any]) -> str:
    renamed = {"time": "@timestamp", "msg": "message"}
    return json.dumps({"@version": "1", **{renamed.get(key, key): value for key, value in record.items()}})
