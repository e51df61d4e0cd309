"""Evaluation of boxes on a small world's truth."""

from smallworld.truth import (
    Counts,
    JudgedBox,
    SceneTruth,
    Score,
    TruthObject,
    judge,
    read_truth_files,
)
from tests.smallworld.tiny_world import tiny_world
from tests.training.true_dataset import write_true_dataset
from unspoken.runs.dataset.manifest import read_labels
from unspoken.runs.dataset.shards import iter_rows

CAR = TruthObject("car", (0, 0, 100, 50), is_part=False)
WHEEL = TruthObject("wheel", (10, 30, 30, 50), is_part=True)
TRUTH = SceneTruth("k", (CAR, WHEEL), frozenset({"car"}), frozenset({"window"}), (64, 96))
SYNONYMS = {"car": "car", "automobile": "car"}


def score(*boxes: JudgedBox) -> Score:
    return judge(boxes, TRUTH, synonyms=SYNONYMS)


def test_no_boxes_find_nothing_and_judge_nothing():
    assert score() == Score(named=Counts(objects=1), implied=Counts(objects=1))
    assert score().figures()["named_precision"] is None


def test_a_box_of_the_right_label_and_place_is_right():
    result = score(JudgedBox(("car",), (0, 0, 100, 50), named=True))
    assert result.named == Counts(right=1, judged=1, found=1, objects=1)


def test_a_synonym_is_as_good_as_the_noun():
    assert score(JudgedBox(("automobile",), (0, 0, 100, 50), named=True)).named.right == 1


def test_the_right_label_in_the_wrong_place_is_wrong():
    result = score(JudgedBox(("wheel",), (70, 30, 90, 50), named=False))
    assert result.implied == Counts(right=0, judged=1, found=0, objects=1)


def test_a_part_name_that_nobody_can_judge_counts_neither_way():
    assert score(JudgedBox(("window",), (1, 1, 9, 9), named=False)).implied.judged == 0


def test_what_is_not_there_at_all_is_wrong():
    assert score(JudgedBox(("dog",), (0, 0, 100, 50), named=False)).implied.judged == 1


def test_the_dataset_of_the_truth_reads_as_a_worker_s(tmp_path):
    folder = write_true_dataset(tmp_path, tiny_world(), num_scenes=6, with_parts=True)
    truths = read_truth_files(folder / "pictures")
    rows = list(iter_rows(folder / "dataset"))
    assert [row.key for row in rows] == list(truths)
    for row in rows:
        objects = truths[row.key].objects
        assert [(each.label, each.box) for each in row.kept] == [
            (each.label, each.box_xyxy) for each in objects
        ]
        assert {each.label for each in row.kept if each.named} <= truths[row.key].named
    labels = {each.label for row in rows for each in row.kept}
    assert set(read_labels(folder / "dataset")) == labels
