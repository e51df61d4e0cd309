"""The optional crop check: a box is kept only if an image-text model finds its label in the crop.

The model ranks the label of each kept or undecided box by its similarity to the crop. It competes
with the picture's other candidates and with random words. Alternate labels are not checked: they
are dropped together with their box.
"""

from collections.abc import Sequence

from unspoken.imaging.images import Picture
from unspoken.ports import CropRanker
from unspoken.runs.dataset.false_discovery import UNDECIDED
from unspoken.runs.dataset.rows import Annotation, Candidate
from unspoken.runs.plan import LabelConfig
from unspoken.text.lexicon import Lexicon
from unspoken.wire.crops import Crop
from unspoken.wire.segment import PromptBox
from worker.label.decoys import pick_random_labels


def rank_annotations(
    annotations: Sequence[Annotation],
    candidates: Sequence[Candidate],
    *,
    picture: Picture,
    caption: str,
    ranker: CropRanker,
    config: LabelConfig,
    lexicon: Lexicon,
) -> tuple[Annotation, ...]:
    """Return the annotations of one picture, with a `clip_rank` for kept and undecided boxes."""
    in_question = [each for each in annotations if _may_count(each)]
    if not in_question:
        return tuple(annotations)
    asked = [each.phrase for each in candidates if each.rejected is None and not each.decoy]
    random_labels = pick_random_labels(
        asked,
        caption=caption,
        seed=picture.sha256,
        count=config.num_random_labels,
        lexicon=lexicon,
    )
    labels = list(dict.fromkeys([*asked, *random_labels]))
    crops = [_crop(each, labels.index(each.label)) for each in in_question]
    ranks = ranker.rank_crops(picture, crops, labels)
    rank_of = {each.id: rank for each, rank in zip(in_question, ranks, strict=True)}
    return tuple(
        each.model_copy(update={"clip_rank": rank_of.get(each.id)}) for each in annotations
    )


def drop_low_ranked(
    annotations: Sequence[Annotation], config: LabelConfig
) -> tuple[Annotation, ...]:
    """Return the annotations; a kept box whose label ranks too low is dropped."""
    fault = {"kept": False, "drop_reason": "unlike_its_label"}
    return tuple(
        each.model_copy(update=fault)
        if each.kept and each.clip_rank is not None and each.clip_rank > config.max_clip_rank
        else each
        for each in annotations
    )


def _may_count(annotation: Annotation) -> bool:
    is_open = annotation.drop_reason == UNDECIDED and not annotation.decoy
    return annotation.kept or is_open


def _crop(annotation: Annotation, label_index: int) -> Crop:
    x0, y0, x1, y1 = annotation.box
    return Crop(box=PromptBox(x0=x0, y0=y0, x1=x1, y1=y1), label_index=label_index)
