"""Schemas of the language model service: captions in, object noun phrases out."""

from typing import Annotated

from pydantic import ConfigDict, Field

from unspoken.wire.base import ModelInfo, ReplyModel, RequestModel
from unspoken.wire.texts import Text

MAX_CAPTION_CHARS = 2000
MAX_CAPTIONS = 256
CaptionText = Annotated[str, Field(min_length=1, max_length=MAX_CAPTION_CHARS)]


class PhraseSource(ReplyModel):
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


class Phrase(ReplyModel):
    """One object noun phrase proposed for a caption.

    `named`: true if its head noun's lemma or a lexicon synonym occurs in the caption; otherwise the
    phrase is implied. `stuff`: an amorphous region (sky, grass) rather than a countable thing.
    """

    text: Text
    named: bool
    stuff: bool = False
    sources: tuple[PhraseSource, ...]


class RejectedCandidate(ReplyModel):
    """A candidate that parsing or normalisation rejected, with its raw text and the reason."""

    raw: str
    reason: str
    template: str
    example_set: int = 0
    rank: int = 0
    """Position in the model's list, 0 first."""


class Proposal(ReplyModel):
    """All phrases of one caption, best first, and the rejected candidates."""

    phrases: tuple[Phrase, ...]
    rejected: tuple[RejectedCandidate, ...] = ()
    raw_texts: dict[str, str] = Field(default_factory=dict)
    """template -> the language model's raw text."""
    prompt_sha256: str | None = None
    """Digest of the prompt around a caption: templates, their worked examples, the prompt style."""


TemplateNames = Annotated[tuple[Text, ...], Field(min_length=1, max_length=16)]


class ProposeRequest(RequestModel):
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


class ProposeReply(ReplyModel):
    """One proposal per caption, in the order of the request."""

    proposals: list[Proposal]
    model: ModelInfo
    timings_ms: dict[str, float]
