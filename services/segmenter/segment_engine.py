"""The engine behind `/segment`: a Semantic-SAM, with cached embeddings and mask banks.

Only the inference thread uses the network and the text vectors. See services/segmenter/ports.py.
"""

import logging
from collections.abc import Iterator, Mapping, Sequence
from typing import ClassVar

import numpy as np
import torch

from services.segmenter.answer.planning import QueryPlanner
from services.segmenter.answer.query_methods import QueryMethods, SegmentConfig
from services.segmenter.answer.rendering import WireBank
from services.segmenter.cache.cached_image import CachedImage
from services.segmenter.cache.disk_tier import DiskTier, Stored
from services.segmenter.cache.embedding_cache import EmbeddingCache, public_id
from unspoken.compute.precision import computing_in
from unspoken.imaging.images import DECODING, Picture
from unspoken.model.mask_bank import MaskBank, MaskBankBuilder
from unspoken.model.sam.checkpoint import LoadedSam
from unspoken.model.sam.input_frame import PREPROCESSING, InputFrame
from unspoken.model.sam.mask_upscaling import MaskUpscaler
from unspoken.model.text_space import TextQuery, TextSpace
from unspoken.ports import Detector
from unspoken.wire.base import ModelInfo
from unspoken.wire.segment import PromptBox, SegmentQuery, SegmentQuestion
from unspoken.wire.texts import normalise_phrase

logger = logging.getLogger(__name__)


class SegmentEngine:
    """An ImageEngine over a Semantic-SAM network.

    weights_sha256: digest of the loaded weights, which becomes part of every image id.
    """

    embedding_dtype: ClassVar[torch.dtype] = torch.float16

    def __init__(
        self,
        loaded: LoadedSam,
        *,
        model: ModelInfo,
        weights_sha256: str,
        text_space: TextSpace,
        cache: EmbeddingCache[CachedImage],
        disk: DiskTier | None = None,
        detector: Detector | None = None,
        config: SegmentConfig,
    ) -> None:
        self.loaded = loaded
        self.network = loaded.model
        self.model = model
        self.text_space = text_space
        self.cache = cache
        self.disk = disk
        self.config = config
        self.planner = QueryPlanner(
            model_name=model.name,
            is_trained=loaded.info.semantic_trained,
            detector=detector,
            auto_method=config.auto_method,
        )
        self.queries = QueryMethods(loaded.model, text_space, model=model, config=config)
        self._weights_sha256 = weights_sha256

    def image_id(self, content_sha256: str) -> str:
        """See ImageEngine."""
        return public_id(
            content_sha256,
            weights_sha256=self._weights_sha256,
            preprocessing=f"{DECODING} {PREPROCESSING}",
            dtype=f"{self.config.encoder_dtype}, kept as float16".removeprefix("torch."),
        )

    @torch.inference_mode()
    def embed(self, picture: Picture) -> CachedImage:
        """See ImageEngine."""
        upscaler = MaskUpscaler.of(picture.pixels, self.network.config.sam)
        with computing_in(self.config.encoder_dtype, device=self.network.device.type):
            embedding = self.network.embed_images([upscaler.frame.to_input(picture.pixels)])
        return CachedImage(
            id=self.image_id(picture.sha256),
            sha256=picture.sha256,
            size_hw=picture.size_hw,
            encoded=picture.sendable,
            embedding=embedding.to(device="cpu", dtype=self.embedding_dtype),
            upscaler=upscaler,
        )

    def pack(self, entry: CachedImage) -> Mapping[str, np.ndarray]:
        """See ImageEngine."""
        arrays = {
            "image_embedding": entry.embedding.numpy(),
            "encoded": np.frombuffer(entry.encoded, dtype=np.uint8),
        }
        if entry.upscaler.guide is not None:
            arrays["guide"] = entry.upscaler.guide.numpy()
        return arrays

    def unpack(self, stored: Stored, *, sha256: str, size_hw: tuple[int, int]) -> CachedImage:
        """See ImageEngine."""
        tensors = {name: torch.from_numpy(np.array(each)) for name, each in stored.arrays.items()}
        frame = InputFrame.of(size_hw, self.network.config.sam)
        return CachedImage(
            id=stored.id,
            sha256=sha256,
            size_hw=size_hw,
            encoded=stored.arrays["encoded"].tobytes(),
            embedding=tensors["image_embedding"],
            upscaler=MaskUpscaler(frame, tensors.get("guide")),
        )

    def bank_steps(self, entry: CachedImage) -> Iterator[None]:
        """See ImageEngine."""
        builder = MaskBankBuilder(self.network, entry.embedding, entry.upscaler, self.config.bank)
        while not builder.step():
            yield
        self.set_bank(entry, builder.bank)

    def set_bank(self, entry: CachedImage, bank: MaskBank) -> None:
        """Set the bank of a cached image. Inference thread."""
        entry.bank = WireBank(bank, self.text_space.rivals_of(bank.mask_embedding))
        logger.info("bank image=%s masks=%d", entry.id[:16], len(bank))

    def text_targets(self, texts: Sequence[str]) -> np.ndarray:
        """See ImageEngine."""
        self.planner.check_trained("space 'mask' is that of the masks' vectors")
        return self.text_space.vectors([normalise_phrase(text) or text for text in texts])

    def warm_up(self) -> None:
        """See ImageEngine."""
        pixels = np.full((64, 64, 3), 255, dtype=np.uint8)
        entry = self.embed(Picture.of_pixels(pixels))
        box = SegmentQuery(boxes=(PromptBox(x0=8, y0=8, x1=48, y1=48),))
        plan = self.planner.plan(SegmentQuestion(queries=(box,)), size_hw=entry.size_hw)
        self.queries.answer(entry, plan, None)
        next(self.bank_steps(entry), None)  # runs the largest batch of clicks
        if self.planner.is_trained:
            self.text_space.scores(np.zeros((1, 768), dtype=np.float32), [TextQuery("thing")])
