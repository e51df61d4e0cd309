"""Run the detector service: `python -m services.detector`."""

import torch

from services.detector.app import create_app
from services.detector.engine import build_engine
from services.detector.settings import DetectorSettings
from unspoken.http.batching import InferenceThread
from unspoken.http.entry_point import run_main
from unspoken.http.serve import serve
from unspoken.http.url_fetch import build_fetcher


def main() -> None:
    """Load the weights, then listen, so that a process that answers has its weights."""
    settings = DetectorSettings()
    num_threads = settings.num_threads
    thread = InferenceThread(
        name="detector",
        initializer=lambda: torch.set_num_threads(num_threads),
        hang_s=settings.hang_s,
    )
    app = create_app(
        build_engine(settings),
        thread=thread,
        **settings.limits(),
        fetcher=build_fetcher(settings),
    )
    serve(app, settings)


if __name__ == "__main__":
    run_main(main)
