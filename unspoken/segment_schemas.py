"""What `POST /segment` and `/images` take and answer.

Coordinates are in pixels of the original, EXIF-transposed picture. Scores are in [0, 1].
"""

from collections.abc import Mapping
from typing import Annotated, ClassVar, Literal

from pydantic import ConfigDict, Field, model_validator
from pydantic_core import PydanticCustomError

from unspoken.schemas import (
    MAX_TEXT_CHARS,
    MAX_TEXTS,
    MAX_URL_CHARS,
    Base64Text,
    Box,
    EmbeddingSpace,
    ErrorBody,
    ModelInfo,
    RequestModel,
    WireModel,
)

MAX_PROMPTS = 1000
MAX_POINTS = 64
MAX_IMAGE_NAME_CHARS = 128
IMAGE_ID = r"^[0-9a-f]{64}$"

Coordinate = Annotated[float, Field(ge=-1e6, le=1e6, allow_inf_nan=False)]
ImageName = Annotated[
    str, Field(min_length=1, max_length=MAX_IMAGE_NAME_CHARS, pattern=r"^[A-Za-z0-9_.:/ -]+$")
]
Method = Literal["auto", "bank", "detector"]
Way = Literal["bank", "detector", "prompts"]
MaskForm = Literal["rle", "polygon", "png", "none"]
QueryText = Annotated[str, Field(max_length=MAX_TEXT_CHARS)]
"""May be blank: such a query is answered by an error of its own, and the others are answered."""


_BOXES = "send boxes: a list of {x0, y0, x1, y1} in pixels"
_POINTS = "send points: a list of {x, y, label}, label 1 on the thing and 0 off it"
_TEXTS = 'send queries: [{"text": ...}]'
_PROMPTS = "send boxes and points in a query: queries: [{...}]"
_MULTIMASK = "a single point is answered by three masks, everything else by one"


class SegmentImage(WireModel):
    """A picture inline, the id (or one's own name) of one that was sent before, or its URL.

    URLs are read where the service is set to (UNSPOKEN_URL_INPUT).
    """

    base64: Base64Text | None = None
    id: ImageName | None = None
    url: Annotated[str, Field(max_length=MAX_URL_CHARS)] | None = None
    name: ImageName | None = None
    """A name of one's own for a picture that is sent: the latest picture of a name counts."""

    @model_validator(mode="after")
    def _one_source(self) -> "SegmentImage":
        if [self.base64, self.id, self.url].count(None) != 2:
            raise PydanticCustomError("one_image", "give one of base64, id and url")
        if self.name is not None and self.id is not None:
            raise PydanticCustomError("name_of_id", "a name is given with a picture, not an id")
        check_name(self.name)
        return self


class PromptBox(WireModel):
    """Corners in pixels of the picture, x0 < x1 and y0 < y1; what lies outside is cut off."""

    x0: Coordinate
    y0: Coordinate
    x1: Coordinate
    y1: Coordinate

    @model_validator(mode="after")
    def _has_an_area(self) -> "PromptBox":
        if self.x0 >= self.x1 or self.y0 >= self.y1:
            raise PydanticCustomError("empty_box", "a box needs x0 < x1 and y0 < y1")
        return self

    def to_list(self) -> list[float]:
        """[x0, y0, x1, y1] in pixels."""
        return [self.x0, self.y0, self.x1, self.y1]


class PromptPoint(WireModel):
    """A click: label 1 lies on the thing, 0 lies off it."""

    x: Coordinate
    y: Coordinate
    label: Literal[0, 1] = 1


