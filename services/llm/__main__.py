"""Run the llm service: `python -m services.llm`."""

import torch
from fastapi import FastAPI

from services.llm.app import create_app
from services.llm.engine import build_engine
from services.llm.settings import LlmSettings
from unspoken.http.batching import InferenceThread
from unspoken.http.serve import run_service


def build_app(settings: LlmSettings, thread: InferenceThread) -> FastAPI:
    """Load the weights and create the app. Raises MissingWeights, InvalidConfig."""
    return create_app(
        build_engine(settings), thread=thread, max_batch=settings.max_batch, **settings.limits()
    )


if __name__ == "__main__":
    run_service("llm", LlmSettings, build_app, set_num_threads=torch.set_num_threads)
