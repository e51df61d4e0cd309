"""Answers to clicks and boxes against those of the segment-anything package's predictor."""

from functools import partial

import numpy as np
import pytest
import torch
from segment_anything import SamPredictor
from segment_anything.modeling import ImageEncoderViT, MaskDecoder, Sam, TwoWayTransformer
from torch import nn

from services.segmenter.segment_engine import SegmentEngine
from tests.contracts import picture_bytes
from tests.services.segmenter.tiny import question, segment, tiny_engine
from unspoken.imaging.images import Picture, decode_picture
from unspoken.imaging.masks import decode_rle
from unspoken.model.sam.checkpoint import LoadedSam, SemanticInfo
from unspoken.model.sam.config import SemanticSamConfig, sam_config
from unspoken.model.sam.semantic_sam import SemanticSam, build_prompt_encoder
from unspoken.wire.segment import Instance, RleMask

CLICKS = [(x, y) for x in (10, 30, 60, 90) for y in (8, 30, 55)]
SIZE = sam_config("tiny")


def package_sam() -> Sam:
    """The package's own network at the tiny size, with random weights."""
    torch.manual_seed(4)
    width = SIZE.decoder_width
    return Sam(
        image_encoder=ImageEncoderViT(
            img_size=SIZE.image_size,
            patch_size=SIZE.patch_size,
            embed_dim=SIZE.encoder_width,
            depth=SIZE.encoder_depth,
            num_heads=SIZE.encoder_heads,
            mlp_ratio=4,
            out_chans=width,
            qkv_bias=True,
            norm_layer=partial(nn.LayerNorm, eps=1e-6),
            use_rel_pos=True,
            window_size=SIZE.window_size,
            global_attn_indexes=SIZE.global_attention,
        ),
        prompt_encoder=build_prompt_encoder(SIZE),
        mask_decoder=MaskDecoder(
            num_multimask_outputs=3,
            transformer=TwoWayTransformer(
                depth=SIZE.decoder_depth,
                embedding_dim=width,
                mlp_dim=SIZE.decoder_mlp,
                num_heads=SIZE.decoder_heads,
            ),
            transformer_dim=width,
            iou_head_depth=3,
            iou_head_hidden_dim=SIZE.iou_head_width,
        ),
        pixel_mean=list(SIZE.pixel_mean),
        pixel_std=list(SIZE.pixel_std),
    ).eval()


@torch.no_grad()
def spread_quality(predictor: SamPredictor) -> None:
    """Set weights so that predicted IoUs exceed 1 and the best mask differs between clicks."""
    found = np.stack([predictor.predict(np.array([click]), np.ones(1))[1] for click in CLICKS])
    mean, deviation = (torch.from_numpy(each) for each in (found.mean(0), found.std(0)))
    last = predictor.model.mask_decoder.iou_prediction_head.layers[-1]
    last.weight[1:] /= deviation[:, None]
    last.bias[1:] = (last.bias[1:] - mean) / deviation + 8


@pytest.fixture(scope="module")
def picture() -> Picture:
    return decode_picture(picture_bytes())


@pytest.fixture(scope="module")
def predictor(picture: Picture) -> SamPredictor:
    predictor = SamPredictor(package_sam())
    predictor.set_image(np.array(picture.pixels))
    spread_quality(predictor)
    return predictor


@pytest.fixture(scope="module")
def engine(predictor: SamPredictor) -> SegmentEngine:
    model = SemanticSam(SemanticSamConfig(sam=SIZE))
    model.load_state_dict(predictor.model.state_dict(), strict=False)
    return tiny_engine(loaded=LoadedSam(model=model.eval(), info=SemanticInfo()))


def mask_of(instance: Instance) -> np.ndarray:
    assert isinstance(instance.mask, RleMask)
    mask: np.ndarray = decode_rle([instance.mask.counts.encode()], instance.mask.size)[0]
    return mask


def test_the_first_instance_of_a_click_is_the_mask_that_sam_predicts_best(
    engine, predictor, picture
):
    reply = segment(engine, picture, question(*({"points": [{"x": x, "y": y}]} for x, y in CLICKS)))
    best = []
    for (x, y), result in zip(CLICKS, reply.results, strict=True):
        masks, quality, _ = predictor.predict(np.array([[x, y]]), np.array([1]))
        assert quality.min() > 1
        best.append(int(quality.argmax()))
        ranked = [masks[index] for index in np.argsort(-quality, kind="stable")]
        for instance, expected in zip(result.instances, ranked, strict=True):
            assert (mask_of(instance) == expected).mean() > 0.99
            assert instance.score == instance.predicted_iou == 1.0
    assert len(set(best)) > 1, "a network that always prefers one mask would prove nothing"


def test_boxes_are_answered_in_the_order_asked_by_the_masks_of_sam(engine, predictor, picture):
    boxes = [(5, 5, 40, 30), (50, 10, 90, 60), (20, 20, 70, 55)]
    written = [dict(zip(("x0", "y0", "x1", "y1"), box, strict=True)) for box in boxes]
    (result,) = segment(engine, picture, question({"boxes": written})).results
    assert [each.prompt_index for each in result.instances] == [0, 1, 2]
    for box, instance in zip(boxes, result.instances, strict=True):
        masks, _, _ = predictor.predict(box=np.array(box), multimask_output=False)
        assert (mask_of(instance) == masks[0]).mean() > 0.99
