"""Schemas of the detector: a picture and phrases in, boxes out. Scores are in [0, 1]."""

from typing import Annotated

from pydantic import Field, model_validator
from pydantic_core import PydanticCustomError

from unspoken.wire.base import ModelInfo, ReplyModel
from unspoken.wire.pictures import Box, ImageInfo, PictureRequest
from unspoken.wire.texts import MAX_TEXTS, Text

MAX_INDEPENDENT_TEXTS = 100
"""Limit of a request with `independent`: each text is a pass of the detector's decoder."""


class DetectRequest(PictureRequest):
    """A picture and the phrases to look for. The default threshold is the model's own."""

    phrases: Annotated[list[Text], Field(max_length=MAX_TEXTS)]
    box_threshold: Annotated[float, Field(ge=0, le=1)] | None = None
    independent: bool = False
    """Detect each phrase alone, so that its score does not depend on the others. At most 100."""

    @model_validator(mode="after")
    def _is_bounded(self) -> "DetectRequest":
        if self.independent and len(set(self.phrases)) > MAX_INDEPENDENT_TEXTS:
            raise PydanticCustomError(
                "many_independent",
                f"independent takes at most {MAX_INDEPENDENT_TEXTS} different phrases a request",
            )
        return self


class Detection(ReplyModel):
    """A box for the phrase at `phrase_index`; `score` is the mean over the phrase's tokens."""

    phrase_index: Annotated[int, Field(ge=0)]
    phrase: str
    box: Box
    score: Annotated[float, Field(ge=0, le=1)]


class DetectionResult(ReplyModel):
    """Detections of one picture, best first, and the number of chunks that the phrases needed."""

    detections: tuple[Detection, ...]
    num_chunks: int


class DetectReply(ReplyModel):
    """The reply of `POST /detect`."""

    image: ImageInfo
    detections: tuple[Detection, ...]
    num_chunks: int
    box_threshold: float
    model: ModelInfo
    timings_ms: dict[str, float]
