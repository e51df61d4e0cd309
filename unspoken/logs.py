"""Log lines for people or for programs, with the ids of what they are about.

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
from typing import Any, Literal, TypeVar

Result = TypeVar("Result")
LogFormat = Literal["text", "json"]

REQUEST_HEADER = "X-Request-Id"
# What a header may say is bounded, so that nobody writes lines into our log.
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
    """Time, level, logger and message, then fields and ids as `key=value`."""

    def __init__(self) -> None:
        super().__init__("%(asctime)s %(levelname)s %(name)s %(message)s")

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802 - logging's own name
        """See logging.Formatter."""
        keys = "".join(f" {name}={value}" for name, value in _keys(record).items())
        return super().formatMessage(record) + keys


class JsonFormatter(logging.Formatter):
    """One JSON object on one line: time (UTC), level, logger, pid, message, fields, ids."""

    def format(self, record: logging.LogRecord) -> str:
        """See logging.Formatter."""
        line: dict[str, object] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname,
            "logger": record.name,
            "pid": record.process,
            "message": record.getMessage(),
            **_keys(record),
        }
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return json.dumps(line, default=str, ensure_ascii=False)


def configure_logging(level: str, log_format: LogFormat) -> None:
    """Log lines on standard error; httpx's line for every request is not among them."""
    handler = logging.StreamHandler()
    handler.setFormatter(JsonFormatter() if log_format == "json" else TextFormatter())
    logging.basicConfig(level=level.upper(), handlers=[handler])
    logging.getLogger("httpx").setLevel(logging.WARNING)


def _keys(record: logging.LogRecord) -> dict[str, Any]:
    return {**getattr(record, "fields", {}), **_ids.get()}
