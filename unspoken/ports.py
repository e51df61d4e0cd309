"""What a room asks of another. A port has an engine (in process), a client (HTTP), a fake."""

from collections.abc import Sequence
from typing import Protocol

import numpy as np

from unspoken.crop_schemas import Crop
from unspoken.images import Picture
from unspoken.schemas import DetectionResult, ModelInfo, Proposal
from unspoken.segment_schemas import ImageReply, SegmentQuestion, SegmentReply


class Prompter(Protocol):
    """Captions in, proposed phrases out."""

    @property
    def model(self) -> ModelInfo:
        """Which weights answer."""

    def propose(
        self, captions: Sequence[str], *, templates: Sequence[str] | None = None
    ) -> list[Proposal]:
        """One proposal per caption, in order. Raises InvalidInput for an unknown template."""


class Detector(Protocol):
    """A picture and phrases in, boxes out."""

    @property
    def model(self) -> ModelInfo:
        """Which weights answer."""

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

        A phrase's score depends on the phrases that share its text prompt; `independent` asks for
        each phrase in a prompt of its own. No phrases give no detections. Raises InvalidInput for
        phrases that nothing is left of: `details["phrases"]` lists `phrase_index` and `problem`.
        """


class TextEncoder(Protocol):
    """Texts in, vectors of CLIP text space out."""

    @property
    def model(self) -> ModelInfo:
        """Which weights answer."""

    def encode_texts(self, texts: Sequence[str]) -> np.ndarray:
        """(N, 768) float32, unit length along the last axis."""


class CropRanker(Protocol):
    """A picture, boxes and labels in, the rank of each box's own label out."""

    @property
    def model(self) -> ModelInfo:
        """Which weights answer."""

    def rank_crops(
        self, picture: Picture, crops: Sequence[Crop], labels: Sequence[str]
    ) -> list[int]:
        """One rank per crop, in order: 1 where none of the labels is more like what it shows.

        The labels differ. Raises InvalidInput for a box wholly outside of the picture, Conflict
        where the text encoder knows no pictures.
        """


class Segmenter(Protocol):
    """A picture and queries in, masks out."""

    @property
    def model(self) -> ModelInfo:
        """Which weights answer."""

    def add_image(self, picture: Picture, *, name: str | None = None) -> ImageReply:
        """Embed a picture ahead; the answer has its id. `name`: an alias of the caller's own."""

    def read_image(self, image_id: str) -> ImageReply:
        """What is known of a picture by its id or name. Raises NotFound."""

    def delete_image(self, image_id: str) -> None:
        """Remove a picture and its names from every tier, by id or name. Raises NotFound."""

    def segment(self, image: Picture | str, question: SegmentQuestion) -> SegmentReply:
        """One result per query, in order; `image` is a picture or the id or name of a held one.

        Raises NotFound for an unknown id, InvalidInput for prompts outside of the picture, Conflict
        for a method that these weights or this service cannot do.
        """
