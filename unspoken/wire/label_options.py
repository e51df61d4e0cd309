"""The options of a labelling run."""

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from unspoken.wire.base import RequestModel
from unspoken.wire.filters import FilterConfig
from unspoken.wire.proposals import TemplateNames

DEFAULT_FALSE_DISCOVERY_RATE = 0.1


class LabelOptions(RequestModel):
    """The options of a labelling run. This is their only declaration.

    A new field also needs a parameter of the command `label`, so that it gets a flag.

    A request has them as its own fields; a run, its plan and its dataset's manifest embed them.
    """

    box_threshold: Annotated[float, Field(ge=0, le=1)] | Literal["auto"] | None = None
    """Lowest score of a named label's boxes; 'auto' chooses one per source by means of decoys.

    By default, it follows from the detector's own threshold.
    """
    false_discovery_rate: Annotated[float, Field(gt=0, lt=1)] | None = None
    """With 'auto': largest estimated share of false labels; 0.1 by default."""
    single_template_margin: Annotated[float, Field(ge=0, le=1)] = 0.0
    """Extra score required of implied labels that only one template proposed.

    It is also added to thresholds that decoys chose.
    """
    templates: TemplateNames | None = None
    """Templates for the language model; by default those that its service is configured with."""
    crop_check: bool = False
    """Keep a box only if an image-text model ranks its label among the first for its crop."""
    num_decoys: Annotated[int, Field(ge=0, le=32)] = 4
    """Absent phrases to ask of the detector per picture, to estimate how often it is wrong."""
    chunk_size: Annotated[int, Field(ge=1, le=1024)] = 8
    """Pictures per chunk; a worker labels one chunk at a time."""
    filters: FilterConfig = FilterConfig()
    """Limits for rows; a row that violates one is not labelled."""

    @model_validator(mode="before")
    @classmethod
    def _default_rate(cls, written: object) -> object:
        """Set the default rate, so that it is given if and only if thresholds are chosen."""
        if (
            isinstance(written, dict)
            and written.get("box_threshold") == "auto"
            and written.get("false_discovery_rate") is None
        ):
            return {**written, "false_discovery_rate": DEFAULT_FALSE_DISCOVERY_RATE}
        return written

    @model_validator(mode="after")
    def _can_choose(self) -> Self:
        if self.false_discovery_rate is not None and self.box_threshold != "auto":
            raise ValueError("false_discovery_rate needs box_threshold 'auto'")
        if self.box_threshold == "auto" and not self.num_decoys:
            raise ValueError("box_threshold 'auto' needs decoys: num_decoys must be at least 1")
        return self
