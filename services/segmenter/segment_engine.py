"""The segment engine: the Segmenter port over a Semantic-SAM, with cached embeddings and banks.

Only the inference thread uses the network and the text vectors. See services/segmenter/stages.py.
"""

import logging
from collections.abc import Sequence
from functools import partial
from typing import ClassVar

import numpy as np
import torch

from services.segmenter.answer.planning import (
    phrases_of,
    problems_of_refused,
    raise_if_all_invalid,
    read_queries,
    refused_phrases,
)
from services.segmenter.answer.query_methods import QueryMethods, SegmentConfig
from services.segmenter.answer.rendering import Answer, WireBank, render
from services.segmenter.cache.cached_image import CachedImage
from services.segmenter.cache.disk_tier import DiskTier, Stored
from services.segmenter.cache.embedding_cache import EmbeddingCache, public_id
from services.segmenter.stages import BankSteps, Detected, Plan, StagedSegmenter
from unspoken.compute.precision import computing_in
from unspoken.errors import Conflict, InvalidInput
from unspoken.imaging.images import DECODING, Picture, read_picture
from unspoken.model.mask_bank import MaskBank, MaskBankBuilder
from unspoken.model.sam.checkpoint import LoadedSam
from unspoken.model.sam.input_frame import PREPROCESSING, InputFrame
from unspoken.model.sam.mask_upscaling import MaskUpscaler
from unspoken.model.text_space import TextQuery, TextSpace
from unspoken.ports import Detector
from unspoken.timings import Timings
from unspoken.wire.base import ModelInfo
from unspoken.wire.segment import CacheState, Method, SegmentQuery, SegmentQuestion, Way
from unspoken.wire.texts import normalise_phrase

logger = logging.getLogger(__name__)


