"""Schemas of labelling runs: `POST /runs` and the status of a run."""

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from unspoken.wire.base import ReplyModel, RequestModel
from unspoken.wire.label_options import LabelOptions
from unspoken.wire.pictures import ImageInput
from unspoken.wire.proposals import MAX_CAPTION_CHARS


class InlineItem(RequestModel):
    """A caption with its picture, for small runs sent in one request."""

    caption: Annotated[str, Field(max_length=MAX_CAPTION_CHARS)]
    image: ImageInput
    key: Annotated[str, Field(pattern=r"^[A-Za-z0-9_-]{1,128}$")] | None = None


class RunRequest(LabelOptions):
    """A labelling run: a source under the data folder, or inline items."""

    source: Annotated[str, Field(min_length=1, max_length=1024)] | None = None
    """Path relative to the data folder: a folder of tar shards or pictures, a tar, or a table."""
    pictures: Annotated[str, Field(min_length=1, max_length=1024)] | None = None
    """Folder in the data folder to which a table's picture paths are relative; by default the
    table's own folder.
    """
    items: Annotated[list[InlineItem], Field(min_length=1, max_length=1000)] | None = None
    run_id: Annotated[str, Field(pattern=r"^[a-z0-9-]{1,64}$")] | None = None

    @model_validator(mode="after")
    def _one_source(self) -> Self:
        if (self.source is None) == (self.items is None):
            raise ValueError("give either source or items, and not both")
        if self.pictures is not None and self.source is None:
            raise ValueError("pictures is the folder of a source's pictures: give source too")
        return self

    @property
    def options(self) -> LabelOptions:
        """The options alone."""
        return LabelOptions(**{name: getattr(self, name) for name in LabelOptions.model_fields})


ENDED = ("done", "cancelled", "failed")
"""Final states of a run."""


RunPhase = Literal["planned", "running", "finishing", "done", "cancelled", "failed"]


class RunStatus(ReplyModel):
    """Progress of a run. `state` becomes 'done' when labels, manifest and card are written."""

    run_id: str
    state: RunPhase
    total: int
    done: int
    labelled: int
    dropped: dict[str, int]
    failed: dict[str, int]
    chunks_total: int
    chunks_done: int
    chunks_leased: int = 0
    """Chunks that a worker is working on."""
    done_in_open_chunks: int = 0
    """Rows that workers have done in chunks that are not committed yet; not part of `done`, and
    done again if the attempt fails.
    """
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