class SegmentQuery(RequestModel):
    """What to look for: a text; or boxes and points, whose masks the text then scores.

    Each box is a prompt of its own. All points together are one prompt, and belong to the box where
    there is one. Texts are compared in lower case and without punctuation. `negative`: texts that
    the thing must not be. `threshold`: lowest score answered.
    """

    text: QueryText | None = None
    boxes: Annotated[tuple[PromptBox, ...], Field(max_length=MAX_PROMPTS)] = ()
    points: Annotated[tuple[PromptPoint, ...], Field(max_length=MAX_POINTS)] = ()
    negative: Annotated[tuple[QueryText, ...], Field(max_length=MAX_TEXTS)] = ()
    threshold: Annotated[float, Field(ge=0, le=1)] | None = None

    field_hints: ClassVar[Mapping[str, str]] = {
        **dict.fromkeys(("box", "bbox", "bboxes"), _BOXES),
        **dict.fromkeys(("point", "point_coords", "click", "clicks"), _POINTS),
        "point_labels": _POINTS,
        **dict.fromkeys(("prompt", "phrase", "label", "query", "caption"), "send text"),
        **dict.fromkeys(("texts", "prompts", "phrases", "labels"), "send one query for each text"),
        **dict.fromkeys(("box_threshold", "score_threshold", "min_score"), "send threshold"),
        **dict.fromkeys(("negatives", "negative_text", "not"), "send negative: a list of texts"),
        "multimask_output": _MULTIMASK,
        "top_k": "send output.top_k beside queries",
        "mask": "send output.mask beside queries",
    }

    @model_validator(mode="after")
    def _asks_something(self) -> "SegmentQuery":
        if self.text is None and not self.boxes and not self.points:
            raise PydanticCustomError("empty_query", "give a text, boxes or points")
        if self.text is None and self.negative:
            raise PydanticCustomError("lone_negative", "negative needs a text")
        if self.points and len(self.boxes) > 1:
            raise PydanticCustomError(
                "ambiguous_points", "points beside several boxes: ask one query for each box"
            )
        if self.points and not any(point.label for point in self.points) and not self.boxes:
            raise PydanticCustomError("no_point_on", "at least one point must have label 1")
        return self

    @property
    def is_prompted(self) -> bool:
        """Whether it shows where to look."""
        return bool(self.boxes or self.points)


class SegmentOutput(RequestModel):
    """What an instance carries, and how many of them a query answers at most."""

    mask: MaskForm = "rle"
    embedding: bool = False
    top_k: Annotated[int, Field(ge=1, le=1000)] = 100


class SegmentQuestion(RequestModel):
    """Queries about one picture."""

    queries: Annotated[tuple[SegmentQuery, ...], Field(max_length=MAX_TEXTS)]
    method: Method = "auto"
    output: SegmentOutput = SegmentOutput()
    independent: bool = False
    """Ask the detector for each text alone, so that no score depends on the other texts."""
    nms_iou: Annotated[float, Field(gt=0, le=1)] | None = None
    """Of two instances of one query whose boxes overlap more, the better one is answered."""

    field_hints: ClassVar[Mapping[str, str]] = {
        **dict.fromkeys(("text", "texts", "prompt", "phrases", "labels"), _TEXTS),
        **dict.fromkeys(("box", "boxes", "points", "point_coords"), _PROMPTS),
        **dict.fromkeys(("threshold", "box_threshold"), "send threshold in a query"),
        "multimask_output": _MULTIMASK,
        "top_k": "send output.top_k",
        **dict.fromkeys(("mask", "mask_format", "format"), "send output.mask"),
        **dict.fromkeys(("embedding", "embeddings"), "send output.embedding"),
        **dict.fromkeys(("nms", "iou_threshold"), "send nms_iou"),
    }

    @model_validator(mode="after")
    def _is_bounded(self) -> "SegmentQuestion":
        if sum(len(query.negative) for query in self.queries) > MAX_TEXTS:
            raise PydanticCustomError("many_negatives", f"at most {MAX_TEXTS} negatives a request")
        prompts = sum(len(query.boxes) or bool(query.points) for query in self.queries)
        if prompts > MAX_PROMPTS:
            raise PydanticCustomError("many_prompts", f"at most {MAX_PROMPTS} prompts a request")
        return self


class SegmentRequest(SegmentQuestion):
    """What `POST /segment` takes as JSON."""

    image: SegmentImage

    @property
    def question(self) -> SegmentQuestion:
        """The request without its picture."""
        return self


