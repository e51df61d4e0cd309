"""A segmenter engine on a tiny real network with random weights."""

from dataclasses import replace

import torch
from torch import Tensor

from services.segmenter.answer.query_methods import SegmentConfig
from services.segmenter.cache.cached_image import CachedImage
from services.segmenter.cache.disk_tier import DiskTier
from services.segmenter.cache.embedding_cache import EmbeddingCache
from services.segmenter.local_segmenter import LocalSegmenter
from services.segmenter.segment_engine import SegmentEngine
from tests.fakes import FakeTextEncoder
from unspoken.imaging.images import Picture
from unspoken.model.mask_bank import MaskBankConfig
from unspoken.model.sam.checkpoint import LoadedSam, SemanticInfo
from unspoken.model.sam.config import SemanticSamConfig, sam_config
from unspoken.model.sam.semantic_decoder import DecoderOutput
from unspoken.model.sam.semantic_sam import Prompts, SemanticSam
from unspoken.model.text_space import TextSpace, TextSpaceConfig
from unspoken.ports import Detector
from unspoken.wire.base import ModelInfo
from unspoken.wire.segment import SegmentQuestion, SegmentReply

# Random weights predict meaningless IoUs, so the filters are off; only duplicates are removed.
BANK = MaskBankConfig(points_per_side=4, predicted_iou_threshold=-100, stability_threshold=0)
MODEL = ModelInfo(name="tiny-segmenter", kind="segmenter", revision="0")


class DiscSam(SemanticSam):
    """The real network, with masks replaced by discs (clicks) and ellipses (boxes).

    The masks of random weights are noise.
    """

    def decode(
        self, image_embeddings: Tensor, prompts: Prompts, *, multimask_output: bool
    ) -> DecoderOutput:
        output = super().decode(image_embeddings, prompts, multimask_output=multimask_output)
        side, scale = (
            self.config.sam.mask_side,
            self.config.sam.image_size / self.config.sam.mask_side,
        )
        if prompts.boxes is not None:
            low, high = prompts.boxes[:, :2], prompts.boxes[:, 2:]
            middle, radius = (low + high) / 2, (high - low) / 2
        else:
            assert prompts.points is not None
            middle = prompts.points[:, 0]
            radius = torch.full_like(middle, 7.0)
        growth = torch.tensor([0.6, 1.0, 1.6])[: output.mask_logits.shape[1]]
        if output.mask_logits.shape[1] == 1:
            growth = torch.ones(1)
        cells = (torch.arange(side) + 0.5) * scale
        x = (cells[None, :] - middle[:, :1]) / radius[:, :1]  # (N, side)
        y = (cells[None, :] - middle[:, 1:]) / radius[:, 1:]
        distance = (x[:, None, :] ** 2 + y[:, :, None] ** 2).sqrt()  # (N, side, side)
        logits = (growth.view(1, -1, 1, 1) - distance[:, None]) * 10
        return output._replace(mask_logits=logits)


def tiny_sam(*, trained: bool = True, seed: int = 0, **info: object) -> LoadedSam:
    """Return a DiscSam with random weights; `trained`: mark the checkpoint as trained."""
    torch.manual_seed(seed)
    model = DiscSam(SemanticSamConfig(sam=sam_config("tiny"))).eval()
    return LoadedSam(model=model, info=SemanticInfo(semantic_trained=trained, **info))


class CountingEngine(SegmentEngine):
    """Counts encoded pictures."""

    num_embedded = 0

    def embed(self, picture: Picture) -> CachedImage:
        self.num_embedded += bool(picture.encoded)  # the warm-up's picture has no file
        return super().embed(picture)


def tiny_engine(
    *,
    trained: bool = True,
    detector: Detector | None = None,
    cache_mib: float = 8,
    score: str = "softmax",
    disk: DiskTier | None = None,
    weights_sha256: str = "0" * 64,
    loaded: LoadedSam | None = None,
    **changes: object,
) -> CountingEngine:
    """Return an engine on `loaded`, by default `tiny_sam`, and the fake text encoder."""
    loaded = loaded or tiny_sam(trained=trained)
    return CountingEngine(
        loaded,
        model=MODEL,
        weights_sha256=weights_sha256,
        text_space=TextSpace.of(
            loaded, FakeTextEncoder().encode_texts, TextSpaceConfig(score=score)
        ),
        cache=EmbeddingCache(cache_mib),
        disk=disk,
        detector=detector,
        config=replace(SegmentConfig(bank=BANK), **changes),
    )


def segment(engine: SegmentEngine, image: Picture | str, asked: SegmentQuestion) -> SegmentReply:
    """Answer a question without HTTP; the engine keeps its cached images."""
    with LocalSegmenter(engine) as segmenter:
        return segmenter.segment(image, asked)


def add_image(engine: SegmentEngine, picture: Picture) -> CachedImage:
    """Encode and cache an image, and return it."""
    with LocalSegmenter(engine) as segmenter:
        image = engine.cache.get(segmenter.add_image(picture).id)
    assert image is not None
    return image


def question(*queries: dict[str, object], **rest: object) -> SegmentQuestion:
    """Parse a question from its JSON form."""
    return SegmentQuestion.model_validate({"queries": queries, **rest})
