"""Settings of the gateway process, read once from GATEWAY_*."""

from pathlib import Path
from typing import Annotated

from pydantic import Field
from pydantic_settings import SettingsConfigDict

from unspoken.config.services import GATEWAY, SEGMENTER
from unspoken.config.settings import ServiceSettings, service_url


class GatewaySettings(ServiceSettings):
    """Settings of the gateway: data and runs folders, request limits, the segmenter's URL."""

    model_config = SettingsConfigDict(env_prefix="GATEWAY_")

    port: Annotated[int, Field(ge=0, le=65535)] = GATEWAY.port
    """Port to listen on."""
    data_dir: Path = Path("data")
    """Folder of all sources: a run's source is a path below it, never outside it."""
    runs_dir: Path = Path("runs")
    """Folder of all runs."""
    max_body_mib: Annotated[int, Field(ge=1)] = 64
    """Largest request body in MiB, such as a run with inline items."""
    max_requests: Annotated[int, Field(ge=1)] = 64
    """POST requests in progress at once, counted separately for /runs and for the segmenter's
    routes; one more is answered 429."""
    max_queue_mib: Annotated[float, Field(gt=0)] = 256.0
    """Total size of the bodies of these requests in MiB; more is answered 429."""
    request_timeout_s: Annotated[float, Field(gt=0)] = 180.0
    """A POST request that takes longer is answered 504; a request can set a shorter time with
    X-Request-Timeout-Ms."""
    segmenter_url: Annotated[str, service_url("GATEWAY_SEGMENTER_URL")] = SEGMENTER.local_url
    """URL of the segmenter, to which /segment, /images and /text-embeddings are forwarded."""
    segmenter_timeout_s: Annotated[float, Field(gt=0)] = 180.0
    """Longest wait for the segmenter's response, and for each later part of it."""
    max_streams: Annotated[int, Field(ge=1)] = 128
    """Largest number of open event streams; one more is answered 429."""
    poll_s: Annotated[float, Field(gt=0)] = 0.5
    """Seconds between two reads of a run's status by an event stream."""
    heartbeat_s: Annotated[float, Field(gt=0)] = 15.0
    """Seconds between two heartbeat comments of an event stream, so that no proxy closes it."""
