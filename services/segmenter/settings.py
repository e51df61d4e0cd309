"""Settings of the segmenter service, read once from SEGMENTER_*."""

from typing import Annotated

from pydantic import Field
from pydantic_settings import SettingsConfigDict

from unspoken.settings import ServiceSettings


class SegmenterSettings(ServiceSettings):
    """How texts are encoded."""

    model_config = SettingsConfigDict(env_prefix="SEGMENTER_")

    port: Annotated[int, Field(ge=0, le=65535)] = 8003
    text_batch: Annotated[int, Field(ge=1, le=1024)] = 64
    """Texts in one pass of the text tower."""
    text_cache_entries: Annotated[int, Field(ge=0)] = 16_384
    """Vectors kept by text, 3 kB each: labels come back in picture after picture."""
