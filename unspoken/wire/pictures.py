"""Pictures in requests and replies, and boxes in them.

Boxes are xyxy in pixels of the original, EXIF-transposed picture.
"""

from collections.abc import Mapping
from typing import Annotated, ClassVar

from pydantic import AfterValidator, Field, ValidationInfo, model_validator
from pydantic_core import PydanticCustomError

from unspoken.wire.base import ReplyModel, RequestModel

MAX_BASE64_CHARS = 64 * 1024 * 1024
MAX_URL_CHARS = 4096


def _restore_base64(text: str, info: ValidationInfo) -> str:
    """Replace the placeholder that json_bodies.slim_body inserted by the picture's base64 text."""
    pictures: dict[str, str] = info.context or {}
    return pictures.get(text, text)


Base64Text = Annotated[str, Field(max_length=MAX_BASE64_CHARS), AfterValidator(_restore_base64)]


class Box(ReplyModel):
    """Corners in pixels of the original picture, x0 <= x1 and y0 <= y1."""

    x0: float
    y0: float
    x1: float
    y1: float

    def to_list(self) -> list[float]:
        """Return [x0, y0, x1, y1] in pixels."""
        return [self.x0, self.y0, self.x1, self.y1]


class ImageInput(RequestModel):
    """An inline picture: the encoded file (JPEG, PNG, WEBP) as base64."""

    base64: Base64Text

    field_hints: ClassVar[Mapping[str, str]] = {
        "url": "pictures by URL are not supported here: send the picture as base64"
    }


class LinkedImage(RequestModel):
    """An inline picture, or its URL if the service accepts URLs (UNSPOKEN_URL_INPUT)."""

    base64: Base64Text | None = None
    url: Annotated[str, Field(max_length=MAX_URL_CHARS)] | None = None

    @model_validator(mode="after")
    def _one_source(self) -> "LinkedImage":
        if (self.base64 is None) == (self.url is None):
            raise PydanticCustomError("one_image", "give either base64 or url, and not both")
        return self


class PictureRequest(RequestModel):
    """Base of requests about one picture."""

    image: LinkedImage


class ImageInfo(ReplyModel):
    """The picture of a reply: its content hash, and its size after EXIF orientation."""

    sha256: str
    width: int
    height: int
