"""Quality of text queries by the mask bank and by the detector, on scenes not used for training.

    python -m bench.text_queries

Each scene is queried for every noun of the trained classes and for every part that any of the
scenes shows, present or not, as for building a dataset. Answers are measured by COCO's mask AP
(pycocotools, 100 per picture). Bank scores are multiplied by the predicted IoU, as in serving.

bank_ap, bank_ap50          the bank's masks, scored as the profile says
bank_cosine_ap, _ap50       the same masks, scored by the cosine
bank_softmax_ap, _ap50      the same masks, scored by the softmax with the background
bank_recall                 share of true objects with a mask of IoU .5 in the bank
masks_a_bank                mean number of masks in a bank
detector_ap, detector_ap50  the detector's boxes with their scores, each box's mask by the segmenter

`python -m bench.segment` prints these figures too.
"""

import json
from functools import partial
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
import typer
from pycocotools import mask as coco_mask

from services.detector.engine import DetectorEngine
from services.detector.engine import build_engine as build_detector
from services.detector.settings import DetectorSettings
from services.segmenter.answer.prompt_decoding import decode_prompts
from services.segmenter.answer.prompts import MaskPrompt, clip_box
from services.segmenter.engine import build_engine as build_text_encoder
from services.segmenter.loading import build_segmenter
from services.segmenter.segment_engine import SegmentEngine
from services.segmenter.settings import SegmenterSettings
from smallworld.world import World
from training.evaluate import WORLD_SEED
from training.evaluation.pictures import TruePicture, scene_pictures
from training.evaluation.text_queries import TextAnswer, average_precision, bank_answers
from unspoken.imaging.images import Picture
from unspoken.imaging.masks import encode_rle
from unspoken.model.mask_bank import MaskBank, build_mask_bank
from unspoken.model.sam.mask_upscaling import MaskUpscaler
from unspoken.model.text_space import Score, TextSpace, TextSpaceConfig

STYLE = "twemoji"
NUM_SCENES = 60
SCORES: tuple[Score, ...] = ("softmax", "cosine")
LOWEST_SCORE = 0.02  # of the detector; low, because AP also ranks weak answers


def main(
    weights: Annotated[
        Path | None, typer.Option(help="Semantic-SAM weights (default: the profile's).")
    ] = None,
    scenes: Annotated[int, typer.Option(help="Scenes.")] = NUM_SCENES,
    seed: Annotated[int, typer.Option(help="Of the first scene.")] = WORLD_SEED,
) -> None:
    """Print one JSON line."""
    torch.set_num_threads(2)
    settings = SegmenterSettings() if weights is None else SegmenterSettings(weights=weights)
    figures = text_query_figures(settings, num_scenes=scenes, first_seed=seed)
    typer.echo(json.dumps({"bench": "text_queries", "figures": figures}))


@torch.inference_mode()
def text_query_figures(
    settings: SegmenterSettings, *, num_scenes: int = NUM_SCENES, first_seed: int = WORLD_SEED
) -> dict[str, float]:
    """Measure both methods on the same scenes, with the profile's weights."""
    texts = build_text_encoder(settings)
    segmenter = build_segmenter(settings, texts)
    assert segmenter is not None, "the profile has a segmenter"
    detector = build_detector(DetectorSettings())
    pictures = list(scene_pictures(num_scenes=num_scenes, first_seed=first_seed, style=STYLE))
    vocabulary = asked_words(pictures)
    figures: dict[str, float] = {"scenes": num_scenes, "words": len(vocabulary)}
    banks = {picture.key: bank_of(segmenter, picture) for picture in pictures}
    figures["bank_recall"] = round(bank_recall(pictures, banks), 4)
    figures["masks_a_bank"] = round(float(np.mean([len(bank) for bank in banks.values()])), 1)
    served = segmenter.text_space.config.score
    for score in SCORES:
        space = TextSpace.of(segmenter.loaded, texts.encode_texts, TextSpaceConfig(score=score))
        answers = {
            picture.key: bank_answers(banks[picture.key], space, vocabulary=vocabulary)
            for picture in pictures
        }
        found = average_precision(pictures, partial(_of_key, answers), vocabulary=vocabulary)
        figures |= {f"bank_{score}_{name}": value for name, value in found.items()}
        if score == served:
            figures |= {f"bank_{name}": value for name, value in found.items()}
    found = average_precision(
        pictures,
        lambda picture: detector_answers(segmenter, detector, picture, vocabulary),
        vocabulary=vocabulary,
    )
    return figures | {f"detector_{name}": value for name, value in found.items()}


def asked_words(pictures: list[TruePicture]) -> list[str]:
    """Return the nouns of all trained classes, and the part names in these pictures."""
    nouns = set(World.load(styles=(STYLE,), split="train").cutouts[STYLE])
    return sorted(nouns | {each.label for picture in pictures for each in picture.objects})


def bank_of(segmenter: SegmentEngine, picture: TruePicture) -> MaskBank:
    """Build the mask bank as the service does."""
    network = segmenter.network
    upscaler = MaskUpscaler.of(picture.pixels, network.config.sam)
    embedding = network.embed_images([upscaler.frame.to_input(picture.pixels)])
    return build_mask_bank(network, embedding, upscaler, segmenter.config.bank)


def bank_recall(pictures: list[TruePicture], banks: dict[str, MaskBank]) -> float:
    """Return the share of true objects with a mask of IoU .5: a bank's upper limit of recall."""
    found = []
    for picture in pictures:
        size = list(picture.pixels.shape[:2])
        truth = [
            {"size": size, "counts": encode_rle(each.mask[None])[0]} for each in picture.objects
        ]
        masks = [{"size": size, "counts": counts} for counts in banks[picture.key].rle]
        if truth and masks:
            best = coco_mask.iou(masks, truth, [0] * len(truth)).max(axis=0)
            found += (best >= 0.5).tolist()
        else:
            found += [False] * len(truth)
    return float(np.mean(found))


def detector_answers(
    segmenter: SegmentEngine,
    detector: DetectorEngine,
    picture: TruePicture,
    vocabulary: list[str],
) -> list[TextAnswer]:
    """Return a mask for each of the detector's boxes, with the box's score."""
    size_hw = picture.pixels.shape[:2]
    seen = Picture.of_pixels(picture.pixels)
    detections = detector.detect(seen, vocabulary, box_threshold=LOWEST_SCORE).detections[:200]
    prompts = []
    for number, each in enumerate(detections):
        x0, y0, x1, y1 = each.box.to_list()
        if (box := clip_box((x0, y0, x1, y1), size_hw)) is not None:
            prompts.append(MaskPrompt(number, box=box))
    network = segmenter.network
    upscaler = MaskUpscaler.of(picture.pixels, network.config.sam)
    prompted = decode_prompts(
        network,
        network.embed_images([upscaler.frame.to_input(picture.pixels)]),
        upscaler,
        prompts,
        config=segmenter.config.bank,
    )
    return [
        TextAnswer(detections[owner].phrase, rle, detections[owner].score)
        for owner, rle, area in zip(
            prompted.owners.tolist(), prompted.bank.rle, prompted.bank.areas, strict=True
        )
        if area
    ]


def _of_key(answers: dict[str, list[TextAnswer]], picture: TruePicture) -> list[TextAnswer]:
    return answers[picture.key]


if __name__ == "__main__":
    typer.run(main)
