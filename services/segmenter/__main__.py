"""Run the segmenter service: `python -m services.segmenter`."""

import torch
from fastapi import FastAPI

from services.segmenter.app import create_app
from services.segmenter.crop_engine import build_crop_engine
from services.segmenter.engine import build_engine
from services.segmenter.loading import build_segmenter
from services.segmenter.settings import SegmenterSettings
from unspoken.http.batching import InferenceThread
from unspoken.http.serve import run_service
from unspoken.http.url_fetch import build_fetcher


def build_app(settings: SegmenterSettings, thread: InferenceThread) -> FastAPI:
    """Load the weights and create the app. Raises MissingWeights, InvalidConfig."""
    text_encoder = build_engine(settings)
    return create_app(
        text_encoder,
        segmenter=build_segmenter(settings, text_encoder),
        ranker=build_crop_engine(settings, text_encoder),
        thread=thread,
        fetcher=build_fetcher(settings),
        **settings.limits(),
    )


if __name__ == "__main__":
    run_service("segmenter", SegmenterSettings, build_app, set_num_threads=torch.set_num_threads)
