"""The HTTP app of the segmenter: unit vectors for texts, and masks for images with queries.

`POST /text-embeddings` is in this module. `/segment` and `/images` are in segment_routes.py, and
`/rank-crops` is in crop_routes.py.
"""

from typing import Any

import numpy as np
from fastapi import FastAPI, Request, Response
from pydantic import TypeAdapter

from services.segmenter.cache.cache_metrics import CacheMetrics
from services.segmenter.crop_routes import CropFlow, crop_router
from services.segmenter.ports import Entry, ImageEngine
from services.segmenter.segment_flow import SegmentFlow
from services.segmenter.segment_routes import segment_router
from unspoken.config.services import SEGMENTER
from unspoken.config.settings import Limits
from unspoken.errors import Conflict
from unspoken.http.admission import Admission
from unspoken.http.app import create_service, in_decode_pool
from unspoken.http.batching import MAX_QUEUE_BYTES, InferenceThread, MicroBatcher
from unspoken.http.error_replies import error_replies
from unspoken.http.uploads import json_request_body, read_json
from unspoken.http.url_fetch import Fetcher
from unspoken.ports import CropRanker, TextEncoder
from unspoken.timings import Timings
from unspoken.wire.texts import TextEmbeddingsReply, TextEmbeddingsRequest

MAX_REQUESTS_A_BATCH = 8
WARM_TEXTS = 64
# Eight decimals keep a unit vector's float32 values to 5e-9 and halve the size of the reply.
DECIMALS = 8
_ROW: TypeAdapter[list[float]] = TypeAdapter(list[float])


def create_app(
    engine: TextEncoder,
    *,
    segmenter: ImageEngine[Entry] | None = None,
    ranker: CropRanker | None = None,
    thread: InferenceThread | None = None,
    max_queue: int = 64,
    max_queue_bytes: int = MAX_QUEUE_BYTES,
    request_timeout_s: float = 120.0,
    fetcher: Fetcher | None = None,
) -> FastAPI:
    """Create the segmenter app over any TextEncoder, and optionally a segmenter and a ranker.

    segmenter: None if the profile has none. ranker: None if the text encoder has no image tower.
    thread: the device's inference thread. None: create a new one.
    fetcher: reads images from URLs. None: refuse URLs.
    """
    thread = thread or InferenceThread(name="segmenter")

    def run_batch(requests: list[tuple[str, ...]]) -> list[np.ndarray]:
        vectors = engine.encode_texts([text for texts in requests for text in texts])  # (N, 768)
        ends = np.cumsum([len(texts) for texts in requests])
        return np.split(vectors, ends[:-1])

    batcher: MicroBatcher[tuple[str, ...], np.ndarray] = MicroBatcher(
        run_batch,
        name="text-embeddings",
        thread=thread,
        max_batch=MAX_REQUESTS_A_BATCH,
        max_queue=max_queue,
        max_queue_bytes=max_queue_bytes,
        size_of=lambda texts: sum(map(len, texts)),
    )
    batchers: list[MicroBatcher[Any, Any]] = [batcher]
    limits = Limits(
        max_queue=max_queue, max_queue_bytes=max_queue_bytes, request_timeout_s=request_timeout_s
    )
    admissions = {"/text-embeddings": Admission(batcher, max_bytes=max_queue_bytes)}
    flow = None
    if segmenter is not None:
        flow = SegmentFlow(segmenter, thread=thread, **limits)
        batchers += flow.batchers
        admission = Admission(flow.encoding, flow.answering, max_bytes=max_queue_bytes)
        admissions |= dict.fromkeys(("/segment", "/images"), admission)
    crops = None
    if ranker is not None:
        crops = CropFlow(ranker, thread=thread, **limits)
        batchers.append(crops.batcher)
        admissions["/rank-crops"] = Admission(crops.batcher, max_bytes=max_queue_bytes)

    def warm_up() -> None:
        engine.encode_texts(["car"])
        engine.encode_texts([f"a photo of a car, number {n}" for n in range(WARM_TEXTS)])
        if segmenter is not None:
            segmenter.warm_up()

    app = create_service(
        "segmenter",
        description=SEGMENTER.summary,
        models=lambda: [engine.model, *([] if segmenter is None else [segmenter.model])],
        batchers=batchers,
        thread=thread,
        warm_up=warm_up,
        admissions=admissions,
        request_timeout_s=request_timeout_s,
        collectors=[] if flow is None else [CacheMetrics(flow.tiers, flow.lookups, flow.banks)],
        on_close=None if flow is None else flow.close,
    )
    app.include_router(segment_router(flow, fetcher=fetcher))
    app.include_router(crop_router(crops, text_encoder=engine.model.name, fetcher=fetcher))

    @app.post(
        "/text-embeddings",
        tags=["text encoder"],
        response_model=TextEmbeddingsReply,
        responses=error_replies(409),
        openapi_extra={"requestBody": json_request_body(TextEmbeddingsRequest)},
    )
    async def text_embeddings(request: Request) -> Response:
        """Return (N, 768) unit vectors of the phrases, in the order asked.

        `space` "text" is the text encoder's own space, as in datasets. `space` "mask" is that of
        the vectors that `/segment` returns with `output.embedding`: compare those vectors only with
        vectors of `space` "mask". It needs weights whose semantic head is trained; otherwise the
        request is answered 409.
        """
        timings = Timings()
        asked = await read_json(request, TextEmbeddingsRequest)
        phrases, model = tuple(asked.phrases), engine.model
        with timings.computing("encode") as own:
            if asked.space == "text":
                vectors = await batcher.submit(phrases, timeout_s=request_timeout_s, own=own)
            elif flow is not None and segmenter is not None:
                vectors, model = await flow.text_targets(phrases, own), segmenter.model
            else:
                raise Conflict("space 'mask' needs a segmenter, and this profile has none")

        def render() -> bytes:
            reply = TextEmbeddingsReply(
                embeddings=[], space=asked.space, model=model, timings_ms=timings.as_ms()
            )
            rounded = np.round(vectors.astype(np.float64), DECIMALS)
            rows = b",".join(_ROW.dump_json(row.tolist()) for row in rounded)
            return reply.model_dump_json().encode().replace(b"[]", b"[" + rows + b"]", 1)

        # A thousand vectors are 9 MB of text, so render them off the event loop, and row by row
        # because one call would hold the GIL.
        return Response(await in_decode_pool(render), media_type="application/json")

    return app
