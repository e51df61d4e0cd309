"""All services in one process on one inference thread: three models do not fight for two cores.

Each app has its own port and its own lifespan; a mounted sub-app's lifespan would never run.
"""

import asyncio
import contextlib
import logging
import signal
from collections.abc import Sequence
from typing import TypedDict

import torch
import uvicorn
from fastapi import FastAPI
from sse_starlette.sse import AppStatus

from services.detector import app as detector_app
from services.detector.engine import build_engine as build_detector
from services.detector.settings import DetectorSettings
from services.gateway import app as gateway_app
from services.gateway.settings import GatewaySettings
from services.llm import app as llm_app
from services.llm.engine import build_engine as build_llm
from services.llm.settings import LlmSettings
from services.segmenter import app as segmenter_app
from services.segmenter.crop_engine import build_crop_engine
from services.segmenter.engine import build_engine as build_text_encoder
from services.segmenter.loading import build_segmenter
from services.segmenter.settings import SegmenterSettings
from unspoken.batching import InferenceThread
from unspoken.fetching import build_fetcher
from unspoken.logs import configure_logging
from unspoken.server import use_keys, uvicorn_config
from unspoken.settings import ServiceSettings

logger = logging.getLogger(__name__)


class _QuietServer(uvicorn.Server):
    """One of several in a process: signals are the process's business, not each server's."""

    @contextlib.contextmanager
    def capture_signals(self):  # type: ignore[no-untyped-def]
        yield


def build_apps() -> list[tuple[FastAPI, ServiceSettings]]:
    """Load every model and make the four apps; settings come from the environment."""
    llm, detector = LlmSettings(), DetectorSettings()
    segmenter, gateway = SegmenterSettings(), GatewaySettings()
    if segmenter.detector_url is None:
        # Over HTTP even here: its own queue stands before the one inference thread.
        segmenter = segmenter.model_copy(update={"detector_url": f"http://{_address(detector)}"})
    if "segmenter_url" not in gateway.model_fields_set:
        gateway = gateway.model_copy(update={"segmenter_url": f"http://{_address(segmenter)}"})
    num_threads = detector.num_threads
    thread = InferenceThread(name="cpu", initializer=lambda: torch.set_num_threads(num_threads))
    llm_face = llm_app.create_app(build_llm(llm), thread=thread, **_limits(llm))
    detector_face = detector_app.create_app(
        build_detector(detector),
        thread=thread,
        fetcher=build_fetcher(detector),
        **_limits(detector),
    )
    text_encoder = build_text_encoder(segmenter)
    segmenter_face = segmenter_app.create_app(
        text_encoder,
        segmenter=build_segmenter(segmenter, text_encoder),
        ranker=build_crop_engine(segmenter, text_encoder),
        thread=thread,
        fetcher=build_fetcher(segmenter),
        **_limits(segmenter),
    )
    return [
        (llm_face, llm),
        (detector_face, detector),
        (segmenter_face, segmenter),
        (gateway_app.create_app(gateway), gateway),
    ]


def _address(settings: ServiceSettings) -> str:
    """Where a service of this process can be reached from here."""
    host = "127.0.0.1" if settings.host in ("0.0.0.0", "::") else settings.host
    return f"{f'[{host}]' if ':' in host else host}:{settings.port}"


class _Limits(TypedDict):
    max_queue: int
    request_timeout_s: float


def _limits(settings: ServiceSettings) -> _Limits:
    return {"max_queue": settings.max_queue, "request_timeout_s": settings.request_timeout_s}


async def serve_all(apps: Sequence[tuple[FastAPI, ServiceSettings]]) -> None:
    """Listen on every port until SIGTERM or Ctrl-C, then drain all."""
    for app, settings in apps:
        use_keys(app, settings.key_ring())
    servers = [
        _QuietServer(
            uvicorn_config(
                app, host=settings.host, port=settings.port, log_level=settings.log_level
            )
        )
        for app, settings in apps
    ]

    def stop() -> None:
        # Event streams end with it; else each would hold its server for all of the drain.
        AppStatus.should_exit = True
        for server in servers:
            server.should_exit = True

    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop)
    running = [asyncio.create_task(server.serve()) for server in servers]
    # A port that is taken ends its server alone: then all must go, so that somebody notices.
    await asyncio.wait(running, return_when=asyncio.FIRST_COMPLETED)
    stop()
    await asyncio.gather(*running)


def main() -> None:
    """Load the weights, then listen: a process that answers is a process that can work."""
    apps = build_apps()
    configure_logging(apps[0][1].log_level, apps[0][1].log_format)
    asyncio.run(serve_all(apps))


if __name__ == "__main__":
    main()
