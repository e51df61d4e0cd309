"""The HTTP face of the text encoder: `POST /text-embeddings`, phrases in, unit vectors out."""

import numpy as np
from fastapi import FastAPI, Response

from unspoken.batching import InferenceThread, MicroBatcher
from unspoken.ports import TextEncoder
from unspoken.schemas import TextEmbeddingsReply, TextEmbeddingsRequest
from unspoken.server import Timings, create_service, in_decode_pool

MAX_REQUESTS_A_BATCH = 8
# Eight decimals keep a float32 of a unit vector to 5e-9 and halve the reply.
DECIMALS = 8


def create_app(
    engine: TextEncoder,
    *,
    thread: InferenceThread | None = None,
    max_queue: int = 64,
    request_timeout_s: float = 120.0,
) -> FastAPI:
    """The service over any TextEncoder.

    thread: the device's inference thread; one of its own when none is shared.
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
    )
    app = create_service(
        "segmenter",
        description="Encodes phrases as unit vectors of CLIP's text space.",
        models=lambda: [engine.model],
        batchers=[batcher],
        thread=thread,
        warm_up=lambda: engine.encode_texts(["a photo of a car"]),
    )

    @app.post("/text-embeddings", tags=["text encoder"], response_model=TextEmbeddingsReply)
    async def text_embeddings(request: TextEmbeddingsRequest) -> Response:
        """(N, 768) unit vectors of the phrases, in the order asked."""
        timings = Timings()
        with timings.measure("encode"):
            vectors = await batcher.submit(tuple(request.phrases), timeout_s=request_timeout_s)

        def render() -> str:
            return TextEmbeddingsReply(
                embeddings=np.round(vectors.astype(np.float64), DECIMALS).tolist(),
                model=engine.model,
                timings_ms=timings.as_ms(),
            ).model_dump_json()

        # A thousand vectors are 9 MB of text: not the event loop's work.
        return Response(await in_decode_pool(render), media_type="application/json")

    return app
