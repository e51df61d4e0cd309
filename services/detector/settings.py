"""Settings of the detector process, read once from DETECTOR_* (and UNSPOKEN_* for all)."""

from typing import Annotated, Literal

from pydantic import Field
from pydantic_settings import SettingsConfigDict

from unspoken.settings import EngineSettings

BackendName = Literal["transformers", "groundingdino"]


class DetectorSettings(EngineSettings):
    """What may be changed without touching models.yaml."""

    model_config = SettingsConfigDict(env_prefix="DETECTOR_")

    port: Annotated[int, Field(ge=0, le=65535)] = 8002
    backend: BackendName | None = None
    """The code that runs the network; the profile's own when absent."""
    box_threshold: Annotated[float, Field(ge=0, le=1)] | None = None
    """Default for requests that name none; else the weights' own, else .35."""
    short_side_px: Annotated[int, Field(ge=64, le=2048)] | None = None
    """Pictures are resized to this short side: 800 as published, 480 to 640 on a CPU; the profile's
    own when absent. The small detector has one size and ignores it."""
    nms_iou: Annotated[float, Field(gt=0, le=1)] = 0.55
    """Two boxes of one phrase that overlap this much are one."""
    max_boxes_per_phrase: Annotated[int, Field(ge=1, le=900)] = 50
