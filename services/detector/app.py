"""The HTTP app of the detector: `POST /detect` takes a picture and phrases, as JSON or multipart.

This module does not import torch.
"""

from contextvars import Context, copy_context
from dataclasses import dataclass, field

import numpy as np
from fastapi import FastAPI, Request

from services.detector.packing import MAX_PHRASES
from unspoken.config.services import DETECTOR
from unspoken.http.admission import Admission
from unspoken.http.app import create_service
from unspoken.http.batching import MAX_QUEUE_BYTES, InferenceThread, MicroBatcher
from unspoken.http.picture_requests import picture_request_body, read_picture_request
from unspoken.http.url_fetch import Fetcher
from unspoken.imaging.images import Picture
from unspoken.ports import Detector
from unspoken.timings import Timings
from unspoken.wire.detections import DetectionResult, DetectReply, DetectRequest
from unspoken.wire.pictures import ImageInfo


@dataclass(frozen=True)
class _Question:
    """One validated request with its decoded picture."""

    picture: Picture
    phrases: list[str]
    box_threshold: float | None
    independent: bool
    context: Context = field(default_factory=copy_context)
    """The request's deadline and ids, for the inference thread."""


def create_app(
    engine: Detector,
    *,
    thread: InferenceThread | None = None,
    max_queue: int = 64,
    max_queue_bytes: int = MAX_QUEUE_BYTES,
    request_timeout_s: float = 120.0,
    fetcher: Fetcher | None = None,
) -> FastAPI:
    """Create the detector app over any Detector.

    thread: the inference thread that runs the engine. None: create a new one.
    fetcher: reads pictures from URLs. None: refuse URLs.
    """
    thread = thread or InferenceThread(name="detector")

    def answer(questions: list[_Question]) -> list[DetectionResult]:
        return [
            asked.context.run(
                engine.detect,
                asked.picture,
                asked.phrases,
                box_threshold=asked.box_threshold,
                independent=asked.independent,
            )
            for asked in questions
        ]

    # One picture at a time, because pictures differ in size and a CPU gains nothing from a batch.
    batcher = MicroBatcher(
        answer,
        name="detect",
        thread=thread,
        max_batch=1,
        max_queue=max_queue,
        max_queue_bytes=max_queue_bytes,
        size_of=lambda asked: asked.picture.num_bytes,
    )

    def warm_up() -> None:
        """Run the smallest request and the largest: the widest picture with a full text prompt."""
        engine.detect(_blank_picture(64, 64), ["object"])
        engine.detect(_blank_picture(720, 1200), [f"object {n}" for n in range(MAX_PHRASES)])

    app = create_service(
        "detector",
        description=DETECTOR.summary,
        models=lambda: [engine.model],
        batchers=[batcher],
        thread=thread,
        warm_up=warm_up,
        admissions={"/detect": Admission(batcher, max_bytes=max_queue_bytes)},
        request_timeout_s=request_timeout_s,
    )

    @app.post("/detect", openapi_extra={"requestBody": _REQUEST_BODY}, tags=["detect"])
    async def detect(request: Request) -> DetectReply:
        """Detect the boxes of phrases; each detection has the index of its phrase.

        Boxes are xyxy in pixels of the picture after EXIF orientation. The list is empty if nothing
        is found. Up to 40 phrases share a text prompt, and the score of a phrase depends on the
        other phrases of its prompt. With `independent`, each phrase has its own prompt and forward
        pass; a request then has at most 100 phrases.
        """
        timings = Timings()
        with timings.measure("decode"):
            question = await _read_question(request, fetcher)
        with timings.computing("detect") as own:
            result = await batcher.submit(question, timeout_s=request_timeout_s, own=own)
        height, width = question.picture.size_hw
        threshold = question.box_threshold
        return DetectReply(
            image=ImageInfo(sha256=question.picture.sha256, width=width, height=height),
            detections=result.detections,
            num_chunks=result.num_chunks,
            box_threshold=engine.box_threshold if threshold is None else threshold,
            model=engine.model,
            timings_ms=timings.as_ms(),
        )

    return app


async def _read_question(request: Request, fetcher: Fetcher | None) -> _Question:
    """Parse a request and decode its picture; the base64 text is not kept."""
    picture, asked = await read_picture_request(request, DetectRequest, fetcher)
    return _Question(picture, asked.phrases, asked.box_threshold, asked.independent)


def _blank_picture(height: int, width: int) -> Picture:
    return Picture.of_pixels(np.full((height, width, 3), 255, dtype=np.uint8))


_REQUEST_BODY = picture_request_body(
    DetectRequest,
    example={"phrases": ["car", "wheel"], "box_threshold": 0.3},
)
