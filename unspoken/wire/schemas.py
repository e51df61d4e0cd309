"""Schemas of requests, replies and the values in them.

Boxes are xyxy in pixels of the original, EXIF-transposed picture. Scores are in [0, 1].
"""

from collections.abc import Mapping
from typing import Annotated, ClassVar, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    ValidationInfo,
    model_validator,
)
from pydantic_core import PydanticCustomError

from unspoken.wire.filters import FilterConfig

MAX_TEXTS = 1000
MAX_INDEPENDENT_TEXTS = 100
"""Limit of a request with `independent`: each text is a pass of the detector's decoder."""
MAX_TEXT_CHARS = 256
MAX_CAPTION_CHARS = 2000
MAX_CAPTIONS = 256
MAX_BASE64_CHARS = 64 * 1024 * 1024
MAX_URL_CHARS = 4096
EMBEDDING_DIM = 768
DEFAULT_FDR = 0.1


def _put_back(text: str, info: ValidationInfo) -> str:
    """Return the picture's base64 text for a placeholder; see json_bodies.slim_body."""
    pictures: dict[str, str] = info.context or {}
    return pictures.get(text, text)


Base64Text = Annotated[str, Field(max_length=MAX_BASE64_CHARS), AfterValidator(_put_back)]
Text = Annotated[str, Field(min_length=1, max_length=MAX_TEXT_CHARS)]
CaptionText = Annotated[str, Field(min_length=1, max_length=MAX_CAPTION_CHARS)]


class WireModel(BaseModel):
    """Base of all schemas: frozen, and an unknown field is an error.

    The docstring of a field is its description in OpenAPI.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)


class RequestModel(WireModel):
    """A part of a request. Null for an optional field means the same as omitting it."""

    field_hints: ClassVar[Mapping[str, str]] = {}
    """Field names of other tools and versions -> the hint that says what to send instead."""

    @model_validator(mode="before")
    @classmethod
    def _null_is_absent(cls, written: object) -> object:
        if not isinstance(written, dict):
            return written
        return {
            name: value
            for name, value in written.items()
            if value is not None
            or name not in cls.model_fields
            or cls.model_fields[name].is_required()
        }


class ErrorBody(WireModel):
    """The body of every error reply."""

    error: str
    message: str
    details: dict[str, object] = Field(default_factory=dict)


class ModelInfo(WireModel):
    """The model that answered; `revision` is a hash or a hub's revision."""

    name: str
    kind: Literal["llm", "detector", "text_encoder", "segmenter"]
    revision: str
    device: str = "cpu"


class Box(WireModel):
    """Corners in pixels of the original picture, x0 <= x1 and y0 <= y1."""

    x0: float
    y0: float
    x1: float
    y1: float

    def to_list(self) -> list[float]:
        """Return [x0, y0, x1, y1] in pixels."""
        return [self.x0, self.y0, self.x1, self.y1]


class ImageInput(WireModel):
    """An inline picture: the encoded file (JPEG, PNG, WEBP) as base64."""

    base64: Base64Text

    @model_validator(mode="before")
    @classmethod
    def _no_url(cls, written: object) -> object:
        if isinstance(written, dict) and "url" in written:
            raise PydanticCustomError(
                "url_not_possible", "image.url is not supported here: send the picture as base64"
            )
        return written


class LinkedImage(WireModel):
    """An inline picture, or its URL if the service accepts URLs (UNSPOKEN_URL_INPUT)."""

    base64: Base64Text | None = None
    url: Annotated[str, Field(max_length=MAX_URL_CHARS)] | None = None

    @model_validator(mode="after")
    def _one_source(self) -> "LinkedImage":
        if (self.base64 is None) == (self.url is None):
            raise PydanticCustomError("one_image", "give either base64 or url, and not both")
        return self


class ImageInfo(WireModel):
    """The picture of a reply: its content hash, and its size after EXIF orientation."""

    sha256: str
    width: int
    height: int


# ---- phrases ---------------------------------------------------------------------------------


