"""HTTP clients that implement the ports, for use by workers.

A client sends each request once; its caller decides about retries. Every error reply becomes the
error of `unspoken.errors` that the service raised. A service that does not answer raises
ServiceUnavailable.
"""

import math
import time
from collections.abc import Mapping, Sequence
from typing import ClassVar, TypeVar

import httpx
import numpy as np
from pydantic import BaseModel, SecretStr, TypeAdapter, ValidationError

from unspoken.client.calls import auth_headers, checked_path, checked_url
from unspoken.client.http_error import error_of
from unspoken.client.request_bodies import image_form, picture_form, segment_body
from unspoken.errors import DeadlineExceeded, NotReady, Overloaded, ServiceUnavailable, Unreachable
from unspoken.http.deadline import timeout_headers
from unspoken.imaging.images import ONE_WHITE_PIXEL, Picture
from unspoken.logs import outgoing_headers
from unspoken.problem_words import first_problem
from unspoken.safe_text import reason_of, redact
from unspoken.timings import WAIT, note_wait
from unspoken.wire.base import ModelInfo
from unspoken.wire.crops import MAX_CROPS, Crop, RankCropsReply
from unspoken.wire.detections import DetectionResult, DetectReply
from unspoken.wire.proposals import MAX_CAPTIONS, Proposal, ProposeReply
from unspoken.wire.segment import ImageReply, SegmentQuestion, SegmentReply
from unspoken.wire.texts import MAX_TEXTS, TextEmbeddingsReply

Reply = TypeVar("Reply", bound=BaseModel)

MODEL_KNOWN_S = 10.0
"""Seconds for which a service's model name is cached."""
READY_KNOWN_S = 1.0
"""Seconds for which a service counts as ready after a reply.

Must be less than the pause of a chunk after a failed attempt. Otherwise several processes in turn
would send the same picture to a service that has died, and after three the picture would be taken
for the cause.
"""
READY_TIMEOUT_S = 5.0
NO_KEY = SecretStr("")

_MODELS: TypeAdapter[list[ModelInfo]] = TypeAdapter(list[ModelInfo])


def key_headers(key: SecretStr) -> dict[str, str]:
    """Return the header with an API key; empty if there is no key. Raises InvalidInput."""
    return auth_headers(key.get_secret_value())


def connect(base_url: str, *, timeout_s: float = 180.0, key: SecretStr = NO_KEY) -> httpx.Client:
    """Return an HTTP client for one service. It sends our API key, deadline and log ids.

    Proxies of the environment are not used between services. Raises InvalidInput for an invalid
    URL.
    """
    timeout = httpx.Timeout(timeout_s, connect=5.0)
    return httpx.Client(
        base_url=checked_url(base_url),
        timeout=timeout,
        trust_env=False,
        headers=key_headers(key),
        event_hooks={"request": [_tell]},
    )


def _tell(request: httpx.Request) -> None:
    request.headers.update({**outgoing_headers(), **timeout_headers()})


class _ServiceClient:
    """Base of the clients: one httpx client, and the model and time of the last reply."""

    _kind: ClassVar[str]
    _service: ClassVar[str]
    """Name of the service in messages."""

    def __init__(self, http: httpx.Client) -> None:
        self._http = http
        self._model: ModelInfo | None = None
        self._asked_s = -math.inf

    @property
    def model(self) -> ModelInfo:
        """The model that the service runs, from its last reply or, if outdated, from a request."""
        if self._model is None or not self._answered_within(MODEL_KNOWN_S):
            response = self._request("GET", "/v1/models")
            self._learn(self._of_kind(response.content))
            assert self._model is not None, "just learned"
        return self._model

    def _learn(self, model: ModelInfo) -> None:
        self._model, self._asked_s = model, time.monotonic()

    def _of_kind(self, content: bytes) -> ModelInfo:
        """Return the model of this client's kind; a service may serve several models."""
        try:
            models = _MODELS.validate_json(content)
        except ValidationError as error:
            raise ServiceUnavailable(
                f"{self._service} /v1/models returned an invalid reply: {first_problem(error)}"
            ) from error
        for model in models:
            if model.kind == self._kind:
                return model
        raise ServiceUnavailable(f"{self._service} serves no model of kind {self._kind}")

    def check_ready(self) -> None:
        """Raise NotReady or ServiceUnavailable unless the service is ready.

        A reply within the last READY_KNOWN_S counts as ready.
        """
        if not self._answered_within(READY_KNOWN_S):
            self._request("GET", "/readyz", timeout=READY_TIMEOUT_S)

    def _answered_within(self, seconds: float) -> bool:
        return time.monotonic() - self._asked_s <= seconds

    def _request(self, method: str, path: str, **arguments: object) -> httpx.Response:
        try:
            return self._answer(method, path, **arguments)
        except (DeadlineExceeded, NotReady, Overloaded, ServiceUnavailable):
            self._asked_s = -math.inf  # its cached state is no longer valid
            raise

    def _answer(self, method: str, path: str, **arguments: object) -> httpx.Response:
        where = f"{self._service} {path}"
        try:
            response = self._http.request(method, path, **arguments)  # type: ignore[arg-type]
        except (httpx.ConnectError, httpx.ConnectTimeout) as error:
            raise Unreachable(
                f"{where} could not be reached at {_address(self._http)}: {reason_of(error)}"
            ) from error
        except httpx.TimeoutException as error:
            raise ServiceUnavailable(f"{where} did not answer in time") from error
        except httpx.TransportError as error:
            raise ServiceUnavailable(
                f"{where}: the connection was lost: {reason_of(error)}"
            ) from error
        if response.is_success:
            return response
        raise error_of(response, service=self._service)

    def _post(self, path: str, reply: type[Reply], **arguments: object) -> Reply:
        response = self._request("POST", path, **arguments)
        answer = self._parsed(path, reply, response.content)
        note_wait(getattr(answer, "timings_ms", {}).get(WAIT, 0.0))
        model = getattr(answer, "model", None)
        if isinstance(model, ModelInfo) and model.kind == self._kind:
            self._learn(model)
        return answer

    def _parsed(self, path: str, reply: type[Reply], content: bytes) -> Reply:
        try:
            return reply.model_validate_json(content)
        except ValidationError as error:
            raise ServiceUnavailable(
                f"{self._service} {path} returned an invalid reply: {first_problem(error)}"
            ) from error


