"""Log lines for people (text) or programs (JSON), with the ids of the request or run.

An entry is one line: control characters are escaped, tracebacks are indented, secrets are redacted.

    with log_ids(run="labels", chunk=7):
        logger.info("committed", extra=fields(rows=8))

gives `... committed rows=8 run=labels chunk=7`, or one JSON object with these keys. Ids belong to a
thread or a task (contextvars). `bind_context` copies them into another thread, `outgoing_headers`
sends them to another service, and `incoming_ids` reads them from a request.
"""

import json
import logging
import os
import re
import sys
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
PROGRESS_LAYOUT = "%(asctime)s %(message)s"
"""Layout for programs whose log lines report the progress of their only job, such as training."""
_HANDLER = "unspoken"
_NOT_PLAIN = re.compile(r'[\s="]')
# Ids in headers have a limited length and character set; any other value is ignored.
_HEADERS = {
    "request": (REQUEST_HEADER, re.compile(r"[A-Za-z0-9_.-]{1,64}")),
    "run": ("X-Run-Id", re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")),
    "chunk": ("X-Chunk-Id", re.compile(r"[0-9]{1,9}")),
}
_QUIET = {
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "HF_HUB_VERBOSITY": "error",
    "TRANSFORMERS_NO_ADVISORY_WARNINGS": "1",
    "TRANSFORMERS_VERBOSITY": "error",
}
"""Switches of libraries that print bars and reports past the log. They read them when imported."""
_NO_IDS: Mapping[str, str] = {}
_ids: ContextVar[Mapping[str, str]] = ContextVar("log ids", default=_NO_IDS)


@contextmanager
def log_ids(**ids: object) -> Iterator[None]:
    """Add ids to the log lines of this thread or task until the block ends; None is skipped."""
    told = {name: str(value) for name, value in ids.items() if value is not None}
    token = _ids.set({**_ids.get(), **told})
    try:
        yield
    finally:
        _ids.reset(token)


def fields(**values: object) -> dict[str, object]:
    """Return the `extra` of a log call: keys of that line only."""
    return {"fields": values}


def bind_context(function: Callable[..., Result], *args: object) -> Callable[[], Result]:
    """Bind this thread's ids and deadline to a call, so that another thread can make it."""
    return partial(copy_context().run, function, *args)


def outgoing_headers() -> dict[str, str]:
    """Return headers with the current ids for another service, and a new request id if needed."""
    ids = {"request": uuid.uuid4().hex, **_ids.get()}
    return {header: ids[name] for name, (header, _) in _HEADERS.items() if name in ids}


def incoming_ids(headers: Mapping[str, str]) -> dict[str, str]:
    """Return the ids in a request's headers; invalid ones are ignored."""
    sent = {name: headers.get(header, "") for name, (header, _) in _HEADERS.items()}
    sane = {name: text for name, text in sent.items() if _HEADERS[name][1].fullmatch(text)}
    return {"request": uuid.uuid4().hex, **sane}


class TextFormatter(logging.Formatter):
    """Formats time, level, logger and message, then fields and ids as `key=value` (logfmt).

    `layout` is a logging.Formatter format for the part before the keys.
    """

    def __init__(self, layout: str = LAYOUT) -> None:
        super().__init__(layout)

    def format(self, record: logging.LogRecord) -> str:
        """See logging.Formatter."""
        record.message = record.getMessage()
        record.asctime = self.formatTime(record)
        keys = "".join(f" {name}={_quoted(value)}" for name, value in _keys(record).items())
        line = escape_controls(redact(self.formatMessage(record))) + keys
        # Indent all further lines, so that the text of an exception cannot forge a log line.
        return "\n    ".join([line, *_traceback(self, record)])


class JsonFormatter(logging.Formatter):
    """Formats one JSON object per line: time (UTC), level, logger, pid, message, fields, ids.

    Characters that a terminal would interpret are escaped as in JSON.
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
    """Write log lines to standard error, without httpx's line for every request.

    Reports and progress bars of libraries are switched off, unless the environment sets their
    switches. Python warnings are log lines at level DEBUG, unless -W or PYTHONWARNINGS is set.

    A second call replaces the first. If the root logger has handlers of other code, these stay, and
    no handler is added. `layout` is a logging.Formatter format for text lines.
    """
    root = logging.getLogger()
    for earlier in [each for each in root.handlers if each.name == _HANDLER]:
        root.removeHandler(earlier)
    handler = logging.StreamHandler()
    handler.name = _HANDLER
    handler.setFormatter(JsonFormatter() if log_format == "json" else TextFormatter(layout))
    logging.basicConfig(level=level.upper(), handlers=[handler])  # noqa: TID251
    logging.getLogger("httpx").setLevel(logging.WARNING)
    for name, value in _QUIET.items():
        os.environ.setdefault(name, value)  # noqa: TID251
    if not sys.warnoptions:
        logging.captureWarnings(True)  # noqa: FBT003
        is_debug = root.isEnabledFor(logging.DEBUG)
        logging.getLogger("py.warnings").setLevel(logging.DEBUG if is_debug else logging.ERROR)


def _keys(record: logging.LogRecord) -> dict[str, object]:
    """Return the fields and ids of a line; strings are redacted."""
    keys = {**getattr(record, "fields", {}), **_ids.get()}
    return {
        name: redact(value) if isinstance(value, str) else value for name, value in keys.items()
    }


def _quoted(value: object) -> str:
    """Return a value for a text line, in quotes if it has whitespace, '=' or quotes."""
    text = str(value)
    if _NOT_PLAIN.search(text):
        return escape_json(json.dumps(text, ensure_ascii=False))
    return escape_controls(text)


def _traceback(formatter: logging.Formatter, record: logging.LogRecord) -> list[str]:
    """Return the lines of a record's exception and stack, escaped and redacted."""
    parts = [formatter.formatException(record.exc_info)] if record.exc_info else []
    parts += [formatter.formatStack(record.stack_info)] if record.stack_info else []
    return [escape_controls(line) for line in redact("\n".join(parts)).split("\n") if line]