class PhraseSource(WireModel):
    """The origin of a phrase. Template 'caption' means a noun of the caption itself."""

    template: str
    example_set: int = 0
    """Index of the template's set of worked examples that preceded the question, 0 first."""
    model: str = ""
    rank: int = 0
    """Position in the model's list, 0 first."""
    mean_logprob: float | None = None
    part_of: str | None = None
    """The noun whose parts were asked for; None if the template asks about the caption."""


class Phrase(WireModel):
    """One object noun phrase proposed for a caption.

    `named`: true if its head noun's lemma or a lexicon synonym occurs in the caption; otherwise the
    phrase is implied. `stuff`: an amorphous region (sky, grass) rather than a countable thing.
    """

    text: Text
    named: bool
    stuff: bool = False
    sources: tuple[PhraseSource, ...]


class RejectedCandidate(WireModel):
    """A candidate that parsing or normalisation rejected, with its raw text and the reason."""

    raw: str
    reason: str
    template: str
    example_set: int = 0
    rank: int = 0
    """Position in the model's list, 0 first."""


class Proposal(WireModel):
    """All phrases of one caption, best first, and the rejected candidates."""

    phrases: tuple[Phrase, ...]
    rejected: tuple[RejectedCandidate, ...] = ()
    raw_texts: dict[str, str] = Field(default_factory=dict)
    """template -> the language model's raw text."""
    prompt_sha256: str | None = None
    """Digest of the prompt around a caption: templates, their worked examples, the prompt style."""


TemplateNames = Annotated[list[Text], Field(min_length=1, max_length=16)]


class ProposeRequest(WireModel):
    """Captions to propose phrases for, and the templates to use (default: all configured ones)."""

    captions: Annotated[list[CaptionText], Field(min_length=1, max_length=MAX_CAPTIONS)]
    templates: TemplateNames | None = None

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {"captions": ["A red car parked in front of a house"]},
                {"captions": ["Ducati Panigale V4, Mugello"], "templates": ["kind", "worn"]},
            ]
        }
    )


class ProposeReply(WireModel):
    """One proposal per caption, in the order of the request."""

    proposals: list[Proposal]
    model: ModelInfo
    timings_ms: dict[str, float]


# ---- detections ------------------------------------------------------------------------------


class DetectRequest(RequestModel):
    """A picture and the phrases to look for. The default threshold is the model's own."""

    image: LinkedImage
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


class Detection(WireModel):
    """A box for the phrase at `phrase_index`; `score` is the mean over the phrase's tokens."""

    phrase_index: Annotated[int, Field(ge=0)]
    phrase: str
    box: Box
    score: Annotated[float, Field(ge=0, le=1)]


class DetectionResult(WireModel):
    """Detections of one picture, best first, and the number of chunks that the phrases needed."""

    detections: tuple[Detection, ...]
    num_chunks: int


class DetectReply(WireModel):
    """The reply of `POST /detect`."""

    image: ImageInfo
    detections: tuple[Detection, ...]
    num_chunks: int
    box_threshold: float
    model: ModelInfo
    timings_ms: dict[str, float]


# ---- text embeddings -------------------------------------------------------------------------


EmbeddingSpace = Literal["text", "mask"]
"""`text`: the text encoder's own space, as in data sets.

`mask`: the segmenter's space, in which masks have their vectors. Texts are averaged over its
templates, minus the mean vector that it was trained with.
"""


class TextEmbeddingsRequest(RequestModel):
    """Phrases to encode, and the space of their vectors."""

    phrases: Annotated[list[Text], Field(min_length=1, max_length=MAX_TEXTS)]
    space: EmbeddingSpace = "text"

    model_config = ConfigDict(json_schema_extra={"examples": [{"phrases": ["car", "wheel"]}]})


class TextEmbeddingsReply(WireModel):
    """(N, 768) unit vectors in the order of the request; different spaces are not comparable."""

    embeddings: list[list[float]]
    space: EmbeddingSpace = "text"
    model: ModelInfo
    """The text encoder, or the segmenter if `space` is its own."""
    timings_ms: dict[str, float]


# ---- runs ------------------------------------------------------------------------------------


