"""The synchronous client: see docs/how-to/python-client.md."""

import time
from collections.abc import Iterator, Sequence
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


class Client:
    """A client of one gateway. Thread-safe.

    Args:
        base_url: Address of the gateway.
        api_key: API key to send, if the gateway needs one.
        timeout_s: Timeout of a call, including its retries and pauses.
        retries: Number of attempts, and pauses between them.
        transport: httpx transport, for a proxy or your own certificates. Proxies and certificates
            of the environment are not used.
    """

    def __init__(
        self,
        base_url: str,
        *,
        api_key: str | None = None,
        timeout_s: float = DEFAULT_TIMEOUT_S,
        retries: RetryPolicy = DEFAULT_RETRIES,
        transport: httpx.BaseTransport | None = None,
    ) -> None:
        self._base_url = checked_url(base_url)
        self._retries = retries
        self._timeout_s = timeout_s
        self._http = httpx.Client(
            base_url=self._base_url,
            headers=auth_headers(api_key),
            trust_env=False,
            transport=transport,
        )
        self._pictures = ImageCalls(self._begin)
        self.runs = Runs(self)

    def __enter__(self) -> "Client":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    def segment(
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
        """Return masks for texts, boxes and points: one result per query, in order.

        A query that finds nothing has an empty result. A query that is invalid on its own has
        `found.error`; other errors are raised as in unspoken.errors.

        Args:
            image: The picture; see ImageSource.
            queries: Texts or `Query` objects.
            method: Method that answers texts: "bank", "detector", or "auto".
            masks: Return masks.
            embeddings: Return the instances' vectors.
            top_k: Maximum number of instances per query.
            nms_iou: If the boxes of two instances of a query overlap more, only the better one is
                returned.
            independent: Run the detector for each text alone.
        """
        question = question_of(
            queries,
            method=method,
            masks=masks,
            embeddings=embeddings,
            top_k=top_k,
            nms_iou=nms_iou,
            independent=independent,
        )
        return self._do(self._pictures.segment(image, question))

    def add_image(
        self, image: ImageSource, *, name: str | None = None, bank: bool = False
    ) -> ImageRef:
        """Encode a picture in advance.

        With `bank`, also build its mask bank, which makes text queries fast. `name` is an alias of
        your choice; it refers to the latest picture sent with it.
        """
        return self._do(self._pictures.add_image(image, name=name, bank=bank))

    def find_image(self, id_or_name: str) -> ImageRef:
        """Return a cached image of the gateway. Raises NotFound."""
        return self._do(self._pictures.find_image(id_or_name))

    def delete_image(self, image: ImageRef | str) -> None:
        """Remove a picture from the gateway's memory and disk. Raises NotFound."""
        self._do(self._pictures.delete_image(image))

    def embed_texts(self, texts: Sequence[str], *, space: EmbeddingSpace = "mask") -> np.ndarray:
        """Return (N, 768) unit vectors of texts.

        `space` "mask" is the space of `found.embeddings`; "text" is the text encoder's own, as in
        data sets. Vectors of different spaces cannot be compared.
        """
        return self._do(self._pictures.embed_texts(texts, space=space))

    def _begin(self) -> Exchange:
        return Exchange(self._base_url, retries=self._retries, timeout_s=self._timeout_s)

    def _do(self, effects: Effects[Result]) -> Result:
        came: Any = None
        while True:
            try:
                effect = effects.send(came)
            except StopIteration as done:
                result: Result = done.value
                return result
            came = self._perform(effect)

    def _perform(self, effect: Effect) -> object:
        match effect:
            case Send(request):
                try:
                    return self._http.request(**request)
                except httpx.RequestError as error:
                    return error
            case Pause(seconds):
                time.sleep(seconds)
                return None
            case RunBlocking(function):
                return function()


class Runs:
    """Labelling runs of a client's gateway."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self._talk = RunCalls(client._begin)

    def create(self, request: RunRequest) -> RunStatus:
        """Queue a run. The same request with the same id returns the existing run."""
        return self._client._do(self._talk.create(request))

    def read(self, run_id: str) -> RunStatus:
        """Return the status of a run. Raises NotFound."""
        return self._client._do(self._talk.read(run_id))

    def list(self) -> list[RunStatus]:
        """Return all runs, newest first."""
        return self._client._do(self._talk.list())

    def retry_failed(self, run_id: str) -> RunStatus:
        """Queue a new run of only the failed items."""
        return self._client._do(self._talk.retry_failed(run_id))

    def fork(self, run_id: str) -> RunStatus:
        """Queue a new run with the same request and the models that are served now."""
        return self._client._do(self._talk.fork(run_id))

    def cancel(self, run_id: str) -> RunStatus:
        """Stop starting chunks of a run; committed chunks are kept."""
        return self._client._do(self._talk.cancel(run_id))

    def follow(self, run_id: str, *, patience_s: float = 300.0) -> Iterator[RunStatus]:
        """Yield each change of a run's status until it has ended, across broken connections.

        Raises NotFound. Raises Unreachable if no gateway answers for `patience_s`.
        """
        client = self._client
        following = Following(
            run_id, base_url=client._base_url, retries=client._retries, patience_s=patience_s
        )
        while True:
            try:
                with client._http.stream(**following.request()) as response:
                    if following.accepts(response):
                        for piece in response.iter_bytes():
                            yield from following.read(piece)
                    else:
                        response.read()
                        following.refused(response)
            except httpx.RequestError as error:
                following.broke(error)
            if following.is_over:
                return
            time.sleep(following.pause_s)