class ImageRequest(WireModel):
    """What `POST /images` takes as JSON."""

    image: SegmentImage


class CacheState(WireModel):
    """Whether the picture's embedding was there already, and where."""

    hit: bool
    tier: Literal["memory", "disk", "none"]


class ImageReply(WireModel):
    """A picture that the service holds."""

    id: str
    """Hash of content, weights, preprocessing and precision: another of any is another id."""
    sha256: str
    width: int
    height: int
    name: str | None = None
    cached: bool
    """Whether it was there before this request."""
    cache: CacheState | None = None
    """The same, and where; services of an earlier version do not say it."""
    bank_ready: bool
    """Whether any number of texts is now one matrix product."""
    model: ModelInfo
    timings_ms: dict[str, float] = Field(default_factory=dict)


class RleMask(WireModel):
    """COCO's compressed run lengths: what pycocotools decodes."""

    format: Literal["rle"] = "rle"
    size: tuple[int, int]
    """Height, width."""
    counts: str


class PolygonMask(WireModel):
    """Every part, each an outer ring and then its holes, along the edges of pixels: no loss."""

    format: Literal["polygon"] = "polygon"
    size: tuple[int, int]
    polygons: list[list[list[int]]]
    """Rings are [x0, y0, x1, y1, ...]."""


class PngMask(WireModel):
    """One bit a pixel, the whole picture, as base64."""

    format: Literal["png"] = "png"
    size: tuple[int, int]
    data: str


Mask = Annotated[RleMask | PolygonMask | PngMask, Field(discriminator="format")]


class Instance(WireModel):
    """One thing that a query found.

    score: of the text by the method, or the predicted IoU where there is no text. similarity: what
    the network expects the cosine between its vector and the right label's to be. area: pixels; 0
    for a prompt whose mask is empty, with a box of zeros.
    """

    box: Box
    score: Annotated[float, Field(ge=0, le=1)]
    prompt_index: int | None = None
    """Index of the query's box; 0 for points. None for a query of text alone."""
    mask_index: int | None = None
    """Which of the prompt's masks: 0 to 2 in SAM's order for a single click, else 0."""
    predicted_iou: float
    similarity: float
    area: int
    mask: Mask | None
    embedding: list[float] | None = None


class QueryResult(WireModel):
    """Instances of the query at `query_index`; no hit is an empty list.

    Those of a text are in order of falling score; those of boxes and points in the order of the
    prompts, and for each prompt in order of falling score.
    """

    query_index: int
    text: str | None
    method: Way | None = None
    """Method that answered this query; None where it has an error."""
    threshold: float | None = None
    """Lowest score that was answered: the query's own, or the method's default."""
    error: ErrorBody | None = None
    """Why this query was not answered; the others were."""
    num_empty: int = 0
    """Boxes of the detector that were dropped because their mask is empty."""
    instances: list[Instance]


class SegmentedImage(WireModel):
    """The picture that was answered about."""

    id: str
    width: int
    height: int


class SegmentReply(WireModel):
    """What `POST /segment` answers."""

    image: SegmentedImage
    model: ModelInfo
    method: Way
    """What answered the queries of text alone; `prompts` where there were none."""
    embedding_space: EmbeddingSpace | None = None
    """Space of the instances' vectors, where they were asked for: `/text-embeddings` with the
    same `space` gives the texts that they can be compared with."""
    cache: CacheState
    results: list[QueryResult]
    timings_ms: dict[str, float]

    model_config = ConfigDict(frozen=True, extra="forbid")


def check_name(name: str | None) -> None:
    """Raise for a name that could be taken for an id, or for a way to another route."""
    if name is not None and {".", ".."} & set(name.split("/")):
        raise PydanticCustomError("name_like_path", "a name must not have a part . or ..")
    if name is not None and len(name) == 64 and not set(name) - set("0123456789abcdef"):
        raise PydanticCustomError("name_like_id", "a name must not look like an id")
