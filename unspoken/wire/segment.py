"""Schemas of `POST /segment` and of `/images`.

Coordinates are in pixels of the original, EXIF-transposed picture. Scores are in [0, 1].
"""

from collections.abc import Mapping
from typing import Annotated, ClassVar, Literal

from pydantic import Field, model_validator
from pydantic_core import PydanticCustomError

from unspoken.wire.base import ErrorBody, ModelInfo, ReplyModel, RequestModel
from unspoken.wire.pictures import MAX_URL_CHARS, Base64Text, Box
from unspoken.wire.texts import MAX_TEXT_CHARS, MAX_TEXTS, EmbeddingSpace

MAX_PROMPTS = 1000
MAX_POINTS = 64
MAX_IMAGE_NAME_CHARS = 128

Coordinate = Annotated[float, Field(ge=-1e6, le=1e6, allow_inf_nan=False)]
ImageName = Annotated[
    str, Field(min_length=1, max_length=MAX_IMAGE_NAME_CHARS, pattern=r"^[A-Za-z0-9_.:/ -]+$")
]
Method = Literal["auto", "bank", "detector"]
QueryMethod = Literal["bank", "detector", "prompts"]
MaskForm = Literal["rle", "polygon", "png", "none"]
QueryText = Annotated[str, Field(max_length=MAX_TEXT_CHARS)]
"""May be blank: only this query is then answered by an error, and the others are answered."""


_BOXES = "send boxes: a list of {x0, y0, x1, y1} in pixels"
_POINTS = "send points: a list of {x, y, label}, label 1 on the thing and 0 off it"
_TEXTS = 'send queries: [{"text": ...}]'
_PROMPTS = "send boxes and points in a query: queries: [{...}]"
_MULTIMASK = "a single point is answered by three masks, everything else by one"


class SegmentImage(RequestModel):
    """An inline picture, the id or name of a picture that was sent before, or a URL.

    URLs are accepted if the service is configured to fetch them (UNSPOKEN_URL_INPUT).
    """

    base64: Base64Text | None = None
    id: ImageName | None = None
    url: Annotated[str, Field(max_length=MAX_URL_CHARS)] | None = None
    name: ImageName | None = None
    """A name of your choice for a picture that is sent; it refers to the latest picture sent with
    it.
    """

    @model_validator(mode="after")
    def _one_source(self) -> "SegmentImage":
        if [self.base64, self.id, self.url].count(None) != 2:
            raise PydanticCustomError("one_image", "give one of base64, id and url")
        if self.name is not None and self.id is not None:
            raise PydanticCustomError("name_of_id", "a name is given with a picture, not an id")
        check_name(self.name)
        return self


class PromptBox(RequestModel):
    """Corners in pixels of the picture, x0 < x1 and y0 < y1; parts outside of it are cut off."""

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
        """Return [x0, y0, x1, y1] in pixels."""
        return [self.x0, self.y0, self.x1, self.y1]


class PromptPoint(RequestModel):
    """A click: label 1 is on the thing, label 0 is off it."""

    x: Coordinate
    y: Coordinate
    label: Literal[0, 1] = 1


class SegmentQuery(RequestModel):
    """A query: a text; or boxes and points, whose masks are then scored by the text.

    Each box is a separate prompt. All points together are one prompt; if there is a box, they
    belong to it. Texts are compared in lower case and without punctuation. `negative`: texts that
    the thing must not match. `threshold`: lowest score to return.
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
                "ambiguous_points", "points beside several boxes: send one query for each box"
            )
        if self.points and not any(point.label for point in self.points) and not self.boxes:
            raise PydanticCustomError("no_point_on", "at least one point must have label 1")
        return self

    @property
    def is_prompted(self) -> bool:
        """True if the query has boxes or points."""
        return bool(self.boxes or self.points)


class SegmentOutput(RequestModel):
    """The content of an instance, and the maximum number of instances per query."""

    mask: MaskForm = "rle"
    embedding: bool = False
    top_k: Annotated[int, Field(ge=1, le=1000)] = 100


class SegmentQuestion(RequestModel):
    """Queries about one picture."""

    queries: Annotated[tuple[SegmentQuery, ...], Field(max_length=MAX_TEXTS)]
    method: Method = "auto"
    output: SegmentOutput = SegmentOutput()
    independent: bool = False
    """Run the detector for each text alone, so that no score depends on the other texts."""
    nms_iou: Annotated[float, Field(gt=0, le=1)] | None = None
    """If the boxes of two instances of one query overlap more than this, only the better one is
    returned.
    """

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
    """The JSON body of `POST /segment`."""

    image: SegmentImage

    @property
    def question(self) -> SegmentQuestion:
        """The request without its picture."""
        return self


class ImageRequest(RequestModel):
    """The JSON body of `POST /images`."""

    image: SegmentImage


class CacheState(ReplyModel):
    """Cache lookup of the picture's embedding: hit or miss, and the tier."""

    hit: bool
    tier: Literal["memory", "disk", "none"]


