"""Settings of the segmenter service, read once from SEGMENTER_*."""

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field
from pydantic_settings import SettingsConfigDict

from unspoken.config.services import SEGMENTER
from unspoken.config.settings import EngineSettings, service_url


class SegmenterSettings(EngineSettings):
    """Settings of the segmenter service: text encoder, weights, caches and query methods."""

    model_config = SettingsConfigDict(env_prefix="SEGMENTER_")

    port: Annotated[int, Field(ge=0, le=65535)] = SEGMENTER.port
    """Port to listen on."""
    text_batch: Annotated[int, Field(ge=1, le=1024)] = 64
    """Largest number of texts in one forward pass of the text tower."""
    text_cache_entries: Annotated[int, Field(ge=0)] = 16_384
    """Size of the LRU cache of text vectors, 3 kB each; labels repeat from image to image."""
    weights: Path | None = None
    """Weights file of a Semantic-SAM that replaces the profile's segmenter; a delta is applied to
    the profile's segmenter."""
    detector_url: Annotated[str, service_url("SEGMENTER_DETECTOR_URL")] | None = None
    """URL of the detector service; method `detector` is not available without it."""
    cache_mib: Annotated[float, Field(gt=0)] = 512.0
    """Memory of the cached images in MiB: embedding, file, guide and bank of each."""
    disk_cache_dir: Path | None = None
    """Folder that keeps embeddings across restarts; replicas may share it. By default there is
    none."""
    disk_cache_mib: Annotated[float, Field(gt=0)] = 10_240.0
    """Capacity of that folder in MiB; an embedding of SAM's size has 2 MiB, plus its image file."""
    bank_points_per_side: Annotated[int, Field(ge=1, le=128)] | None = None
    """Clicks along each side of an image for its mask bank; by default 16 for small networks, else
    32."""
    auto_method: Literal["bank", "detector"] | None = None
    """Method that `auto` stands for; by default `detector`, or `bank` without a detector."""
    score: Literal["softmax", "cosine"] | None = None
    """Score of a text query. By default that of the weights, else softmax."""
    score_threshold: Annotated[float, Field(ge=0, le=1)] | None = None
    """Threshold of text queries that set none. By default that of the weights, else 0.5."""
