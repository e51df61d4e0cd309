"""`python -m tests.cli.local.fake_laptop`: the services of `unspoken up`, with fake models.

The detector takes half a second per picture.
"""

import time
from collections.abc import Sequence

from services.detector.app import create_app as create_detector
from services.detector.settings import DetectorSettings
from services.gateway.app import create_app as create_gateway
from services.gateway.settings import GatewaySettings
from services.llm.app import create_app as create_llm
from services.llm.settings import LlmSettings
from services.segmenter.app import create_app as create_segmenter
from services.segmenter.settings import SegmenterSettings
from tests.fakes import FakeDetector, FakePrompter, FakeTextEncoder
from unspoken.config.settings import start_logging
from unspoken.http.serve import run_apps
from unspoken.imaging.images import Picture


def detect(_picture: Picture, _phrases: Sequence[str]) -> None:
    time.sleep(0.5)


def main() -> None:
    gateway = GatewaySettings()
    start_logging(gateway)
    apps = [
        (create_llm(FakePrompter()), LlmSettings()),
        (create_detector(FakeDetector(before=detect)), DetectorSettings()),
        (create_segmenter(FakeTextEncoder()), SegmenterSettings()),
        (create_gateway(gateway), gateway),
    ]
    run_apps(apps)


if __name__ == "__main__":
    main()
