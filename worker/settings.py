"""Settings of worker and dispatcher, read once from WORKER_*."""

import logging
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field
from pydantic_settings import SettingsConfigDict

from unspoken.settings import ProcessSettings


class WorkerSettings(ProcessSettings):
    """Where the broker, the services and the two folders are."""

    model_config = SettingsConfigDict(env_prefix="WORKER_")

    broker_url: str = "redis://127.0.0.1:6379/0"
    llm_url: str = "http://127.0.0.1:8001"
    detector_url: str = "http://127.0.0.1:8002"
    segmenter_url: str = "http://127.0.0.1:8003"
    runs_dir: Path = Path("runs")
    data_dir: Path = Path("data")
    pool: Literal["prefork", "threads", "solo"] = "prefork"
    concurrency: Annotated[int, Field(ge=1)] = 2
    """Chunks at a time in one worker."""
    lease_s: Annotated[float, Field(gt=0)] = 20.0
    """A chunk whose worker did not renew its lease for so long is rung for again."""
    tick_s: Annotated[float, Field(gt=0)] = 1.0
    """The dispatcher looks this often."""
    ring_again_s: Annotated[float, Field(gt=0)] = 10.0
    """A doorbell that nobody answered, though the queue is empty, was lost after so long."""


def configure_logging(level: str) -> None:
    """Log lines on standard error; httpx's line for every request is not among them."""
    logging.basicConfig(
        level=level.upper(), format="%(asctime)s %(levelname)s %(name)s %(message)s"
    )
    logging.getLogger("httpx").setLevel(logging.WARNING)
