"""Collection with truth from a folder of pictures with COCO or LVIS instances and COCO captions.

    FOLDER/**/instances*.json or lvis*.json    one file; if there are several, the one of `val`
    FOLDER/**/captions*.json                   all files; the first caption of a picture is used
    FOLDER/**/*.jpg                            found by their names, in any folder

COCO annotates all objects of its 80 labels. Other labels count neither as right nor as wrong, and a
crowd's label is not judged in its picture. LVIS is federated: only the labels that its annotators
verified in a picture, as present or absent, are judged there. Of labels that are not annotated
exhaustively, only boxes that hit an object are judged. No object is a part.
"""

import random
import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import TypeVar

from pydantic import BaseModel, ValidationError

from experiments.collections.collection import CaptionedPicture, Collection
from experiments.collections.truth import LabelMatcher, PictureTruth
from smallworld.truth import TruthObject
from unspoken.errors import InvalidInput
from unspoken.imaging.file_formats import FILE_ENDINGS
from unspoken.imaging.images import decode_picture
from unspoken.problem_words import first_problem
from unspoken.text.captions import is_named
from unspoken.text.lexicon import Lexicon, load_lexicon

OTHER_WORDS = {"person": ("baby", "child", "boy", "girl", "man", "woman", "human")}
"""LVIS's other words for "person".

COCO has no synonyms, and no lexicon lists "man" as a synonym of "person".
"""

_Form = TypeVar("_Form", bound=BaseModel)
_IN_BRACKETS = re.compile(r"\s*\([^)]*\)")


class _Image(BaseModel):
    """An image record. LVIS has `coco_url` in place of `file_name`, and lists verified labels."""

    id: int
    file_name: str = ""
    coco_url: str = ""
    neg_category_ids: list[int] | None = None
    not_exhaustive_category_ids: list[int] = []

    @property
    def base_name(self) -> str:
        return (self.file_name or self.coco_url).rpartition("/")[2]


class _Annotation(BaseModel):
    """An annotation record; `bbox` is x, y, width, height in pixels."""

    image_id: int
    category_id: int
    bbox: tuple[float, float, float, float]
    iscrowd: int = 0


class _Category(BaseModel):
    id: int
    name: str
    synonyms: list[str] = []


class _Instances(BaseModel):
    images: list[_Image]
    annotations: list[_Annotation]
    categories: list[_Category]


class _Caption(BaseModel):
    image_id: int
    caption: str


class _Captions(BaseModel):
    annotations: list[_Caption]


def coco_folder(folder: Path, *, num_pictures: int, seed: int) -> Collection:
    """Draw `num_pictures` of the folder's pictures. Raises InvalidInput for other file formats."""
    file = _one_file(folder)
    instances = _parse(_Instances, file)
    captions = _first_captions(folder)
    files = {
        path.name: path
        for path in sorted(folder.rglob("*"))
        if path.suffix.lower().lstrip(".") in FILE_ENDINGS
    }
    usable = [
        image for image in instances.images if image.id in captions and image.base_name in files
    ]
    if not usable:
        raise InvalidInput(f"{folder} has no picture of {file.name} that has a caption")
    drawn = random.Random(seed).sample(usable, len(usable))
    readable = (image for image in drawn if _is_readable(files[image.base_name]))
    chosen = list(islice(readable, num_pictures))
    names = {each.id: label_of(each.name) for each in instances.categories}
    for annotation in instances.annotations:
        if annotation.category_id not in names:
            raise InvalidInput(f"{file.name}: category {annotation.category_id} is not listed")
    synonyms = _synonyms(instances.categories)
    by_image: dict[int, list[_Annotation]] = defaultdict(list)
    for annotation in instances.annotations:
        by_image[annotation.image_id].append(annotation)
    lexicon = load_lexicon()
    pictures = []
    for image in chosen:
        caption = captions[image.id]
        truth = _truth(image, by_image[image.id], names, synonyms, caption, lexicon)
        path = files[image.base_name]
        pictures.append(CaptionedPicture(str(image.id), caption, path.read_bytes, truth))
    vocabulary = tuple(sorted(set(names.values())))
    return Collection(
        name=file.name,
        pictures=tuple(pictures),
        vocabulary=vocabulary,
        matcher=LabelMatcher(vocabulary, synonyms=synonyms, lexicon=lexicon),
    )


def label_of(name: str) -> str:
    """Convert LVIS names: "bow_(decorative_ribbons)" -> "bow", "alarm_clock" -> "alarm clock"."""
    return " ".join(_IN_BRACKETS.sub("", name.replace("_", " ")).lower().split())


def _is_readable(path: Path) -> bool:
    try:
        decode_picture(path.read_bytes())
    except InvalidInput:
        return False
    return True


def _truth(
    image: _Image,
    annotations: Sequence[_Annotation],
    names: Mapping[int, str],
    synonyms: Mapping[str, Sequence[str]],
    caption: str,
    lexicon: Lexicon,
) -> PictureTruth:
    objects = []
    not_all = {names[each] for each in image.not_exhaustive_category_ids if each in names}
    for each in annotations:
        label, (x, y, width, height) = names[each.category_id], each.bbox
        if each.iscrowd:
            not_all.add(label)
        else:
            objects.append(TruthObject(label, (x, y, x + width, y + height), is_part=False))
    shown = {each.label for each in objects}
    absent = image.neg_category_ids
    verified = set(names.values())
    if absent is not None:
        verified = {names[each] for each in absent if each in names} | shown
    return PictureTruth(
        objects=tuple(objects),
        named=frozenset(
            label
            for label in shown
            if any(is_named(word, caption, lexicon) for word in (label, *synonyms[label]))
        ),
        open_labels=frozenset(not_all),
        closed_labels=frozenset(verified),
    )


def _synonyms(categories: Sequence[_Category]) -> dict[str, list[str]]:
    """Return label -> synonyms; two categories with the same label ("bow") share them."""
    words = defaultdict(list, {label: list(others) for label, others in OTHER_WORDS.items()})
    for each in categories:
        words[label_of(each.name)] += [label_of(word) for word in each.synonyms]
    return dict(words)


def _one_file(folder: Path) -> Path:
    found = sorted([*folder.rglob("instances*.json"), *folder.rglob("lvis*.json")])
    of_val = [path for path in found if "val" in path.name]
    chosen = found if len(found) < 2 else of_val
    if len(chosen) != 1:
        names = ", ".join(path.name for path in found) or "none"
        raise InvalidInput(
            f"{folder} must contain one instances*.json or lvis*.json, or several of which one has "
            f"'val' in its name; found {names}"
        )
    return chosen[0]


def _first_captions(folder: Path) -> dict[int, str]:
    first: dict[int, str] = {}
    for path in sorted(folder.rglob("captions*.json")):
        for each in _parse(_Captions, path).annotations:
            if each.caption.strip():
                first.setdefault(each.image_id, " ".join(each.caption.split()))
    if not first:
        raise InvalidInput(f"{folder} contains no captions*.json with captions")
    return first


def _parse(form: type[_Form], path: Path) -> _Form:
    try:
        return form.model_validate_json(path.read_bytes())
    except ValidationError as error:
        raise InvalidInput(f"{path.name}: {first_problem(error, form)}") from error
