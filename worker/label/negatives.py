"""Hard negatives: phrases that were proposed for a caption but are absent from the picture.

A network that learns to name things learns more from things that fit the scene than from random
words. A phrase counts as absent only if all of this holds:

* the detector gave it no box that is stored (`stored_from`: half of the score of a kept box),
* the caption does not name it,
* it is not related to a phrase that was found or named. In a picture with a dog, "animal" without a
  box has only scored low.
"""

from collections.abc import Sequence

from unspoken.runs.dataset.rows import Candidate
from unspoken.text.lexicon import Lexicon
from unspoken.wire.detections import Detection


def list_negatives(
    candidates: Sequence[Candidate], detections: Sequence[Detection], lexicon: Lexicon
) -> tuple[str, ...]:
    """Return the candidates' phrases that the picture does not show, in order, each once.

    detections: all detections with a score high enough to be stored; `phrase_index` is the id of
    the candidate. Decoys are left out, because they only serve to count false detections.
    """
    asked = [each for each in candidates if each.rejected is None and not each.decoy]
    answered = {detection.phrase_index for detection in detections}
    there = {each.phrase for each in asked if each.named or each.id in answered}
    absent = (each.phrase for each in asked if each.phrase not in there)
    return tuple(
        dict.fromkeys(
            phrase
            for phrase in absent
            if not any(lexicon.may_name_same_thing(phrase, each) for each in there)
        )
    )
