"""Run the detector service: `python -m services.detector`."""

import torch
from fastapi import FastAPI

from services.detector.app import create_app
from services.detector.engine import build_engine
from services.detector.settings import DetectorSettings
from unspoken.http.batching import InferenceThread
from unspoken.http.serve import run_service
from unspoken.http.url_fetch import build_fetcher


def build_app(settings: DetectorSettings, thread: InferenceThread) -> FastAPI:
    """Load the weights and create the app. Raises MissingWeights, InvalidConfig."""
    return create_app(
        build_engine(settings),
        thread=thread,
        fetcher=build_fetcher(settings),
        **settings.limits(),
    )


if __name__ == "__main__":
    run_service("detector", DetectorSettings, build_app, set_num_threads=torch.set_num_threads)
