"""The row of a dataset: one per input, with its candidates and annotations, or the failure reason.

`unspoken.runs.dataset.shards` has the same fields as a parquet schema, each with its meaning and
unit.
"""

from typing import Literal

from unspoken.wire.base import FileModel
from unspoken.wire.proposals import PhraseSource

Status = Literal["labelled", "dropped", "failed"]


class Filter(FileModel):
    """The value that one filter read, and its source."""

    name: str
    source: str
    value: str | None = None
    score: float | None = None


class Candidate(FileModel):
    """A phrase for the detector: a proposed phrase, a decoy, or a phrase that was rejected."""

    id: int
    phrase: str
    named: bool
    stuff: bool
    decoy: bool
    sources: tuple[PhraseSource, ...]
    rejected: str | None = None


class AltLabel(FileModel):
    """Another label that the detector gave to the same object."""

    label: str
    candidate_id: int
    score: float


class Annotation(FileModel):
    """A box with its label; `drop_reason` is the reason if it is not `kept`."""

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
    """Rank of the label among others for this crop, by an image-text model; 1 is the best."""
    kept: bool
    drop_reason: str | None = None

    @property
    def all_labels(self) -> tuple[str, ...]:
        """The label and its alternative labels."""
        return (self.label, *(alt.label for alt in self.alt_labels))


class RawText(FileModel):
    """The language model's raw answer to one template."""

    template: str
    text: str


class Row(FileModel):
    """One input of a run and its result."""

    key: str
    source_shard: str
    source_member: str
    source_row: int
    source_offset: int | None = None
    source_size: int | None = None
    """With `source_offset`: the picture's place in `source_shard`, if that is a tar."""
    url: str | None = None
    caption: str
    """All captions sent to the language model, joined as one text."""
    captions: tuple[str, ...] = ()
    """The captions as separate texts, if the picture has several."""
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
    """Phrases that were asked and that the picture does not show (hard negatives for training)."""
    raw_texts: tuple[RawText, ...] = ()
    num_detector_chunks: int = 0
    prompt_sha256: str | None = None

    @property
    def found(self) -> frozenset[int]:
        """Ids of the candidates that a kept annotation has as its label or an alternative label."""
        alternatives = {alt.candidate_id for each in self.kept for alt in each.alt_labels}
        return frozenset(alternatives | {each.candidate_id for each in self.kept})

    @property
    def kept(self) -> tuple[Annotation, ...]:
        """The kept annotations."""
        return tuple(annotation for annotation in self.annotations if annotation.kept)