class PrompterClient(_ServiceClient):
    """Client of the llm service."""

    _kind = "llm"
    _service = "llm service"

    def propose(
        self, captions: Sequence[str], *, templates: Sequence[str] | None = None
    ) -> list[Proposal]:
        """See unspoken.ports.Prompter."""
        proposals: list[Proposal] = []
        for start in range(0, len(captions), MAX_CAPTIONS):
            body: dict[str, object] = {"captions": list(captions[start : start + MAX_CAPTIONS])}
            if templates is not None:
                body["templates"] = list(templates)
            proposals += self._post("/propose", ProposeReply, json=body).proposals
        return proposals


class DetectorClient(_ServiceClient):
    """Client of the detector service."""

    _kind = "detector"
    _service = "detector service"
    _box_threshold: float | None = None

    @property
    def box_threshold(self) -> float:
        """The service's default threshold, learned from a request without phrases."""
        if self._box_threshold is None:
            self._box_threshold = self._detect(ONE_WHITE_PIXEL, [], {}).box_threshold
        return self._box_threshold

    def detect(
        self,
        picture: Picture,
        phrases: Sequence[str],
        *,
        box_threshold: float | None = None,
        independent: bool = False,
    ) -> DetectionResult:
        """See unspoken.ports.Detector."""
        more: dict[str, object] = {"independent": True} if independent else {}
        if box_threshold is not None:
            more["box_threshold"] = box_threshold
        reply = self._detect(picture.sendable, phrases, more)
        return DetectionResult(detections=reply.detections, num_chunks=reply.num_chunks)

    def _detect(
        self, encoded: bytes, phrases: Sequence[str], more: Mapping[str, object]
    ) -> DetectReply:
        form = picture_form(encoded, {"phrases": list(phrases), **more})
        return self._post("/detect", DetectReply, **form)


class TextEncoderClient(_ServiceClient):
    """Client of the text-encoder routes of the segmenter service."""

    _kind = "text_encoder"
    _service = "segmenter service"

    def encode_texts(self, texts: Sequence[str]) -> np.ndarray:
        """See unspoken.ports.TextEncoder."""
        parts: list[list[float]] = []
        for start in range(0, len(texts), MAX_TEXTS):
            body = {"phrases": list(texts[start : start + MAX_TEXTS])}
            parts += self._post("/text-embeddings", TextEmbeddingsReply, json=body).embeddings
        return np.asarray(parts, dtype=np.float32).reshape(len(texts), -1)


class CropRankerClient(_ServiceClient):
    """Client of the crop route of the segmenter service.

    Its kind is text_encoder, because the text encoder is half of the image-text model.
    """

    _kind = "text_encoder"
    _service = "segmenter service"

    def rank_crops(
        self, picture: Picture, crops: Sequence[Crop], labels: Sequence[str]
    ) -> list[int]:
        """See unspoken.ports.CropRanker."""
        ranks: list[int] = []
        for start in range(0, len(crops), MAX_CROPS):
            some = crops[start : start + MAX_CROPS]
            fields = {"crops": [crop.model_dump() for crop in some], "labels": list(labels)}
            form = picture_form(picture.sendable, fields)
            reply = self._post("/rank-crops", RankCropsReply, **form)
            if len(reply.ranks) != len(some):
                raise ServiceUnavailable(
                    f"/rank-crops gave {len(reply.ranks)} ranks for {len(some)} crops"
                )
            ranks += reply.ranks
        return ranks


class SegmenterClient(_ServiceClient):
    """Client of the picture and mask routes, of a segmenter service or a gateway in front of it."""

    _kind = "segmenter"
    _service = "segmenter service"

    def add_image(self, picture: Picture, *, name: str | None = None) -> ImageReply:
        """See unspoken.ports.Segmenter."""
        return self._post("/images", ImageReply, **image_form(picture.sendable, name=name))

    def read_image(self, image_id: str) -> ImageReply:
        """See unspoken.ports.Segmenter."""
        path = checked_path("images", image_id)
        return self._parsed(path, ImageReply, self._request("GET", path).content)

    def segment(self, image: Picture | str, question: SegmentQuestion) -> SegmentReply:
        """See unspoken.ports.Segmenter."""
        sent = image if isinstance(image, str) else image.sendable
        return self._post("/segment", SegmentReply, **segment_body(sent, question))

    def delete_image(self, image_id: str) -> None:
        """See unspoken.ports.Segmenter."""
        self._request("DELETE", checked_path("images", image_id))


def _address(http: httpx.Client) -> str:
    return redact(str(http.base_url).rstrip("/"))
