"""The Python client of a gateway: masks for texts, boxes and points, and labelling runs.

    with Client("http://127.0.0.1:8000") as client:
        answer = client.segment("street.jpg", "a dog", "wheel")
        answer.results[0].masks  # (N, H, W) bool

`AsyncClient` has the same methods for asyncio. Errors are those of `unspoken.errors`. See
docs/client.md.
"""

from unspoken.clients.async_client import AsyncClient
from unspoken.clients.client import Client
from unspoken.clients.pictures import HeldImage, run_item
from unspoken.clients.replies import Found, Segmentation
from unspoken.clients.retries import Retries
from unspoken.clients.segmenting import Query
from unspoken.schemas import RunRequest, RunStatus

__all__ = [
    "Client",
    "AsyncClient",
    "Retries",
    "Query",
    "Segmentation",
    "Found",
    "HeldImage",
    "RunRequest",
    "RunStatus",
    "run_item",
]