class InlineItem(WireModel):
    """A caption with its picture, for small runs sent in one request."""

    caption: Annotated[str, Field(max_length=MAX_CAPTION_CHARS)]
    image: ImageInput
    key: Annotated[str, Field(pattern=r"^[A-Za-z0-9_-]{1,128}$")] | None = None


class RunRequest(WireModel):
    """A labelling run: a source under the data folder, or inline items."""

    source: Annotated[str, Field(min_length=1, max_length=1024)] | None = None
    """Path relative to the data folder: a folder of tar shards or pictures, a tar, or a table."""
    pictures: Annotated[str, Field(min_length=1, max_length=1024)] | None = None
    """Folder in the data folder to which a table's picture paths are relative; by default the
    table's own folder.
    """
    items: Annotated[list[InlineItem], Field(min_length=1, max_length=1000)] | None = None
    run_id: Annotated[str, Field(pattern=r"^[a-z0-9-]{1,64}$")] | None = None
    box_threshold: Annotated[float, Field(ge=0, le=1)] | Literal["auto"] | None = None
    """Lowest score of a named label's boxes; 'auto' chooses one per source by means of decoys."""
    wanted_fdr: Annotated[float, Field(gt=0, lt=1)] | None = None
    """With 'auto': largest estimated false discovery rate of labels; 0.1 by default."""
    single_template_margin: Annotated[float, Field(ge=0, le=1)] = 0.0
    """Extra score required of implied labels that only one template proposed."""
    templates: TemplateNames | None = None
    """Templates for the language model; by default those that its service is configured with."""
    crop_check: bool = False
    """Keep a box only if an image-text model ranks its label among the first for its crop."""
    num_decoys: Annotated[int, Field(ge=0, le=32)] = 4
    chunk_size: Annotated[int, Field(ge=1, le=1024)] = 8
    filters: FilterConfig = FilterConfig()

    @model_validator(mode="after")
    def _one_source(self) -> "RunRequest":
        if (self.source is None) == (self.items is None):
            raise ValueError("give either source or items, and not both")
        if self.pictures is not None and self.source is None:
            raise ValueError("pictures is the folder of a source's pictures: give source too")
        return self

    @model_validator(mode="after")
    def _can_choose(self) -> "RunRequest":
        if self.wanted_fdr is not None and self.box_threshold != "auto":
            raise ValueError("wanted_fdr belongs to box_threshold 'auto'")
        if self.box_threshold == "auto" and not self.num_decoys:
            raise ValueError("box_threshold 'auto' needs decoys: num_decoys must be at least 1")
        return self

    @property
    def false_discovery_rate(self) -> float | None:
        """The wanted rate of an 'auto' run; None for other runs."""
        if self.box_threshold != "auto":
            return None
        return DEFAULT_FDR if self.wanted_fdr is None else self.wanted_fdr


ENDED = ("done", "cancelled", "failed")
"""Final states of a run."""


class RunStatus(WireModel):
    """Progress of a run. `state` becomes 'done' when labels, manifest and card are written."""

    run_id: str
    state: Literal["planned", "running", "finishing", "done", "cancelled", "failed"]
    total: int
    done: int
    labelled: int
    dropped: dict[str, int]
    failed: dict[str, int]
    chunks_total: int
    chunks_done: int
    chunks_leased: int = 0
    """Chunks that a worker is working on."""
    attempts: int
    rate_per_s: float | None = None
    """Rows per second over the last five minutes, or since the dispatcher started."""
    seconds_left: float | None = None
    timings_ms: dict[str, float] = Field(default_factory=dict)
    """Stage -> the workers' time in all committed chunks; `total` is the whole time.

    Failed attempts are not included.
    """
    bottleneck: str | None = None
    """The stage that recently took most of the workers' time; 'workers' if chunks wait and no
    worker takes them.
    """
    notice: str = ""
    """A warning if the run labelled nothing, or lost most of its rows for one reason, and what to
    do about it; otherwise empty.
    """
    message: str = ""
    updated_s: float | None = None
    """Time of the dispatcher's last update, in seconds since 1970."""
    stalled_since_s: float | None = None
    """Time since which no dispatcher runs and the run does not progress, in seconds since 1970;
    null while a dispatcher runs, and once the run has ended.
    """
    output: str
