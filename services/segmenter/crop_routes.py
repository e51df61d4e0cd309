"""`POST /rank-crops`: rank the label of each crop among all labels by an image-text model."""

from typing import NamedTuple

from fastapi import APIRouter, Request

from unspoken.errors import Conflict
from unspoken.http.batching import InferenceThread, MicroBatcher
from unspoken.http.error_replies import error_replies
from unspoken.http.picture_requests import picture_request_body, read_picture_request
from unspoken.http.url_fetch import Fetcher
from unspoken.imaging.images import Picture
from unspoken.ports import CropRanker
from unspoken.timings import Spent, Timings
from unspoken.wire.crops import Crop, RankCropsReply, RankCropsRequest
from unspoken.wire.pictures import ImageInfo


class _Question(NamedTuple):
    """One validated request with its decoded picture."""

    picture: Picture
    crops: list[Crop]
    labels: list[str]


class CropFlow:
    """Runs requests through the ranker; owns the batcher."""

    def __init__(
        self,
        ranker: CropRanker,
        *,
        thread: InferenceThread,
        max_queue: int,
        max_queue_bytes: int,
        request_timeout_s: float,
    ) -> None:
        def answer(questions: list[_Question]) -> list[list[int]]:
            return [ranker.rank_crops(*question) for question in questions]

        self.ranker = ranker
        # One request at a time, because the crops of one picture are already a batch.
        self.batcher: MicroBatcher[_Question, list[int]] = MicroBatcher(
            answer,
            name="rank-crops",
            thread=thread,
            max_batch=1,
            max_queue=max_queue,
            max_queue_bytes=max_queue_bytes,
            size_of=lambda asked: asked.picture.num_bytes,
        )
        self._timeout_s = request_timeout_s

    async def rank(self, question: _Question, own: Spent) -> list[int]:
        """Return each crop's label rank; `own` receives the compute time."""
        return await self.batcher.submit(question, timeout_s=self._timeout_s, own=own)


def crop_router(
    flow: CropFlow | None, *, text_encoder: str, fetcher: Fetcher | None = None
) -> APIRouter:
    """Return the router of `/rank-crops`.

    flow: None if the text encoder has no image tower; requests are then answered 409.
    text_encoder: its name, for the message.
    """
    router = APIRouter(tags=["text encoder"], responses=error_replies(409))

    @router.post("/rank-crops", openapi_extra={"requestBody": _REQUEST_BODY})
    async def rank_crops(request: Request) -> RankCropsReply:
        """Return for each crop the rank of its label among all labels; 1 is the best."""
        if flow is None:
            raise Conflict(
                f"the text encoder of this profile, {text_encoder}, cannot encode pictures: use a "
                "profile with a CLIP to check crops, such as base (UNSPOKEN_PROFILE=base)"
            )
        timings = Timings()
        with timings.measure("decode"):
            question = await _read_question(request, fetcher)
        with timings.computing("rank") as own:
            ranks = await flow.rank(question, own)
        height, width = question.picture.size_hw
        return RankCropsReply(
            image=ImageInfo(sha256=question.picture.sha256, width=width, height=height),
            ranks=ranks,
            model=flow.ranker.model,
            timings_ms=timings.as_ms(),
        )

    return router


async def _read_question(request: Request, fetcher: Fetcher | None) -> _Question:
    """Return what the ranker needs of a request, without its base64 text."""
    picture, asked = await read_picture_request(request, RankCropsRequest, fetcher)
    return _Question(picture, asked.crops, asked.labels)


_REQUEST_BODY = picture_request_body(
    RankCropsRequest,
    example={
        "crops": [{"box": {"x0": 0, "y0": 0, "x1": 1, "y1": 1}, "label_index": 0}],
        "labels": ["car", "wheel", "teapot"],
    },
    json_fields=("crops",),
)
