"""Log lines for people or for programs, with the ids of what they are about.

A line is one line: control characters are escaped, a traceback is indented, secrets are redacted.

    with log_ids(run="labels", chunk=7):
        logger.info("committed", extra=fields(rows=8))

gives `... committed rows=8 run=labels chunk=7`, or one JSON object with these keys. Ids belong to a
thread or a task (contextvars); `carried` takes them into another thread, `outgoing_headers` to
another service, `incoming_ids` out of a request.
"""

import json
import logging
import re
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar, copy_context
from datetime import UTC, datetime
from functools import partial
from typing import Literal, TypeVar

from unspoken.safe_text import escape_controls, escape_json, redact

Result = TypeVar("Result")
LogFormat = Literal["text", "json"]

REQUEST_HEADER = "X-Request-Id"
LAYOUT = "%(asctime)s %(levelname)s %(name)s %(message)s"
_NOT_PLAIN = re.compile(r'[\s="]')
# Ids of a header are bounded and of few characters; anything else counts as absent.
_HEADERS = {
    "request": (REQUEST_HEADER, re.compile(r"[A-Za-z0-9_.-]{1,64}")),
    "run": ("X-Run-Id", re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")),
    "chunk": ("X-Chunk-Id", re.compile(r"[0-9]{1,9}")),
}
_NO_IDS: Mapping[str, str] = {}
_ids: ContextVar[Mapping[str, str]] = ContextVar("log ids", default=_NO_IDS)


@contextmanager
def log_ids(**ids: object) -> Iterator[None]:
    """Lines of this thread or task carry these ids until the block ends; None says nothing."""
    told = {name: str(value) for name, value in ids.items() if value is not None}
    token = _ids.set({**_ids.get(), **told})
    try:
        yield
    finally:
        _ids.reset(token)


def fields(**values: object) -> dict[str, object]:
    """The `extra` of a log call: keys of that line alone."""
    return {"fields": values}


def carried(function: Callable[..., Result], *args: object) -> Callable[[], Result]:
    """The call, to be made in another thread with the ids of this one."""
    return partial(copy_context().run, function, *args)


def outgoing_headers() -> dict[str, str]:
    """Headers that tell another service the present ids; a request without an id gets one."""
    ids = {"request": uuid.uuid4().hex, **_ids.get()}
    return {header: ids[name] for name, (header, _) in _HEADERS.items() if name in ids}


def incoming_ids(headers: Mapping[str, str]) -> dict[str, str]:
    """Ids of a request by its headers; one that is not sane counts as absent."""
    sent = {name: headers.get(header, "") for name, (header, _) in _HEADERS.items()}
    sane = {name: text for name, text in sent.items() if _HEADERS[name][1].fullmatch(text)}
    return {"request": uuid.uuid4().hex, **sane}


class TextFormatter(logging.Formatter):
    """Time, level, logger and message, then fields and ids as `key=value`, as logfmt quotes them.

    layout: what stands before the keys, in the form of logging.Formatter.
    """

    def __init__(self, layout: str = LAYOUT) -> None:
        super().__init__(layout)

    def format(self, record: logging.LogRecord) -> str:
        """See logging.Formatter."""
        record.message = record.getMessage()
        record.asctime = self.formatTime(record)
        keys = "".join(f" {name}={_quoted(value)}" for name, value in _keys(record).items())
        line = escape_controls(redact(self.formatMessage(record))) + keys
        # Only a real line starts at the left edge: the text of an exception cannot forge one.
        return "\n    ".join([line, *_traceback(self, record)])


class JsonFormatter(logging.Formatter):
    """One JSON object on one line: time (UTC), level, logger, pid, message, fields, ids.

    Characters that a terminal would act on are escaped as JSON escapes them.
    """

    def format(self, record: logging.LogRecord) -> str:
        """See logging.Formatter."""
        line: dict[str, object] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname,
            "logger": record.name,
            "pid": record.process,
            "message": redact(record.getMessage()),
            **_keys(record),
        }
        if lines := _traceback(self, record):
            line["exception"] = "\n".join(lines)
        return escape_json(json.dumps(line, default=str, ensure_ascii=False))


def configure_logging(level: str, log_format: LogFormat, *, layout: str = LAYOUT) -> None:
    """Write log lines to standard error; httpx's line for every request is left out.

    layout: of text lines, in the form of logging.Formatter.
    """
    handler = logging.StreamHandler()
    handler.setFormatter(JsonFormatter() if log_format == "json" else TextFormatter(layout))
    logging.basicConfig(level=level.upper(), handlers=[handler])
    logging.getLogger("httpx").setLevel(logging.WARNING)


def _keys(record: logging.LogRecord) -> dict[str, object]:
    """Fields and ids of a line; texts are redacted."""
    keys = {**getattr(record, "fields", {}), **_ids.get()}
    return {
        name: redact(value) if isinstance(value, str) else value for name, value in keys.items()
    }


def _quoted(value: object) -> str:
    """A value of a text line: in quotes where a blank or '=' would begin another key."""
    text = str(value)
    if _NOT_PLAIN.search(text):
        return escape_json(json.dumps(text, ensure_ascii=False))
    return escape_controls(text)


def _traceback(formatter: logging.Formatter, record: logging.LogRecord) -> list[str]:
    """Lines of the exception and the stack of a record, escaped and redacted."""
    parts = [formatter.formatException(record.exc_info)] if record.exc_info else []
    parts += [formatter.formatStack(record.stack_info)] if record.stack_info else []
    return [escape_controls(line) for line in redact("\n".join(parts)).split("\n") if line]
