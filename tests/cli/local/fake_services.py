"""`python -m tests.cli.local.fake_services`: the real gateway, and all services over the fakes.

It replaces services.laptop; the launcher passes each port in the environment.
"""

import threading
import time

import uvicorn
from pydantic_settings import BaseSettings, SettingsConfigDict

from services.detector.settings import DetectorSettings
from services.gateway.__main__ import main as run_gateway
from services.llm.settings import LlmSettings
from services.segmenter.settings import SegmenterSettings
from tests.fakes import FakeDetector, FakePrompter
from tests.worker.service import create_app


class FakeSettings(BaseSettings):
    """Settings; FAKE_DETECT_S: seconds that the detector takes for a picture."""

    model_config = SettingsConfigDict(env_prefix="FAKE_")

    detect_s: float = 0.0


def main() -> None:
    """Listen until SIGTERM."""
    detect_s = FakeSettings().detect_s
    app = create_app(FakePrompter(), FakeDetector(before=lambda *_: time.sleep(detect_s)))
    for settings in (LlmSettings(), DetectorSettings(), SegmenterSettings()):
        config = uvicorn.Config(app, port=settings.port, log_level="warning", ws="none")
        server = uvicorn.Server(config)
        threading.Thread(target=server.run, daemon=True).start()
    run_gateway()


if __name__ == "__main__":
    main()
