"""Callers' texts that try to forge log lines, control a terminal, or put a secret into the log."""

import io
import json
import logging
import re
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import quote

import httpx

from services.gateway.app import create_app as create_gateway
from services.gateway.settings import GatewaySettings
from tests.security.attacks.raw_http import ask
from tests.worker.service import serve
from unspoken.config.api_keys import ApiKey, KeyRing, key_sha256, new_key
from unspoken.http.app import use_keys
from unspoken.logs import JsonFormatter, TextFormatter, fields, log_ids

FORGED = "2026-01-01 00:00:00,000 ERROR unspoken forged line"
BREAKS = ("\n", "\r", "\r\n", "\x0b", "\x0c", "\x1c", "\x85", "\u2028", "\u2029")
CODES = ("\x1b[2J", "\x1b]0;title\x07", "\x9b31m", "\x00", "\x7f", "\u202e", "\ud800", "\x08")
_LINE = re.compile(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d,\d{3} [A-Z]+ \S+ |    ")
_CONTROLS = re.compile("[\x00-\x09\x0b-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\ud800-\udfff]")


def judge() -> dict[str, Any]:
    """Send and log every text in every place, in both formats, and check the log."""
    texts = [f"a{each}{FORGED}" for each in (*BREAKS, *CODES)]
    problems: list[str] = []
    num_lines = 0
    for name, formatter in (("text", TextFormatter()), ("json", JsonFormatter())):
        secrets = (new_key(), new_key())
        with written(formatter) as stream:
            log_everywhere(texts)
            ask_everywhere(texts, secrets)
        content = stream.getvalue()
        num_lines += content.count("\n")
        problems += [f"{name}: {problem}" for problem in _problems(content, name, secrets)]
    return {"texts": len(texts), "lines": num_lines, "problems": problems}


@contextmanager
def written(formatter: logging.Formatter) -> Iterator[io.StringIO]:
    """Capture all log lines of this process, as written by a formatter."""
    stream = io.StringIO()
    handler = logging.StreamHandler(stream)
    handler.setFormatter(formatter)
    root = logging.getLogger()
    level = root.level
    root.addHandler(handler)
    root.setLevel(logging.INFO)
    try:
        yield stream
    finally:
        root.removeHandler(handler)
        root.setLevel(level)


def log_everywhere(texts: list[str]) -> None:
    """Log each text as message, argument, field, id and exception of a line."""
    logger = logging.getLogger("tests.security.attacks.forgery")
    for text in texts:
        logger.info(text)
        logger.info("of %s", text)
        logger.info("with a field", extra=fields(key=text))
        with log_ids(run=text, request=text):
            logger.info("with ids")
        try:
            raise ValueError(text)
        except ValueError:
            logger.exception("with an exception")


def ask_everywhere(texts: list[str], secrets: tuple[str, str]) -> None:
    """Send each text as run id, picture id, query, key and header of requests to a gateway."""
    known, _ = secrets
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        settings = GatewaySettings(
            data_dir=folder / "data", runs_dir=folder / "runs", segmenter_url="http://127.0.0.1:9"
        )
        app = create_gateway(settings)
        entry = ApiKey(name="app", sha256=key_sha256(known), requests_per_minute=0)
        use_keys(app, KeyRing([entry]))
        with serve(app) as url:
            port = int(url.rpartition(":")[2])
            for text in texts:
                written_so = quote(text.encode("utf-8", "surrogatepass"), safe="")
                for key in secrets:
                    headers = {"Authorization": f"Bearer {key}"}
                    for path in ("runs", "images", "nowhere"):
                        ask(port, f"/{path}/{written_so}?x={written_so}", headers=headers)
                    httpx.post(
                        f"{url}/runs",
                        content=json.dumps({"source": text, "run_id": text}),
                        headers={**headers, "Content-Type": "application/json"},
                        trust_env=False,
                    )
                raw = text.encode("utf-8", "surrogatepass").decode("latin-1")
                for header in ("X-Request-Id", "X-Run-Id", "Authorization", "User-Agent"):
                    ask(port, "/runs", headers={header: raw})


def _problems(content: str, name: str, secrets: tuple[str, str]) -> Iterator[str]:
    for secret in secrets:
        if secret in content:
            yield "a key is in the log"
    if found := _CONTROLS.search(content):
        yield f"the character {found[0]!r} is in the log"
    lines = content.split("\n")[:-1]
    for line in lines:
        if line.startswith(FORGED) or (name == "text" and not _LINE.match(line)):
            yield f"a forged line: {line[:100]!r}"
        elif name == "json" and not isinstance(_object(line), dict):
            yield f"no JSON object: {line[:100]!r}"
    if not any("forged line" in line for line in lines):
        yield "nothing of what was sent is in the log"


def _object(line: str) -> object:
    try:
        return json.loads(line)
    except ValueError:
        return None
