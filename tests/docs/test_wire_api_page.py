"""docs/reference/wire-api has a curl for each route, and example replies with real fields."""

import json
import re
import time

import pytest

from tests.docs.curl import commands
from tests.docs.pages import blocks
from tests.openapi import apps
from unspoken.config.services import GATEWAY, port_by_service
from unspoken.runs.store import list_runs
from unspoken.wire.runs import ENDED

PAGE = [
    block
    for name in ("index", "llm", "detector", "segmenter", "gateway")
    for block in blocks(f"docs/reference/wire-api/{name}.md")
]
PORT_BY_SERVICE = port_by_service()
PROBES = ("/livez", "/readyz", "/v1/models")
# Fields whose keys are data: stages, reasons, templates.
PROGRESS = {"rate_per_s", "seconds_left", "bottleneck", "updated_s"}
"""Status fields that a dispatcher adds to a run; it may or may not have done so yet."""
FREE_FORM = {"timings_ms", "dropped", "failed", "raw_texts", "details"}


def asked() -> list[tuple[int, str, str]]:
    """Return (port, method, path) of every curl of the page."""
    return [
        (command.port, command.method, command.path)
        for block in PAGE
        if block.language == "sh"
        for command in commands(block.text)
    ]


@pytest.mark.parametrize("service", PORT_BY_SERVICE)
def test_every_route_has_a_curl(service):
    told, missing = asked(), []
    served_at = (PORT_BY_SERVICE[service], GATEWAY.port)
    for path, verbs in apps()[service].openapi()["paths"].items():
        pattern = re.compile(re.sub(r"\\\{\w+\\\}", "[^/]+", re.escape(path)))
        for verb in verbs:
            if not any(
                method == verb.upper()
                and pattern.fullmatch(asked_path)
                # The gateway passes on, and the probes are every service's: one of them shows how.
                and (port in served_at or path in PROBES)
                for port, method, asked_path in told
            ):
                missing.append(f"{verb.upper()} {path}")
    assert not missing


def wait_for_runs(runs_dir):
    """Wait until all runs have ended, because their failures are requested next."""
    deadline = time.monotonic() + 60
    while any(run.state not in ENDED for run in list_runs(runs_dir)):
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_every_curl_of_the_page_gets_the_reply_that_is_written_below_it(urls, tmp_path):
    for block, below in zip(PAGE, [*PAGE[1:], None], strict=True):
        if block.language != "sh":
            continue
        where = block.place
        wait_for_runs(tmp_path / "runs")
        replies = [command.send(urls, folder=tmp_path) for command in commands(block.text)]
        assert replies, f"{where} asks nothing"
        match below.language if block.is_right_above(below) else "":
            case "json":
                compare(json.loads(below.text), replies[-1].json(), where=where)
            case "text":
                written, real = (
                    {line.partition(":")[0] for line in text.splitlines() if line}
                    for text in (below.text, replies[-1].text)
                )
                assert written == real, where
            case _:
                assert all(reply.is_success for reply in replies), where


def compare(written, real, *, where):
    """Compare fields and types; a field that is None on one side may be absent on the other."""
    if isinstance(written, dict) and isinstance(real, dict):
        needed = {key for key, value in real.items() if value is not None and key not in PROGRESS}
        assert set(written) <= set(real) and needed <= set(written), (where, needed ^ set(written))
        for key in needed - FREE_FORM:
            compare(written[key], real[key], where=f"{where} {key}")
    elif isinstance(written, list) and isinstance(real, list):
        if written and real:
            compare(written[0], real[0], where=f"{where}[0]")
    else:
        kinds = [float if type(each) is int else type(each) for each in (written, real)]
        assert kinds[0] == kinds[1], (where, written, real)
