"""Run the llm service: `python -m services.llm`."""

import torch

from services.llm.app import create_app
from services.llm.engine import build_engine
from services.llm.settings import LlmSettings
from unspoken.http.batching import InferenceThread
from unspoken.http.entry_point import run_main
from unspoken.http.serve import serve
from unspoken.logs import configure_logging


def main() -> None:
    """Load the weights, then listen, so that a process that answers has its weights."""
    settings = LlmSettings()
    configure_logging(settings.log_level, settings.log_format)
    engine = build_engine(settings)
    thread = InferenceThread(
        name="llm",
        initializer=lambda: torch.set_num_threads(settings.num_threads),
        hang_s=settings.hang_s,
    )
    app = create_app(
        engine,
        thread=thread,
        max_batch=settings.max_batch,
        **settings.limits(),
    )
    serve(app, settings)


if __name__ == "__main__":
    run_main(main)
