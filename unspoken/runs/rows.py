"""One row per input: what was proposed for its caption, what was found, or why there is nothing.

`unspoken.runs.shards` holds the same fields as a parquet schema, each with its meaning and unit.
"""

from typing import Literal

from unspoken.schemas import PhraseSource, WireModel

Status = Literal["labelled", "dropped", "failed"]


class Filter(WireModel):
    """What one filter saw: where the value came from, and the value."""

    name: str
    source: str
    value: str | None = None
    score: float | None = None


class Candidate(WireModel):
    """A phrase that was asked of the detector, a decoy, or one that was rejected before."""

    id: int
    phrase: str
    named: bool
    stuff: bool
    decoy: bool
    sources: tuple[PhraseSource, ...]
    rejected: str | None = None


class AltLabel(WireModel):
    """Another label that the detector gave to the same object."""

    label: str
    candidate_id: int
    score: float


class Annotation(WireModel):
    """A box with its label; `kept` says whether it counts, `drop_reason` why it does not."""

    id: int
    box: tuple[float, float, float, float]
    label: str
    score: float
    candidate_id: int
    named: bool
    stuff: bool
    decoy: bool
    alt_labels: tuple[AltLabel, ...] = ()
    templates: tuple[str, ...] = ()
    clip_rank: int | None = None
    """Of the label among others, by an image-text model's view of the crop; 1 is the best."""
    kept: bool
    drop_reason: str | None = None

    @property
    def all_labels(self) -> tuple[str, ...]:
        """The label and its alternates."""
        return (self.label, *(alt.label for alt in self.alt_labels))


class RawText(WireModel):
    """The language model's own words for one template."""

    template: str
    text: str


class Row(WireModel):
    """One input of a run and what became of it."""

    key: str
    source_shard: str
    source_member: str
    source_row: int
    source_offset: int | None = None
    source_size: int | None = None
    """With `source_offset`: where in `source_shard` the picture lies, if that is a tar."""
    url: str | None = None
    caption: str
    """All captions that were asked, as one text."""
    captions: tuple[str, ...] = ()
    """Those captions one by one, where the picture has several."""
    image_sha256: str | None = None
    image_width: int | None = None
    image_height: int | None = None
    status: Status
    reason: str | None = None
    detail: str | None = None
    filters: tuple[Filter, ...] = ()
    candidates: tuple[Candidate, ...] = ()
    annotations: tuple[Annotation, ...] = ()
    negatives: tuple[str, ...] = ()
    """Phrases that were asked and that the picture does not show: hard negatives for training."""
    raw_texts: tuple[RawText, ...] = ()
    num_detector_chunks: int = 0
    prompt_sha256: str | None = None

    @property
    def found(self) -> frozenset[int]:
        """Ids of the candidates that a kept annotation carries, as its label or an alternate."""
        alternates = {alt.candidate_id for each in self.kept for alt in each.alt_labels}
        return frozenset(alternates | {each.candidate_id for each in self.kept})

    @property
    def kept(self) -> tuple[Annotation, ...]:
        """The annotations that count."""
        return tuple(annotation for annotation in self.annotations if annotation.kept)
