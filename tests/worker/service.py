"""All three services in one small app over the fakes, on a real port."""

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import httpx
import uvicorn
from fastapi import FastAPI, Request
from fastapi.concurrency import run_in_threadpool

from tests.fakes import FakeDetector, FakePrompter, FakeTextEncoder
from tests.serving import wait_until_ready
from unspoken.errors import UnspokenError
from unspoken.http.error_replies import error_response
from unspoken.http.picture_requests import read_picture_request
from unspoken.wire.detections import DetectRequest
from unspoken.wire.proposals import ProposeRequest
from unspoken.wire.texts import TextEmbeddingsRequest


def create_app(prompter: FakePrompter, detector: FakeDetector) -> FastAPI:
    """Create one app for all three services; each client finds its model."""
    app, encoder = FastAPI(), FakeTextEncoder()

    @app.exception_handler(UnspokenError)
    def on_unspoken(_request, error: UnspokenError):
        # After an unhandled error uvicorn would close the connection.
        return error_response(error)

    @app.get("/readyz")
    def readyz():
        return {"ready": True}

    @app.get("/v1/models")
    def models():
        return [prompter.model, detector.model, encoder.model]

    @app.post("/propose")
    def propose(request: ProposeRequest):
        proposals = prompter.propose(request.captions, templates=request.templates)
        return {"proposals": proposals, "model": prompter.model, "timings_ms": {}}

    @app.post("/detect")
    async def detect(request: Request):
        picture, asked = await read_picture_request(request, DetectRequest, None)
        result = await run_in_threadpool(
            detector.detect, picture, asked.phrases, box_threshold=asked.box_threshold
        )
        height, width = picture.size_hw
        return {
            "image": {"sha256": picture.sha256, "width": width, "height": height},
            **result.model_dump(),
            "box_threshold": detector.box_threshold,
            "model": detector.model,
            "timings_ms": {},
        }

    @app.post("/text-embeddings")
    def encode(request: TextEmbeddingsRequest):
        embeddings = encoder.encode_texts(request.phrases).tolist()
        return {"embeddings": embeddings, "model": encoder.model, "timings_ms": {}}

    return app


@contextmanager
def serve(app: FastAPI) -> Iterator[str]:
    """Serve on a free loopback port; yield its URL when the app is ready."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        server = uvicorn.Server(uvicorn.Config(app, log_level="warning", ws="none"))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
        thread.start()
        url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        try:
            with httpx.Client(base_url=url, trust_env=False) as client:
                wait_until_ready(client)
            yield url
        finally:
            server.should_exit = True
            thread.join()
