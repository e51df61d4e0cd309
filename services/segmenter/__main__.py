"""Run the segmenter service: `python -m services.segmenter`."""

import torch

from services.segmenter.app import create_app
from services.segmenter.crop_engine import build_crop_engine
from services.segmenter.engine import build_engine
from services.segmenter.loading import build_segmenter
from services.segmenter.settings import SegmenterSettings
from unspoken.http.batching import InferenceThread
from unspoken.http.entry_point import run_main
from unspoken.http.serve import serve
from unspoken.http.url_fetch import build_fetcher
from unspoken.logs import configure_logging


def main() -> None:
    """Load the weights, then listen, so that a process that answers has its weights."""
    settings = SegmenterSettings()
    configure_logging(settings.log_level, settings.log_format)
    engine = build_engine(settings)
    thread = InferenceThread(
        name="segmenter",
        initializer=lambda: torch.set_num_threads(settings.num_threads),
        hang_s=settings.hang_s,
    )
    app = create_app(
        engine,
        segmenter=build_segmenter(settings, engine),
        ranker=build_crop_engine(settings, engine),
        thread=thread,
        **settings.limits(),
        fetcher=build_fetcher(settings),
    )
    serve(app, settings)


if __name__ == "__main__":
    run_main(main)
