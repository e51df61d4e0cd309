"""Settings of the gateway process, read once from GATEWAY_*."""

from pathlib import Path
from typing import Annotated

from pydantic import Field
from pydantic_settings import SettingsConfigDict

from unspoken.settings import ServiceSettings, service_url


class GatewaySettings(ServiceSettings):
    """Where sources lie, where runs go, and who makes masks."""

    model_config = SettingsConfigDict(env_prefix="GATEWAY_")

    port: Annotated[int, Field(ge=0, le=65535)] = 8000
    data_dir: Path = Path("data")
    """A run's source is a path below this folder, and never outside it."""
    runs_dir: Path = Path("runs")
    max_body_mib: Annotated[int, Field(ge=1)] = 64
    """Bound of a request with inline items."""
    max_requests: Annotated[int, Field(ge=1)] = 64
    """POST requests that are worked on at once, of /runs and of the segmenter's routes each; one
    more is answered 429."""
    max_queue_mib: Annotated[float, Field(gt=0)] = 256.0
    """Bodies of these requests together; more is answered 429."""
    request_timeout_s: Annotated[float, Field(gt=0)] = 180.0
    """A POST request that took longer is answered 504; X-Request-Timeout-Ms names less."""
    segmenter_url: Annotated[str, service_url("GATEWAY_SEGMENTER_URL")] = "http://127.0.0.1:8003"
    """Where /segment and /images are passed on to."""
    segmenter_timeout_s: Annotated[float, Field(gt=0)] = 180.0
    """The segmenter's first byte must come within this time."""
    max_streams: Annotated[int, Field(ge=1)] = 128
    """Event streams that are open at once; one more is answered 429."""
    poll_s: Annotated[float, Field(gt=0)] = 0.5
    """How often an event stream looks at its run."""
    heartbeat_s: Annotated[float, Field(gt=0)] = 15.0
    """An event stream writes a comment this often, so that nothing between closes it."""
