"""Networks with random weights, at published sizes and tiny, and inputs for them.

Masks of random networks are noise, which the filters of the mask bank would drop. Therefore
`DrawingSam` runs the whole decoder and then draws discs for clicks.
"""

import io
from functools import cache
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from transformers import (
    AutoTokenizer,
    BertConfig,
    GroundingDinoConfig,
    GroundingDinoForObjectDetection,
    SwinConfig,
)
from transformers import GroundingDinoImageProcessor as ImageProcessor

from services.detector.engine import DetectorEngine
from services.detector.transformers_backend import TransformersBackend, resize_by
from services.segmenter.answer.query_methods import SegmentConfig
from services.segmenter.cache.cached_image import CachedImage
from services.segmenter.cache.embedding_cache import EmbeddingCache
from services.segmenter.segment_engine import SegmentEngine
from services.segmenter.settings import SegmenterSettings
from unspoken.config.profiles import resolve_files
from unspoken.config.settings import default_cache_dir
from unspoken.imaging.images import Picture, decode_picture
from unspoken.model.mask_bank import MaskBankConfig
from unspoken.model.sam.checkpoint import LoadedSam, SemanticInfo
from unspoken.model.sam.config import SemanticSamConfig, sam_config
from unspoken.model.sam.semantic_decoder import DecoderOutput
from unspoken.model.sam.semantic_sam import Prompts, SemanticSam
from unspoken.model.text_space import TextSpace, background_words
from unspoken.ports import TextEncoder
from unspoken.wire.base import ModelInfo

SIZE_WH = (640, 480)
BANK_SIDE = (
    16  # clicks along each side: a quarter of the published clicks, in a quarter of the time
)
SHORT_SIDE_PX = 480  # of the detector's input, as docs/how-to/deploy.md recommends for a CPU
EVERY_MASK = MaskBankConfig(predicted_iou_threshold=-100, points_per_side=BANK_SIDE)
TEXTS = background_words()[:100]


class DrawingSam(SemanticSam):
    """Runs the whole decoder, then replaces masks by discs (clicks) and ellipses (boxes)."""

    def decode(
        self, image_embeddings: Tensor, prompts: Prompts, *, multimask_output: bool
    ) -> DecoderOutput:
        """See SemanticSam."""
        output = super().decode(image_embeddings, prompts, multimask_output=multimask_output)
        sam = self.config.sam
        if prompts.boxes is not None:
            low, high = prompts.boxes[:, :2], prompts.boxes[:, 2:]
            middle, radius = (low + high) / 2, (high - low) / 2 + 1
        else:
            assert prompts.points is not None, "a prompt is a box or a click"
            # Clicks in one of 64 cells draw the same discs, in three sizes.
            thing = sam.image_size / 8
            middle = ((prompts.points[:, 0] / thing).floor() + 0.5) * thing
            radius = torch.full_like(middle, thing / 3)
        grown = (1.0,) if output.mask_logits.shape[1] == 1 else (0.6, 1.0, 1.6)
        places = torch.arange(sam.mask_side, device=middle.device)
        cells = (places + 0.5) * sam.image_size / sam.mask_side
        squares = ((cells - middle[..., None]) / radius[..., None]) ** 2  # (N, 2, side)
        distance = (squares[:, 0, None, :] + squares[:, 1, :, None]).sqrt()
        logits = torch.stack([(growth - distance) * 100 for growth in grown], dim=1)
        return output._replace(mask_logits=logits)


def build_engine(
    size: str, texts: TextEncoder, *, encoder_dtype: torch.dtype = torch.float32
) -> SegmentEngine:
    """Build an engine with random weights of this size, which are marked as trained."""
    torch.manual_seed(0)
    network = DrawingSam(SemanticSamConfig(sam=sam_config(size))).eval()
    network.requires_grad_(requires_grad=False)
    network.mask_decoder.logit_scale.fill_(np.log(50))
    loaded = LoadedSam(model=network, info=SemanticInfo(semantic_trained=True))
    return SegmentEngine(
        loaded,
        model=ModelInfo(name=f"random {size}", kind="segmenter", revision="0"),
        weights_sha256="0" * 64,
        text_space=TextSpace.of(loaded, texts.encode_texts),
        cache=EmbeddingCache[CachedImage](64),
        config=SegmentConfig(bank=EVERY_MASK, encoder_dtype=encoder_dtype),
    )


def random_detector(
    *,
    short_side_px: int = SHORT_SIDE_PX,
    dtype: torch.dtype = torch.float32,
    device: str = "cpu",
    config: GroundingDinoConfig | None = None,
) -> DetectorEngine:
    """Build Grounding-DINO with random weights; by default Swin-T and BERT at published sizes."""
    torch.manual_seed(0)
    backend = TransformersBackend(
        GroundingDinoForObjectDetection(config or GroundingDinoConfig()),
        tokenizer=bert_tokenizer(),
        prepare=resize_by(ImageProcessor(), short_side_px=short_side_px),
        device=device,
        box_threshold=None,
        dtype=dtype,
    )
    return DetectorEngine(
        backend, model=ModelInfo(name="random Swin-T", kind="detector", revision="0")
    )


def tiny_grounding_dino_config() -> GroundingDinoConfig:
    """Return a toy Grounding-DINO: one layer of each part, 32 dimensions, 20 boxes."""
    return GroundingDinoConfig(
        backbone_config=SwinConfig(
            embed_dim=16, depths=[1, 1, 1, 1], num_heads=[1, 1, 2, 2], out_indices=[2, 3, 4]
        ).to_dict(),
        text_config=BertConfig(
            hidden_size=32, num_hidden_layers=1, num_attention_heads=2, intermediate_size=64
        ).to_dict(),
        d_model=32,
        num_queries=20,
        encoder_layers=1,
        decoder_layers=2,
        encoder_ffn_dim=64,
        decoder_ffn_dim=64,
        encoder_attention_heads=2,
        decoder_attention_heads=2,
    )


def bert_tokenizer() -> Any:
    """Load the tokenizer of bert-base-uncased, which the small text encoder also uses."""
    entry = SegmenterSettings().read_profile().text_encoder
    folder = resolve_files(entry, cache_dir=default_cache_dir())
    return AutoTokenizer.from_pretrained(str(folder), local_files_only=True)


@cache
def street() -> Picture:
    """Return smooth noise as a JPEG of about 100 kB; random weights need no real picture."""
    noise = np.random.default_rng(1).integers(0, 256, (120, 160, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(noise).resize(SIZE_WH).save(buffer, format="JPEG", quality=90)
    return decode_picture(buffer.getvalue())
