"""Hard negatives: phrases that fitted the caption well enough to be asked, and are not there.

A network that learns to name things learns more from what a scene could have had than from any
other word. A phrase counts as absent only where nothing speaks for it: the detector gave it no box
that is stored (`stored_from`: half of what counts as found), the caption does not name it, and no
phrase that was answered or named is kin to it: who sees no animal in a picture with a dog has
only scored it low.
"""

from collections.abc import Sequence

from unspoken.lexicon import Lexicon
from unspoken.runs.rows import Candidate
from unspoken.schemas import Detection


def list_negatives(
    candidates: Sequence[Candidate], detections: Sequence[Detection], lexicon: Lexicon
) -> tuple[str, ...]:
    """Phrases of the candidates that the picture does not show, in their order, each once.

    detections: all that reach the score from which boxes are stored; `phrase_index` is the id of
    the candidate. Decoys have no part in it: they are asked to count false answers.
    """
    asked = [each for each in candidates if each.rejected is None and not each.decoy]
    answered = {detection.phrase_index for detection in detections}
    there = {each.phrase for each in asked if each.named or each.id in answered}
    absent = (each.phrase for each in asked if each.phrase not in there)
    return tuple(
        dict.fromkeys(
            phrase for phrase in absent if not any(lexicon.are_kin(phrase, each) for each in there)
        )
    )
