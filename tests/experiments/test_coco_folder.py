"""Folders in COCO's and in LVIS's format, with three pictures each."""

import json

import numpy as np
import pytest
from PIL import Image

from experiments.collections.coco_folder import coco_folder, label_of
from unspoken.errors import InvalidInput

CATEGORIES = [{"id": 1, "name": "dog"}, {"id": 7, "name": "dining table"}]
ANNOTATIONS = [
    {"image_id": 10, "category_id": 1, "bbox": [2, 3, 10, 20], "iscrowd": 0, "segmentation": []},
    {"image_id": 10, "category_id": 7, "bbox": [0, 0, 5, 5], "iscrowd": 1},
    {"image_id": 11, "category_id": 7, "bbox": [1, 1, 8, 8], "iscrowd": 0},
]
CAPTIONS = [
    {"image_id": 10, "caption": " A puppy \n by the door"},
    {"image_id": 10, "caption": "second"},
    {"image_id": 11, "caption": "Dinner is served"},
    {"image_id": 12, "caption": "not on disk"},
]


def write(folder, instances, *, name="instances_val2017.json", captions=CAPTIONS):
    (folder / "annotations").mkdir()
    (folder / "annotations" / name).write_text(json.dumps(instances))
    about = json.dumps({"images": [], "annotations": captions})
    (folder / "annotations" / "captions_val2017.json").write_text(about)
    (folder / "val2017").mkdir()
    for number in (10, 11):
        pixels = np.zeros((32, 48, 3), np.uint8)
        Image.fromarray(pixels).save(folder / "val2017" / f"{number}.jpg")


def coco():
    images = [{"id": number, "file_name": f"{number}.jpg"} for number in (10, 11, 12)]
    return {"images": images, "annotations": ANNOTATIONS, "categories": CATEGORIES}


def by_key(collection):
    return {captioned.key: captioned for captioned in collection.pictures}


def test_coco_is_closed_over_its_labels_and_crowds_are_not_judged(tmp_path):
    write(tmp_path, coco())
    collection = coco_folder(tmp_path, num_pictures=5, seed=0)
    assert collection.vocabulary == ("dining table", "dog")
    samples = by_key(collection)
    assert set(samples) == {"10", "11"}
    dog = samples["10"]
    assert dog.caption == "A puppy by the door"
    assert [(o.label, o.box_xyxy) for o in dog.truth.objects] == [("dog", (2, 3, 12, 23))]
    assert dog.truth.open_labels == {"dining table"}
    assert dog.truth.closed_labels == {"dog", "dining table"}
    assert samples["11"].truth.named == frozenset()
    assert dog.read()[:2] == b"\xff\xd8"


def test_lvis_judges_what_was_verified_in_that_picture(tmp_path):
    images = [
        {
            "id": number,
            "coco_url": f"http://images.example/val2017/{number}.jpg",
            "neg_category_ids": [3],
            "not_exhaustive_category_ids": [1],
        }
        for number in (10, 11)
    ]
    categories = [
        {"id": 1, "name": "dog", "synonyms": ["dog", "puppy"]},
        {"id": 3, "name": "bow_(weapon)", "synonyms": ["bow_(weapon)"]},
        {"id": 7, "name": "dining_table", "synonyms": ["dining_table"]},
    ]
    annotations = [ANNOTATIONS[0], ANNOTATIONS[2]]
    write(
        tmp_path,
        {"images": images, "annotations": annotations, "categories": categories},
        name="lvis_v1_val.json",
    )
    dog = by_key(coco_folder(tmp_path, num_pictures=5, seed=0))["10"]
    assert dog.truth.named == {"dog"}  # as "puppy"
    assert dog.truth.closed_labels == {"dog", "bow"}
    assert dog.truth.can_refute(frozenset({"bow"}))
    assert not dog.truth.can_refute(frozenset({"dining table"}))
    assert not dog.truth.can_refute(frozenset({"dog"}))


def test_the_seed_draws_the_pictures(tmp_path):
    write(tmp_path, coco())
    drawn = {coco_folder(tmp_path, num_pictures=1, seed=seed).pictures[0].key for seed in range(8)}
    again = [coco_folder(tmp_path, num_pictures=1, seed=3).pictures[0].key for _ in range(2)]
    assert drawn == {"10", "11"}
    assert again[0] == again[1]


@pytest.mark.parametrize(
    ("instances", "captions", "message"),
    [
        pytest.param({"images": []}, CAPTIONS, "annotations: is missing", id="no-lists"),
        pytest.param(coco(), [], "no captions", id="no-captions"),
        pytest.param(
            {**coco(), "categories": []},
            CAPTIONS,
            "category 1 is not listed",
            id="unknown-category",
        ),
        pytest.param({**coco(), "images": []}, CAPTIONS, "has no picture of", id="no-pictures"),
    ],
)
def test_a_folder_of_another_form_is_refused_with_what_is_wrong(
    tmp_path, instances, captions, message
):
    write(tmp_path, instances, captions=captions)
    with pytest.raises(InvalidInput, match=message):
        coco_folder(tmp_path, num_pictures=5, seed=0)


def test_two_files_of_instances_are_told_apart_by_val(tmp_path):
    write(tmp_path, coco())
    (tmp_path / "annotations" / "instances_train2017.json").write_text("{}")
    assert coco_folder(tmp_path, num_pictures=5, seed=0).name == "instances_val2017.json"
    (tmp_path / "lvis_v1_val.json").write_text("{}")
    with pytest.raises(InvalidInput, match=r"lvis_v1_val\.json"):
        coco_folder(tmp_path, num_pictures=5, seed=0)


def test_names_of_lvis_become_words():
    assert label_of("bow_(decorative_ribbons)") == "bow"
    assert label_of("Alarm_clock") == "alarm clock"


def test_a_picture_that_cannot_be_read_is_passed_over(tmp_path):
    write(tmp_path, coco())
    (tmp_path / "val2017" / "10.jpg").write_bytes(b"not a picture")
    assert set(by_key(coco_folder(tmp_path, num_pictures=5, seed=0))) == {"11"}


def test_a_man_names_cocos_person(tmp_path):
    categories = [{"id": 1, "name": "person"}, {"id": 7, "name": "dining table"}]
    captions = [{"image_id": 10, "caption": "Two men by the door"}, *CAPTIONS[2:]]
    write(tmp_path, {**coco(), "categories": categories}, captions=captions)
    assert by_key(coco_folder(tmp_path, num_pictures=5, seed=0))["10"].truth.named == {"person"}
