"""Evaluation of boxes on a small world: precision and recall at IoU .5, named and implied.

An annotation is right if its IoU with an object of the same label, or of a label that it is a
synonym of, is at least .5. Part names without ground truth in a picture are ignored. An object is
named if the caption contains its label or a synonym.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from smallworld.glyphs import load_classes
from unspoken.imaging.boxes import box_iou
from unspoken.runs.dataset.rows import Annotation

MIN_IOU = 0.5


@dataclass(frozen=True)
class TruthObject:
    """One visible whole or part; its box is xyxy in pixels."""

    label: str
    box_xyxy: tuple[float, float, float, float]
    is_part: bool


@dataclass(frozen=True)
class SceneTruth:
    """Ground truth of one picture: objects, labels that its caption names, unjudged parts, size."""

    key: str
    objects: tuple[TruthObject, ...]
    named: frozenset[str]
    unjudged_parts: frozenset[str]
    size_hw: tuple[int, int]


@dataclass(frozen=True)
class JudgedBox:
    """An annotation to judge: its label and alternatives, xyxy in pixels, named or implied."""

    labels: tuple[str, ...]
    box_xyxy: tuple[float, float, float, float]
    named: bool


@dataclass(frozen=True)
class Counts:
    """Counts for precision (right and judged annotations) and recall (found and all objects)."""

    right: int = 0
    judged: int = 0
    found: int = 0
    objects: int = 0

    def __add__(self, other: "Counts") -> "Counts":
        return Counts(
            self.right + other.right,
            self.judged + other.judged,
            self.found + other.found,
            self.objects + other.objects,
        )

    @property
    def precision(self) -> float | None:
        """Share of judged annotations that are right; None without any."""
        return self.right / self.judged if self.judged else None

    @property
    def recall(self) -> float | None:
        """Share of objects that were found; None without any."""
        return self.found / self.objects if self.objects else None


@dataclass(frozen=True)
class Score:
    """Counts of named and of implied boxes and objects."""

    named: Counts = Counts()
    implied: Counts = Counts()

    def __add__(self, other: "Score") -> "Score":
        return Score(self.named + other.named, self.implied + other.implied)

    def figures(self) -> dict[str, float | None]:
        """Return the four figures of a summary, rounded to three places."""
        values = {
            "named_precision": self.named.precision,
            "named_recall": self.named.recall,
            "implied_precision": self.implied.precision,
            "implied_recall": self.implied.recall,
        }
        return {name: None if v is None else round(v, 3) for name, v in values.items()}


def read_truth_files(folder: Path) -> dict[str, SceneTruth]:
    """Read every `*.truth.jsonl` in a folder of shards: key -> truth."""
    paths = sorted(folder.glob("*.truth.jsonl"))
    return {truth.key: truth for path in paths for truth in read_truth_file(path)}


def read_truth_file(path: Path) -> list[SceneTruth]:
    """Read the truth of one shard, in the order of its samples."""
    records = map(json.loads, path.read_text(encoding="utf-8").splitlines())
    return [
        SceneTruth(
            key=record["key"],
            objects=tuple(
                TruthObject(each["label"], tuple(each["box_xyxy"]), each["is_part"])
                for each in record["objects"]
            ),
            named=frozenset(record["named"]),
            unjudged_parts=frozenset(record["unjudged_parts"]),
            size_hw=tuple(record["size_hw"]),
        )
        for record in records
    ]


def load_synonyms() -> dict[str, str]:
    """Return a map from every noun and synonym of the world's classes to the noun."""
    return {word: each.noun for each in load_classes() for word in (each.noun, *each.synonyms)}


def shows(truth: SceneTruth, label: str, *, synonyms: Mapping[str, str]) -> bool | None:
    """Return True if a picture shows a label or the noun it is a synonym of; None if unjudged."""
    meant = {label, synonyms.get(label, label)}
    if any(each.label in meant for each in truth.objects):
        return True
    return None if label in truth.unjudged_parts else False


def judge(boxes: Sequence[JudgedBox], truth: SceneTruth, *, synonyms: Mapping[str, str]) -> Score:
    """Judge one picture's annotations against its truth."""
    found = [False] * len(truth.objects)
    named, implied = Counts(), Counts()
    truth_boxes = np.array([each.box_xyxy for each in truth.objects]).reshape(-1, 4)
    for box in boxes:
        # A word may be both a part name and a synonym of a whole ('flame'); both readings count.
        labels = {*box.labels, *(synonyms.get(label, label) for label in box.labels)}
        overlaps = box_iou(np.array([box.box_xyxy]), truth_boxes)[0]
        hits = [
            index
            for index, each in enumerate(truth.objects)
            if each.label in labels and overlaps[index] >= MIN_IOU
        ]
        for index in hits:
            found[index] = True
        if not hits and box.labels[0] in truth.unjudged_parts:
            continue
        count = Counts(right=int(bool(hits)), judged=1)
        if box.named:
            named += count
        else:
            implied += count
    for each, was_found in zip(truth.objects, found, strict=True):
        count = Counts(found=int(was_found), objects=1)
        if each.label in truth.named:
            named += count
        else:
            implied += count
    return Score(named, implied)


def judged_boxes(annotations: Iterable[Annotation]) -> list[JudgedBox]:
    """Convert a dataset's annotations to boxes to judge; alternative labels count as labels."""
    return [
        JudgedBox(
            labels=(each.label, *(alt.label for alt in each.alt_labels)),
            box_xyxy=each.box,
            named=each.named,
        )
        for each in annotations
    ]


def judge_each(
    boxes_by_key: Mapping[str, Sequence[JudgedBox]], truths: Mapping[str, SceneTruth]
) -> dict[str, Score]:
    """Judge every picture that has an entry in `boxes_by_key`; dropped pictures have none."""
    synonyms = load_synonyms()
    return {key: judge(b, truths[key], synonyms=synonyms) for key, b in boxes_by_key.items()}


def total_score(scores: Iterable[Score]) -> Score:
    """Return the sum of all pictures' counts."""
    return sum(scores, Score())
