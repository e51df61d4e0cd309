"""Settings of the detector process, read once from DETECTOR_* (and UNSPOKEN_* for all).

A module of its own because `unspoken settings` reads it without torch and FastAPI.
"""

from typing import Annotated, Literal

from pydantic import Field
from pydantic_settings import SettingsConfigDict

from unspoken.config.services import DETECTOR
from unspoken.config.settings import EngineSettings

BackendName = Literal["transformers", "groundingdino"]


class DetectorSettings(EngineSettings):
    """Settings of the detector that override models.yaml."""

    model_config = SettingsConfigDict(env_prefix="DETECTOR_")

    port: Annotated[int, Field(ge=0, le=65535)] = DETECTOR.port
    """Port to listen on."""
    backend: BackendName | None = None
    """Code that runs the network; by default the profile's."""
    box_threshold: Annotated[float, Field(ge=0, le=1)] | None = None
    """Threshold for requests that set none. By default that of the weights, else 0.35."""
    short_side_px: Annotated[int, Field(ge=64, le=2048)] | None = None
    """Short side to which pictures are resized: 800 as published, 480 to 640 on a CPU; by default
    the profile's. The small detector has a fixed size and ignores this."""
    nms_iou: Annotated[float, Field(gt=0, le=1)] = 0.55
    """IoU from which the lower-scored of two boxes of one phrase is dropped."""
    max_boxes_per_phrase: Annotated[int, Field(ge=1, le=900)] = 50
    """Largest number of boxes of one phrase; the best are kept."""