class ImageReply(ReplyModel):
    """A picture that the service has cached."""

    id: str
    """Hash of content, weights, preprocessing and precision: a change of any of them changes the
    id.
    """
    sha256: str
    width: int
    height: int
    name: str | None = None
    cached: bool
    """True if the picture was cached before this request."""
    cache: CacheState
    """The same with the tier."""
    bank_ready: bool
    """True once the mask bank is built: any number of texts then takes one matrix product."""
    model: ModelInfo
    timings_ms: dict[str, float] = Field(default_factory=dict)


class RleMask(ReplyModel):
    """COCO's compressed run lengths, which pycocotools decodes."""

    format: Literal["rle"] = "rle"
    size: tuple[int, int]
    """Height, width."""
    counts: str


class PolygonMask(ReplyModel):
    """All parts of a mask without loss, each an outer ring and its holes, along pixel edges."""

    format: Literal["polygon"] = "polygon"
    size: tuple[int, int]
    polygons: list[list[list[int]]]
    """Rings are [x0, y0, x1, y1, ...]."""


class PngMask(ReplyModel):
    """A PNG of the whole picture with one bit per pixel, as base64."""

    format: Literal["png"] = "png"
    size: tuple[int, int]
    data: str


Mask = Annotated[RleMask | PolygonMask | PngMask, Field(discriminator="format")]


class Instance(ReplyModel):
    """One thing that a query found.

    score: of the text by the method, or the predicted IoU if there is no text. similarity: the
    cosine that the network expects between this instance's vector and the right label's. area: in
    pixels; 0 for a prompt whose mask is empty, with a box of zeros.
    """

    box: Box
    score: Annotated[float, Field(ge=0, le=1)]
    prompt_index: int | None = None
    """Index of the query's box; 0 for points. None for a query with only a text."""
    mask_index: int | None = None
    """Index of the prompt's mask: 0 to 2 in SAM's order for a single click, else 0."""
    predicted_iou: float
    similarity: float
    area: int
    mask: Mask | None
    embedding: list[float] | None = None


class QueryResult(ReplyModel):
    """Instances of the query at `query_index`; an empty list if nothing was found.

    Instances of a text are sorted by score, descending. Instances of boxes and points are in the
    order of the prompts, and sorted by score for each prompt.
    """

    query_index: int
    text: str | None
    method: QueryMethod | None = None
    """Method that answered this query; None if it has an error."""
    threshold: float | None = None
    """Lowest score returned: the query's own threshold, or the method's default."""
    error: ErrorBody | None = None
    """The reason why this query was not answered; the other queries were."""
    num_empty: int = 0
    """Number of the detector's boxes that were dropped because their mask is empty."""
    instances: list[Instance]


class SegmentedImage(ReplyModel):
    """The picture of the reply."""

    id: str
    width: int
    height: int


class SegmentReply(ReplyModel):
    """The reply of `POST /segment`."""

    image: SegmentedImage
    model: ModelInfo
    method: QueryMethod
    """Method that answered the queries with only a text; `prompts` if there were none."""
    embedding_space: EmbeddingSpace | None = None
    """Space of the instances' vectors, if they were requested.

    `/text-embeddings` with the same `space` returns vectors of texts to compare them with.
    """
    cache: CacheState
    results: list[QueryResult]
    timings_ms: dict[str, float]


def check_name(name: str | None) -> None:
    """Raise if a name could be mistaken for an id, or for a path to another route."""
    if name is not None and {".", ".."} & set(name.split("/")):
        raise PydanticCustomError("name_like_path", "a name must not have a part . or ..")
    if name is not None and len(name) == 64 and not set(name) - set("0123456789abcdef"):
        raise PydanticCustomError("name_like_id", "a name must not look like an id")
