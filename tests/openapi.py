"""Writes the OpenAPI files of docs/openapi; run by `make openapi`.

The apps are built over fakes, because their schemas do not depend on the engines.
"""

import json
from pathlib import Path
from typing import Any

from fastapi import FastAPI

from services.detector.app import create_app as detector_app
from services.gateway.app import create_app as gateway_app
from services.gateway.settings import GatewaySettings
from services.llm.app import create_app as llm_app
from services.segmenter.app import create_app as segmenter_app
from tests.fakes import (
    FakeCropRanker,
    FakeDetector,
    FakePrompter,
    FakeSegmenter,
    FakeTextEncoder,
)

FOLDER = Path(__file__).parent.parent / "docs" / "openapi"


def apps() -> dict[str, FastAPI]:
    """Return the app of every service by name."""
    return {
        "gateway": gateway_app(GatewaySettings()),
        "llm": llm_app(FakePrompter()),
        "detector": detector_app(FakeDetector()),
        "segmenter": segmenter_app(
            FakeTextEncoder(), segmenter=FakeSegmenter(), ranker=FakeCropRanker()
        ),
    }


def written(schema: dict[str, Any]) -> str:
    """Return the schema as file content."""
    return json.dumps(schema, indent=1, ensure_ascii=False, sort_keys=True) + "\n"


def main() -> None:
    """Write the files."""
    FOLDER.mkdir(exist_ok=True)
    for name, app in apps().items():
        (FOLDER / f"{name}.json").write_text(written(app.openapi()), encoding="utf-8")


if __name__ == "__main__":
    main()
