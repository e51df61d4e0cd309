"""The asynchronous client; it shares its request logic with `Client`."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from typing import Any

import httpx
import numpy as np

from unspoken.client.calls import (
    DEFAULT_RETRIES,
    DEFAULT_TIMEOUT_S,
    Effect,
    Effects,
    Exchange,
    Pause,
    Result,
    RunBlocking,
    Send,
    auth_headers,
    checked_url,
)
from unspoken.client.events import Following
from unspoken.client.images import AnyQuery, ImageCalls, question_of
from unspoken.client.pictures import ImageRef, ImageSource
from unspoken.client.replies import Segmentation
from unspoken.client.runs import RunCalls
from unspoken.retries import RetryPolicy
from unspoken.wire.runs import RunRequest, RunStatus
from unspoken.wire.segment import Method
from unspoken.wire.texts import EmbeddingSpace


class AsyncClient:
    """See `Client`. Use one client per event loop. Files are read and encoded in threads."""

    def __init__(
        self,
        base_url: str,
        *,
        api_key: str | None = None,
        timeout_s: float = DEFAULT_TIMEOUT_S,
        retries: RetryPolicy = DEFAULT_RETRIES,
        transport: httpx.AsyncBaseTransport | None = None,
    ) -> None:
        self._base_url = checked_url(base_url)
        self._retries = retries
        self._timeout_s = timeout_s
        self._http = httpx.AsyncClient(
            base_url=self._base_url,
            headers=auth_headers(api_key),
            trust_env=False,
            transport=transport,
        )
        self._pictures = ImageCalls(self._begin)
        self.runs = AsyncRuns(self)

    async def __aenter__(self) -> "AsyncClient":
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def close(self) -> None:
        """Close the connections."""
        await self._http.aclose()

    async def segment(
        self,
        image: ImageSource,
        *queries: AnyQuery,
        method: Method = "auto",
        masks: bool = True,
        embeddings: bool = False,
        top_k: int = 100,
        nms_iou: float | None = None,
        independent: bool = False,
    ) -> Segmentation:
        """See Client.segment."""
        question = question_of(
            queries,
            method=method,
            masks=masks,
            embeddings=embeddings,
            top_k=top_k,
            nms_iou=nms_iou,
            independent=independent,
        )
        return await self._do(self._pictures.segment(image, question))

    async def add_image(
        self, image: ImageSource, *, name: str | None = None, bank: bool = False
    ) -> ImageRef:
        """See Client.add_image."""
        return await self._do(self._pictures.add_image(image, name=name, bank=bank))

    async def find_image(self, id_or_name: str) -> ImageRef:
        """See Client.find_image."""
        return await self._do(self._pictures.find_image(id_or_name))

    async def delete_image(self, image: ImageRef | str) -> None:
        """See Client.delete_image."""
        await self._do(self._pictures.delete_image(image))

    async def embed_texts(
        self, texts: Sequence[str], *, space: EmbeddingSpace = "mask"
    ) -> np.ndarray:
        """See Client.embed_texts."""
        return await self._do(self._pictures.embed_texts(texts, space=space))

    def _begin(self) -> Exchange:
        return Exchange(self._base_url, retries=self._retries, timeout_s=self._timeout_s)

    async def _do(self, effects: Effects[Result]) -> Result:
        came: Any = None
        while True:
            try:
                effect = effects.send(came)
            except StopIteration as done:
                result: Result = done.value
                return result
            came = await self._perform(effect)

    async def _perform(self, effect: Effect) -> object:
        match effect:
            case Send(request):
                try:
                    return await self._http.request(**request)
                except httpx.RequestError as error:
                    return error
            case Pause(seconds):
                await asyncio.sleep(seconds)
                return None
            case RunBlocking(function):
                return await asyncio.to_thread(function)


class AsyncRuns:
    """See `Runs`."""

    def __init__(self, client: AsyncClient) -> None:
        self._client = client
        self._talk = RunCalls(client._begin)

    async def create(self, request: RunRequest) -> RunStatus:
        """See Runs.create."""
        return await self._client._do(self._talk.create(request))

    async def read(self, run_id: str) -> RunStatus:
        """See Runs.read."""
        return await self._client._do(self._talk.read(run_id))

    async def list(self) -> list[RunStatus]:
        """See Runs.list."""
        return await self._client._do(self._talk.list())

    async def retry_failed(self, run_id: str) -> RunStatus:
        """See Runs.retry_failed."""
        return await self._client._do(self._talk.retry_failed(run_id))

    async def fork(self, run_id: str) -> RunStatus:
        """See Runs.fork."""
        return await self._client._do(self._talk.fork(run_id))

    async def cancel(self, run_id: str) -> RunStatus:
        """See Runs.cancel."""
        return await self._client._do(self._talk.cancel(run_id))

    async def follow(self, run_id: str, *, patience_s: float = 300.0) -> AsyncIterator[RunStatus]:
        """See Runs.follow."""
        client = self._client
        following = Following(
            run_id, base_url=client._base_url, retries=client._retries, patience_s=patience_s
        )
        while True:
            try:
                async with client._http.stream(**following.request()) as response:
                    if following.accepts(response):
                        async for piece in response.aiter_bytes():
                            for status in following.read(piece):
                                yield status
                    else:
                        await response.aread()
                        following.refused(response)
            except httpx.RequestError as error:
                following.broke(error)
            if following.is_over:
                return
            await asyncio.sleep(following.pause_s)
