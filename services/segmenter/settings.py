"""Settings of the segmenter service, read once from SEGMENTER_*."""

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field
from pydantic_settings import SettingsConfigDict

from unspoken.settings import EngineSettings, service_url


class SegmenterSettings(EngineSettings):
    """How texts are encoded, and which masks are made of pictures."""

    model_config = SettingsConfigDict(env_prefix="SEGMENTER_")

    port: Annotated[int, Field(ge=0, le=65535)] = 8003
    text_batch: Annotated[int, Field(ge=1, le=1024)] = 64
    """Texts in one pass of the text tower."""
    text_cache_entries: Annotated[int, Field(ge=0)] = 16_384
    """Vectors kept by text, 3 kB each: labels come back in picture after picture."""
    weights: Path | None = None
    """A Semantic-SAM of one's own instead of the profile's segmenter; a delta goes on top of it."""
    detector_url: Annotated[str, service_url("SEGMENTER_DETECTOR_URL")] | None = None
    """The detector service, which answers text queries by method `detector`; none when absent."""
    cache_mib: Annotated[float, Field(gt=0)] = 512.0
    """Memory of the pictures that are held: embedding, file, guide and bank of each."""
    disk_cache_dir: Path | None = None
    """A folder that keeps embeddings over restarts; replicas may share it. None when absent."""
    disk_cache_mib: Annotated[float, Field(gt=0)] = 10_240.0
    """Bound of that folder: an embedding of SAM's size has 2 MiB, beside its picture's file."""
    bank_points_per_side: Annotated[int, Field(ge=1, le=128)] | None = None
    """Clicks along each side of a picture for its bank; 16 for small networks, else 32."""
    auto_method: Literal["bank", "detector"] | None = None
    """Method that `auto` stands for; when absent `detector`, or `bank` without a detector."""
    score: Literal["softmax", "cosine"] | None = None
    """What a text's score is; the weights' own choice when absent, else softmax."""
    score_threshold: Annotated[float, Field(ge=0, le=1)] | None = None
    """Lowest score of a text query that names none; the weights' own when absent, else .5."""
