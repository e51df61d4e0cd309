"""Sends every bomb to two services and prints one JSON object.

`python -m tests.security.attacks.bombs`.

It runs in its own process, so that its memory is that of the services alone.
"""

import base64
import json
import sys
import time
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

from services.detector import app as detector
from services.segmenter import app as segmenter
from tests.fakes import FakeDetector, FakeSegmenter, FakeTextEncoder
from tests.peak_memory import peak_kib
from tests.security.attacks.pictures import BORNE, GOOD_PNG, REFUSED
from tests.serving import ready_client

MAX_S, MAX_GROWN_MIB = 1.0, 300.0

Send = Callable[[bytes], int]


def main() -> None:
    with ExitStack() as stack:
        detecting = stack.enter_context(ready_client(detector.create_app(FakeDetector())))
        masking = stack.enter_context(
            ready_client(segmenter.create_app(FakeTextEncoder(), segmenter=FakeSegmenter()))
        )

        def as_form(encoded: bytes) -> int:
            files = {"image": ("picture", encoded)}
            return detecting.post("/detect", files=files, data={"phrases": "car"}).status_code

        def as_json(encoded: bytes) -> int:
            # Built by hand, because the client is in this process and must keep few copies.
            body = b'{"image": {"base64": "%s"}}' % base64.b64encode(encoded)
            headers = {"Content-Type": "application/json"}
            return masking.post("/images", content=body, headers=headers).status_code

        sys.stdout.write(json.dumps(judge({"form": as_form, "json": as_json})) + "\n")


def judge(ways: dict[str, Send]) -> dict[str, Any]:
    """Send each picture in each form, and a good one after it."""
    problems: list[str] = []
    slowest_s, slowest, sent = 0.0, "", 0
    for way, send in ways.items():
        if send(GOOD_PNG) >= 300:
            problems.append(f"{way}: a good picture is refused")
    before_kib = peak_kib()
    for name, make in {**REFUSED, **BORNE}.items():
        encoded = make()
        for way, send in ways.items():
            # CPU time, because the machine may have other load.
            start_s = time.process_time()
            status = send(encoded)
            took_s = time.process_time() - start_s
            sent += 1
            if took_s > slowest_s:
                slowest_s, slowest = took_s, f"{name} as {way}"
            wanted = range(200, 300) if name in BORNE else range(400, 500)
            if status not in wanted:
                problems.append(f"{name} as {way}: {status}")
            if send(GOOD_PNG) >= 300:
                problems.append(f"{name} as {way}: the next picture is refused")
    grown_mib = (peak_kib() - before_kib) / 1024
    if slowest_s > MAX_S:
        problems.append(f"{slowest} took {slowest_s:.3f} s")
    if grown_mib > MAX_GROWN_MIB:
        problems.append(f"memory grew by {grown_mib:.1f} MiB")
    return {
        "bombs": len(REFUSED),
        "borne": len(BORNE),
        "requests": sent,
        "slowest_s": round(slowest_s, 3),
        "slowest": slowest,
        "grown_mib": round(grown_mib, 1),
        "problems": problems,
    }


if __name__ == "__main__":
    main()
