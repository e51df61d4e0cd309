"""`python -m tests.chaos.service KIND PORT FOLDER`: a service's real app over its fake engine.

FOLDER/KIND.fault selects a fault: with `busy` the service answers 429, with `away` 503, both with
Retry-After. Each item that the engine processes adds a line to FOLDER/executions.jsonl, from which
the cost of work is counted.
"""

import json
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import uvicorn
from fastapi import FastAPI

from services.detector.app import create_app as create_detector
from services.llm.app import create_app as create_llm
from services.segmenter.app import create_app as create_segmenter
from tests.fakes import FakeDetector, FakePrompter, FakeTextEncoder
from unspoken.errors import NotReady, Overloaded
from unspoken.http.serve import uvicorn_config
from unspoken.imaging.images import Picture

KINDS = ("llm", "detector", "segmenter")
CAPTION_S, PICTURE_S = 0.01, 0.02
"""Seconds that an engine takes for one caption and for one picture; all else takes no time."""
EXECUTIONS = "executions.jsonl"


def note_execution(folder: Path, kind: str, key: str) -> None:
    """Append a line in a single write, so that lines of several processes never mix."""
    line = json.dumps({"kind": kind, "key": key, "at_s": time.time()}) + "\n"
    descriptor = os.open(folder / EXECUTIONS, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    try:
        os.write(descriptor, line.encode())
    finally:
        os.close(descriptor)


def create_app(kind: str, folder: Path) -> FastAPI:
    """Create the app of a service, with a fake engine that can inject faults."""

    def raise_fault() -> None:
        fault = folder / f"{kind}.fault"
        match fault.read_text() if fault.exists() else "":
            case "busy":
                raise Overloaded("busy", retry_after_s=1)
            case "away":
                raise NotReady("away")

    def propose(captions: Sequence[str]) -> None:
        raise_fault()
        for caption in captions:
            note_execution(folder, "propose", caption)
        time.sleep(CAPTION_S * len(captions))

    def detect(picture: Picture, _phrases: Sequence[str]) -> None:
        raise_fault()
        note_execution(folder, "detect", picture.sha256)
        time.sleep(PICTURE_S)

    match kind:
        case "llm":
            return create_llm(FakePrompter(before=propose), request_timeout_s=20)
        case "detector":
            return create_detector(FakeDetector(before=detect), request_timeout_s=20)
    return create_segmenter(FakeTextEncoder(), request_timeout_s=20)


def main() -> None:
    kind, port, folder = sys.argv[1], int(sys.argv[2]), Path(sys.argv[3])
    app = create_app(kind, folder)
    uvicorn.Server(uvicorn_config(app, host="127.0.0.1", port=port, log_level="warning")).run()


if __name__ == "__main__":
    main()
