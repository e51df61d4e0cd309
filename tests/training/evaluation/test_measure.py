"""The whole evaluation at toy size: the truth scores perfectly, and readers read real formats."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from smallworld.sa1b import encode_mask
from smallworld.scenes import compose_scene
from tests.fakes import FakeTextEncoder
from tests.smallworld.tiny_world import tiny_world
from tests.training.true_dataset import SCENES
from training.evaluation.clicks import boundary_iou
from training.evaluation.measure import EvaluationConfig, measure
from training.evaluation.picture_grid import write_grid
from training.evaluation.pictures import TrueObject, TruePicture, coco_pictures, of_scene
from training.evaluation.text_queries import TextAnswer, average_precision
from unspoken.errors import NotFound
from unspoken.imaging.masks import encode_rle, mask_iou
from unspoken.model.mask_bank import MaskBankConfig
from unspoken.model.sam.checkpoint import LoadedSam, SemanticInfo
from unspoken.model.sam.config import SemanticSamConfig, sam_config
from unspoken.model.sam.semantic_sam import SemanticSam


def square(low: int, high: int, side: int = 64) -> np.ndarray:
    mask = np.zeros((side, side), bool)
    mask[low:high, low:high] = True
    return mask


def picture(*objects: tuple[str, np.ndarray], key: str = "1") -> TruePicture:
    things = []
    for label, mask in objects:
        rows, columns = np.nonzero(mask)
        box = (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1)
        things.append(TrueObject(label, mask, tuple(float(each) for each in box)))
    return TruePicture(key, np.zeros((64, 64, 3), np.uint8), tuple(things))


PICTURES = [
    picture(("car", square(4, 20)), ("dog", square(30, 60))),
    picture(("dog", square(10, 40)), key="2"),
]


def truth_as_answers(asked: TruePicture) -> list[TextAnswer]:
    return [TextAnswer(e.label, encode_rle(e.mask[None])[0], 0.9) for e in asked.objects]


def test_the_truth_as_an_answer_has_perfect_precision():
    found = average_precision(PICTURES, truth_as_answers, vocabulary=["car", "dog", "cat"])
    assert found == {"ap": 1.0, "ap50": 1.0}


def test_wrong_words_and_no_answers_have_none():
    def wrong(asked: TruePicture) -> list[TextAnswer]:
        return [answer._replace(label="cat") for answer in truth_as_answers(asked)]

    vocabulary = ["car", "dog", "cat"]
    assert average_precision(PICTURES, wrong, vocabulary=vocabulary)["ap"] == 0
    assert average_precision(PICTURES, lambda _: [], vocabulary=vocabulary)["ap"] == 0


def test_a_confident_false_answer_costs_precision():
    def noisy(asked: TruePicture) -> list[TextAnswer]:
        false = TextAnswer("car", encode_rle(square(50, 62)[None])[0], 0.99)
        return [*truth_as_answers(asked), false]

    assert 0 < average_precision(PICTURES, noisy, vocabulary=["car", "dog"])["ap"] < 1


def test_overlaps_of_masks_and_of_their_edges():
    a, b = square(10, 30), square(10, 20)
    assert mask_iou(np.stack([a, a]), np.stack([a, b])).tolist() == [1.0, 0.25]
    assert boundary_iou(a, a) == 1
    assert boundary_iou(a, square(12, 32)) < mask_iou(a[None], square(12, 32)[None])[0]


@pytest.fixture(scope="module")
def loaded() -> LoadedSam:
    torch.manual_seed(0)
    model = SemanticSam(SemanticSamConfig(sam=sam_config("tiny"))).eval()
    return LoadedSam(model=model, info=SemanticInfo())


def test_an_untrained_network_gets_every_figure(loaded: LoadedSam):
    world = tiny_world()
    scenes = [of_scene(compose_scene(world, seed=i, config=SCENES)) for i in range(2)]
    labels = sorted({each.label for scene in scenes for each in scene.objects})
    figures = measure(
        loaded,
        scenes,
        encode_texts=FakeTextEncoder().encode_texts,
        vocabulary=labels,
        groups={},
        config=EvaluationConfig(
            text_queries=1,
            bank=MaskBankConfig(
                points_per_side=4, predicted_iou_threshold=-9, stability_threshold=0.0
            ),
        ),
    )
    names = {"box_miou", "click1_miou", "click5_miou", "box_top1", "click_top1", "bank_ap"}
    assert names <= set(figures)
    assert figures["box_objects"] == sum(len(scene.objects) for scene in scenes)


def test_pictures_without_objects_are_passed_over(loaded: LoadedSam):
    figures = measure(
        loaded,
        [TruePicture("empty", np.zeros((64, 64, 3), np.uint8), ())],
        encode_texts=FakeTextEncoder().encode_texts,
        vocabulary=["car"],
        groups={},
        config=EvaluationConfig(),
    )
    assert figures["box_miou"] is None


def test_a_coco_file_is_read_with_its_pictures(tmp_path: Path):
    Image.new("RGB", (64, 64)).save(tmp_path / "a.png")
    mask = encode_mask(square(8, 24))
    crowd = {"id": 2, "image_id": 7, "category_id": 1, "segmentation": mask, "bbox": [0, 0, 9, 9]}
    (tmp_path / "instances.json").write_text(
        json.dumps(
            {
                "images": [{"id": 7, "file_name": "a.png", "width": 64, "height": 64}],
                "categories": [{"id": 1, "name": "fire_truck"}],
                "annotations": [
                    {**crowd, "id": 1, "bbox": [8, 8, 16, 16], "area": 256, "iscrowd": 0},
                    {**crowd, "iscrowd": 1, "area": 81},
                ],
            }
        )
    )
    (read,) = coco_pictures(tmp_path / "instances.json", tmp_path, limit=None)
    assert [each.label for each in read.objects] == ["fire truck"]
    assert read.objects[0].box_xyxy == (8, 8, 24, 24)
    assert np.array_equal(read.objects[0].mask, square(8, 24))
    (tmp_path / "a.png").unlink()
    with pytest.raises(NotFound, match=r"no picture a\.png"):
        list(coco_pictures(tmp_path / "instances.json", tmp_path, limit=None))


def test_a_grid_of_pictures_is_drawn(loaded: LoadedSam, tmp_path: Path):
    write_grid(
        loaded,
        PICTURES,
        encode_texts=FakeTextEncoder().encode_texts,
        vocabulary=["car", "dog"],
        path=tmp_path / "grid.png",
    )
    with Image.open(tmp_path / "grid.png") as grid:
        assert grid.width > 400 and grid.height > 400
