"""Run all services in one process on one inference thread, for machines with few cores.

One thread keeps the three models from competing for the cores. Each app has its own port and its
own lifespan, because the lifespan of a mounted sub-app would never run.
"""

import logging

import torch
from fastapi import FastAPI

from services.detector import app as detector_app
from services.detector.engine import build_engine as build_detector
from services.detector.settings import DetectorSettings
from services.gateway import app as gateway_app
from services.gateway.events import end_streams
from services.gateway.settings import GatewaySettings
from services.llm import app as llm_app
from services.llm.engine import build_engine as build_llm
from services.llm.settings import LlmSettings
from services.segmenter import app as segmenter_app
from services.segmenter.crop_engine import build_crop_engine
from services.segmenter.engine import build_engine as build_text_encoder
from services.segmenter.loading import build_segmenter
from services.segmenter.settings import SegmenterSettings
from unspoken.config.settings import ServiceSettings
from unspoken.http.batching import InferenceThread
from unspoken.http.entry_point import run_main
from unspoken.http.serve import run_apps
from unspoken.http.url_fetch import build_fetcher
from unspoken.logs import configure_logging

logger = logging.getLogger(__name__)


def build_apps() -> list[tuple[FastAPI, ServiceSettings]]:
    """Load every model and create the four apps; settings come from the environment.

    Each app sends requests only to apps that come before it in the list.
    """
    llm, detector = LlmSettings(), DetectorSettings()
    segmenter, gateway = SegmenterSettings(), GatewaySettings()
    if segmenter.detector_url is None:
        # Use HTTP even here, because the detector's own queue feeds the shared inference thread.
        segmenter = segmenter.model_copy(update={"detector_url": f"http://{_address(detector)}"})
    if "segmenter_url" not in gateway.model_fields_set:
        gateway = gateway.model_copy(update={"segmenter_url": f"http://{_address(segmenter)}"})
    num_threads = detector.num_threads
    thread = InferenceThread(
        name="cpu",
        initializer=lambda: torch.set_num_threads(num_threads),
        hang_s=max(llm.hang_s, detector.hang_s, segmenter.hang_s),
    )
    llm_face = llm_app.create_app(build_llm(llm), thread=thread, **llm.limits())
    detector_face = detector_app.create_app(
        build_detector(detector),
        thread=thread,
        fetcher=build_fetcher(detector),
        **detector.limits(),
    )
    text_encoder = build_text_encoder(segmenter)
    segmenter_face = segmenter_app.create_app(
        text_encoder,
        segmenter=build_segmenter(segmenter, text_encoder),
        ranker=build_crop_engine(segmenter, text_encoder),
        thread=thread,
        fetcher=build_fetcher(segmenter),
        **segmenter.limits(),
    )
    return [
        (llm_face, llm),
        (detector_face, detector),
        (segmenter_face, segmenter),
        (gateway_app.create_app(gateway), gateway),
    ]


def _address(settings: ServiceSettings) -> str:
    """Return the host and port at which this process reaches one of its own services."""
    host = "127.0.0.1" if settings.host in ("0.0.0.0", "::") else settings.host
    return f"{f'[{host}]' if ':' in host else host}:{settings.port}"


def main() -> None:
    """Load the weights, then listen, so that a process that answers has its weights."""
    apps = build_apps()
    configure_logging(apps[0][1].log_level, apps[0][1].log_format)
    run_apps(apps, on_stop=end_streams)


if __name__ == "__main__":
    run_main(main)
