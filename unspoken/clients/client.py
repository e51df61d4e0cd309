"""The client for code that waits: see docs/client.md."""

import time
from collections.abc import Iterator, Sequence
from typing import Any

import httpx
import numpy as np

from unspoken.clients.events import Following
from unspoken.clients.pictures import HeldImage, ImageSource
from unspoken.clients.replies import Segmentation
from unspoken.clients.retries import DEFAULT_RETRIES, Retries
from unspoken.clients.running import RunTalk
from unspoken.clients.segmenting import AnyQuery, SegmentTalk, question_of
from unspoken.clients.steps import (
    DEFAULT_TIMEOUT_S,
    Exchange,
    Pause,
    Result,
    Send,
    Step,
    Steps,
    Work,
    auth_headers,
    checked_url,
)
from unspoken.schemas import EmbeddingSpace, RunRequest, RunStatus
from unspoken.segment_schemas import Method


class Client:
    """One gateway; may be shared by threads.

    timeout_s: of a call, its retries and pauses included. transport: httpx's way to the network,
    for a proxy or certificates of one's own; those of the environment are not used.
    """

    def __init__(
        self,
        base_url: str,
        *,
        api_key: str | None = None,
        timeout_s: float = DEFAULT_TIMEOUT_S,
        retries: Retries = DEFAULT_RETRIES,
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
        self._pictures = SegmentTalk(self._begin)
        self.runs = Runs(self)

    def __enter__(self) -> "Client":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End the connections."""
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
        """Masks for texts, boxes and points; one result a query, in order; no hit is an empty one.

        top_k: instances a query at most. nms_iou: of two instances of a query whose boxes overlap
        more, the better one is answered. independent: ask the detector for each text alone. Raises
        the errors of unspoken.errors; a query that alone is bad has `found.error` instead.
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
    ) -> HeldImage:
        """Have a picture encoded ahead; with `bank`, also what texts are answered from at once.

        name: an alias of one's own, for the latest picture that was sent with it.
        """
        return self._do(self._pictures.add_image(image, name=name, bank=bank))

    def find_image(self, id_or_name: str) -> HeldImage:
        """A picture that the gateway holds. Raises NotFound."""
        return self._do(self._pictures.find_image(id_or_name))

    def delete_image(self, image: HeldImage | str) -> None:
        """Remove a picture from the gateway, from memory and disk. Raises NotFound."""
        self._do(self._pictures.delete_image(image))

    def embed_texts(self, texts: Sequence[str], *, space: EmbeddingSpace = "mask") -> np.ndarray:
        """Return (N, 768) unit vectors of texts.

        space: "mask" is that of `found.embeddings`, "text" the text encoder's own, as in datasets.
        Vectors of different spaces cannot be compared.
        """
        return self._do(self._pictures.embed_texts(texts, space=space))

    def _begin(self) -> Exchange:
        return Exchange(self._base_url, retries=self._retries, timeout_s=self._timeout_s)

    def _do(self, steps: Steps[Result]) -> Result:
        came: Any = None
        while True:
            try:
                step = steps.send(came)
            except StopIteration as done:
                result: Result = done.value
                return result
            came = self._do_step(step)

    def _do_step(self, step: Step) -> object:
        match step:
            case Send(request):
                try:
                    return self._http.request(**request)
                except httpx.RequestError as error:
                    return error
            case Pause(seconds):
                time.sleep(seconds)
                return None
            case Work(function):
                return function()


class Runs:
    """Labelling runs of a client's gateway."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self._talk = RunTalk(client._begin)

    def create(self, request: RunRequest) -> RunStatus:
        """Queue a run. The same request under the same id answers the run that exists."""
        return self._client._do(self._talk.create(request))

    def read(self, run_id: str) -> RunStatus:
        """How far a run is. Raises NotFound."""
        return self._client._do(self._talk.read(run_id))

    def list(self) -> list[RunStatus]:
        """All runs, the newest first."""
        return self._client._do(self._talk.list())

    def retry_failed(self, run_id: str) -> RunStatus:
        """Queue a new run of just the failures."""
        return self._client._do(self._talk.retry_failed(run_id))

    def fork(self, run_id: str) -> RunStatus:
        """Queue a new run that asks the same, with the models that are served now."""
        return self._client._do(self._talk.fork(run_id))

    def cancel(self, run_id: str) -> RunStatus:
        """Start no further chunk of a run; what is committed stays."""
        return self._client._do(self._talk.cancel(run_id))

    def follow(self, run_id: str, *, patience_s: float = 300.0) -> Iterator[RunStatus]:
        """Each change of a run's status until it has ended, whatever happens to the connection.

        Raises NotFound; Unreachable after `patience_s` without any gateway.
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
