"""The Python client of a gateway: masks for texts, boxes and points, and labelling runs.

    with Client("http://127.0.0.1:8000") as client:
        answer = client.segment("street.jpg", "car", "wheel")
        answer.results[0].masks  # (N, H, W) bool

`AsyncClient` has the same methods for asyncio. Errors are those of `unspoken.errors`. See
docs/how-to/python-client.md.
"""

from unspoken.client.async_client import AsyncClient
from unspoken.client.client import Client
from unspoken.client.images import Query
from unspoken.client.pictures import ImageRef, run_item
from unspoken.client.replies import FoundInstances, Segmentation
from unspoken.retries import RetryPolicy
from unspoken.wire.runs import RunRequest, RunStatus

__all__ = [
    "Client",
    "AsyncClient",
    "RetryPolicy",
    "Query",
    "Segmentation",
    "FoundInstances",
    "ImageRef",
    "RunRequest",
    "RunStatus",
    "run_item",
]
