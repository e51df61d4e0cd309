"""Ports: the Protocols between the parts. Each has an engine, an HTTP client and a fake.

A port that takes a picture raises NotAnImage if the picture's pixels are damaged: its caller may
know the header only (`unspoken.imaging.images.read_picture`).
"""

from collections.abc import Sequence
from typing import Protocol

import numpy as np

from unspoken.imaging.images import Picture
from unspoken.wire.base import ModelInfo
from unspoken.wire.crops import Crop
from unspoken.wire.detections import DetectionResult
from unspoken.wire.proposals import Proposal
from unspoken.wire.segment import ImageReply, SegmentQuestion, SegmentReply


class Prompter(Protocol):
    """Proposes phrases for captions."""

    @property
    def model(self) -> ModelInfo:
        """The model that answers."""

    def propose(
        self, captions: Sequence[str], *, templates: Sequence[str] | None = None
    ) -> list[Proposal]:
        """Return one proposal per caption, in order.

        Raises InvalidInput for an unknown template.
        """


class Detector(Protocol):
    """Finds boxes for phrases in a picture."""

    @property
    def model(self) -> ModelInfo:
        """The model that answers."""

    @property
    def box_threshold(self) -> float:
        """The model's own default threshold."""

    def detect(
        self,
        picture: Picture,
        phrases: Sequence[str],
        *,
        box_threshold: float | None = None,
        independent: bool = False,
    ) -> DetectionResult:
        """Return boxes whose score reaches the threshold, each with the index of its phrase.

        A phrase's score depends on the phrases that share its text prompt; with `independent`, each
        phrase has a prompt of its own. No phrases give no detections. Raises InvalidInput for
        phrases that are empty after normalisation: `details["phrases"]` lists `phrase_index` and
        `problem`.
        """


class TextEncoder(Protocol):
    """Encodes texts as vectors of CLIP text space."""

    @property
    def model(self) -> ModelInfo:
        """The model that answers."""

    def encode_texts(self, texts: Sequence[str]) -> np.ndarray:
        """Return (N, 768) float32 vectors, unit length along the last axis."""


class CropRanker(Protocol):
    """Ranks the label of each box of a picture among all labels."""

    @property
    def model(self) -> ModelInfo:
        """The model that answers."""

    def rank_crops(
        self, picture: Picture, crops: Sequence[Crop], labels: Sequence[str]
    ) -> list[int]:
        """Return one rank per crop, in order: 1 if no label is more similar to the crop.

        The labels must be unique. Raises InvalidInput for a box completely outside of the picture,
        Conflict if the text encoder has no image encoder.
        """


class Segmenter(Protocol):
    """Returns masks for queries about a picture."""

    @property
    def model(self) -> ModelInfo:
        """The model that answers."""

    def add_image(self, picture: Picture, *, name: str | None = None) -> ImageReply:
        """Embed a picture in advance and return its id. `name` is an alias chosen by the caller."""

    def read_image(self, image_id: str) -> ImageReply:
        """Return the data of a cached image, by its id or name. Raises NotFound."""

    def delete_image(self, image_id: str) -> None:
        """Remove a cached image and its names from every tier, by id or name. Raises NotFound."""

    def segment(self, image: Picture | str, question: SegmentQuestion) -> SegmentReply:
        """Return one result per query, in order.

        `image` is a picture, or the id or name of a cached image. Raises NotFound for an unknown
        id, InvalidInput for prompts outside of the picture, Conflict for a method that these
        weights or this service do not support.
        """