class SegmentEngine(StagedSegmenter[CachedImage]):
    """A StagedSegmenter over a Semantic-SAM network.

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
        super().__init__(cache, disk)
        self.loaded = loaded
        self.network = loaded.model
        self._is_trained = loaded.info.semantic_trained
        self._model = model
        self._weights_sha256 = weights_sha256
        self.text_space = text_space
        self._detector = detector
        self.config = config
        self._answering = QueryMethods(loaded.model, text_space, config=config)

    @property
    def model(self) -> ModelInfo:
        """Name and revision of the weights."""
        return self._model

    def image_id(self, content_sha256: str) -> str:
        """See StagedSegmenter."""
        return public_id(
            content_sha256,
            weights_sha256=self._weights_sha256,
            preprocessing=f"{DECODING} {PREPROCESSING}",
            dtype=f"{self.config.encoder_dtype}, kept as float16".removeprefix("torch."),
        )

    def embed(self, picture: Picture) -> CachedImage:
        """See StagedSegmenter."""
        held = self._encode(picture)
        self.cache.put(held)
        return held

    @torch.inference_mode()
    def _encode(self, picture: Picture) -> CachedImage:
        upscaler = MaskUpscaler.of(picture.pixels, self.network.config.sam)
        with computing_in(self.config.encoder_dtype, device=self.network.device.type):
            embedding = self.network.embed_images([upscaler.frame.to_input(picture.pixels)])
        return CachedImage(
            id=self.image_id(picture.sha256),
            sha256=picture.sha256,
            size_hw=picture.size_hw,
            encoded=picture.encoded,
            embedding=embedding.to(device="cpu", dtype=self.embedding_dtype),
            upscaler=upscaler,
        )

    def pack(self, held: CachedImage) -> dict[str, np.ndarray]:
        """See StagedSegmenter."""
        arrays = {
            "image_embedding": held.embedding.numpy(),
            "encoded": np.frombuffer(held.encoded, dtype=np.uint8),
        }
        if held.upscaler.guide is not None:
            arrays["guide"] = held.upscaler.guide.numpy()
        return arrays

    def unpack(self, stored: Stored, *, sha256: str, size_hw: tuple[int, int]) -> CachedImage:
        """See StagedSegmenter."""
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

    def method_of(self, question: SegmentQuestion) -> Way:
        """See StagedSegmenter."""
        # Build an explicitly requested bank even without queries, because it serves later ones.
        has_texts = any(not query.is_prompted for query in question.queries)
        if has_texts or question.method == "bank":
            return self._resolve(question.method)
        return "prompts"

    def plan(self, held: CachedImage, question: SegmentQuestion) -> Plan[CachedImage]:
        """See StagedSegmenter."""
        queries, problems = read_queries(question.queries, size_hw=held.size_hw)
        for index, query in enumerate(queries):
            if query.is_prompted and query.text is not None and not self._is_trained:
                raise self._untrained(f"queries.{index}: a text scores masks")
        way = self.method_of(question)
        phrases: tuple[str, ...] = ()
        if way == "detector":
            good = [
                query
                for index, query in enumerate(queries)
                if index not in problems and not query.is_prompted
            ]
            phrases = phrases_of(good, independent=question.independent)
        return Plan(
            held=held,
            question=question,
            way=way,
            queries=queries,
            problems=problems,
            needs_bank=way == "bank" and held.bank is None,
            phrases=phrases,
        )

    def text_targets(self, texts: Sequence[str]) -> np.ndarray:
        """See StagedSegmenter."""
        if not self._is_trained:
            raise self._untrained("space 'mask' is that of the masks' vectors")
        return self.text_space.vectors([normalise_phrase(text) or text for text in texts])

    def bank_steps(self, held: CachedImage) -> BankSteps:
        """See StagedSegmenter."""
        builder = MaskBankBuilder(self.network, held.embedding, held.upscaler, self.config.bank)
        return _KeepingSteps(self, held, builder)

    def detect(self, plan: Plan[CachedImage]) -> Detected:
        """See StagedSegmenter."""
        assert self._detector is not None, "a plan without a detector asks for no phrases"
        default = self._detector.box_threshold
        thresholds = [
            default if query.threshold is None else query.threshold
            for index, query in enumerate(plan.queries)
            if not query.is_prompted and index not in plan.problems
        ]
        ask = partial(
            self._detector.detect,
            read_picture(plan.held.encoded),
            box_threshold=min(thresholds),
            independent=plan.question.independent,
        )
        try:
            return Detected(ask(plan.phrases), default)
        except InvalidInput as error:
            refused = refused_phrases(error, plan.phrases)
            if not refused:
                raise
        problems = {**plan.problems, **problems_of_refused(plan.queries, refused)}
        raise_if_all_invalid(problems, len(plan.queries))
        left = [phrase for phrase in plan.phrases if phrase not in refused]
        return Detected(ask(left), default, refused)

    def answer(self, plan: Plan[CachedImage], detected: Detected | None) -> Answer:
        """See StagedSegmenter."""
        timings = Timings()
        problems = dict(plan.problems)
        if detected is not None:
            problems |= problems_of_refused(plan.queries, detected.refused)
        good = [place for place in range(len(plan.queries)) if place not in problems]
        prompted = [place for place in good if plan.queries[place].is_prompted]
        of_text = [place for place in good if not plan.queries[place].is_prompted]
        found = self._answering.by_prompts(plan, prompted, timings)
        if plan.way == "bank":
            found |= self._answering.by_bank(plan, of_text, timings)
        elif of_text:
            assert detected is not None, "the detector was asked before"
            found |= self._answering.by_detector(plan, of_text, detected, timings)
        return Answer(
            image_id=plan.held.id,
            size_hw=plan.held.size_hw,
            model=self._model,
            way=plan.way,
            queries=plan.question.queries,
            output=plan.question.output,
            found=found,
            problems=problems,
            stages_ms=timings.stages_ms(),
        )

    def render(self, answer: Answer, *, cache: CacheState, timings: Timings) -> bytes:
        """See StagedSegmenter."""
        return render(answer, cache=cache, timings=timings)

    def warm_up(self) -> None:
        """See StagedSegmenter."""
        pixels = np.full((64, 64, 3), 255, dtype=np.uint8)
        held = self._encode(Picture.of_pixels(pixels))
        box = SegmentQuery.model_validate({"boxes": [{"x0": 8, "y0": 8, "x1": 48, "y1": 48}]})
        self.answer(self.plan(held, SegmentQuestion(queries=(box,))), None)
        self.bank_steps(held).step()  # runs the largest batch of clicks
        if self._is_trained:
            self.text_space.scores(np.zeros((1, 768), dtype=np.float32), [TextQuery("thing")])

    def keep_bank(self, held: CachedImage, bank: MaskBank) -> None:
        """Store a finished bank with its cached image. Inference thread."""
        held.bank = WireBank(bank, self.text_space.rivals_of(bank.mask_embedding))
        self.cache.weigh_again(held)
        logger.info("bank image=%s masks=%d", held.id[:16], len(bank))

    def _resolve(self, method: Method) -> Way:
        """Return the method for text-only queries. Raises Conflict.

        `auto` depends only on the weights and the settings, so the same request always gets the
        same method.
        """
        if method == "auto":
            has_detector = self._detector is not None
            method = self.config.auto_method or ("detector" if has_detector else "bank")
            if method == "bank" and not self._is_trained and not has_detector:
                raise self._untrained("there is no detector (SEGMENTER_DETECTOR_URL), a text")
        if method == "bank":
            if not self._is_trained:
                raise self._untrained("method 'bank' scores texts")
            return "bank"
        if self._detector is None:
            raise Conflict(
                "method 'detector' is not possible: this service has no detector "
                "(SEGMENTER_DETECTOR_URL)",
                details={"setting": "SEGMENTER_DETECTOR_URL"},
            )
        return "detector"

    def _untrained(self, what: str) -> Conflict:
        return Conflict(
            f"{what}, but the semantic head of {self._model.name} is not trained",
            details={"semantic_trained": False, "model": self._model.name},
        )


class _KeepingSteps:
    """Builds a bank and stores it in the engine after the last step."""

    def __init__(self, engine: SegmentEngine, held: CachedImage, builder: MaskBankBuilder) -> None:
        self._engine = engine
        self._held = held
        self._builder = builder

    def step(self) -> bool:
        """See BankSteps."""
        if self._held.bank is not None:
            return True
        if not self._builder.step():
            return False
        self._engine.keep_bank(self._held, self._builder.bank)
        return True
