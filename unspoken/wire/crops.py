"""Schemas of `POST /rank-crops`: boxes of a picture, and the labels to compare each crop with."""

from typing import Annotated

from pydantic import Field, model_validator
from pydantic_core import PydanticCustomError

from unspoken.wire.base import ModelInfo, ReplyModel, RequestModel
from unspoken.wire.pictures import ImageInfo, PictureRequest
from unspoken.wire.segment import PromptBox
from unspoken.wire.texts import MAX_TEXTS, Text

MAX_CROPS = 8
"""Limit chosen so that two slow cores answer eight requests within the timeout of one.

A crop takes 3.3 s on one core.
"""


class Crop(RequestModel):
    """A box, and the index of its own label in the request's list of labels."""

    box: PromptBox
    label_index: Annotated[int, Field(ge=0)]


class RankCropsRequest(PictureRequest):
    """A picture, its boxes, and all labels that each crop is compared with. Labels are unique."""

    crops: Annotated[list[Crop], Field(max_length=MAX_CROPS)]
    labels: Annotated[list[Text], Field(min_length=1, max_length=MAX_TEXTS)]

    @model_validator(mode="after")
    def _knows_its_labels(self) -> "RankCropsRequest":
        if len(set(self.labels)) < len(self.labels):
            raise PydanticCustomError("repeated_label", "labels must differ from each other")
        if any(crop.label_index >= len(self.labels) for crop in self.crops):
            raise PydanticCustomError("unknown_label", "label_index must be a place in labels")
        return self


class RankCropsReply(ReplyModel):
    """For each crop, in order, the rank of its own label: 1 if no label is more similar to it."""

    image: ImageInfo
    ranks: list[Annotated[int, Field(ge=1)]]
    model: ModelInfo
    timings_ms: dict[str, float]
