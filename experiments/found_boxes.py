"""Detection of a picture's phrases, once for all sources together: the shared query.

A phrase has the same boxes whichever source proposed it, so sources differ by their phrases alone.
Phrases in the same detector pass influence each other's scores. Therefore they are queried in a
random order, so that no source has an advantage. A vocabulary of hundreds would influence all other
phrases, so it is a separate query with the same decoys.
"""

import random
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from experiments.phrase_sources import Phrases
from unspoken.imaging.images import Picture
from unspoken.ports import Detector
from unspoken.runs.dataset.false_discovery import UNDECIDED
from unspoken.runs.plan import LabelConfig
from unspoken.text.lexicon import Lexicon
from unspoken.text.phrases import is_stuff
from unspoken.wire.proposals import Phrase, Proposal
from worker.label.candidates import list_candidates
from worker.label.decoys import pick_decoys
from worker.label.merging import list_undecided

STORED_FROM = 0.1
"""Boxes below this score are discarded, so no threshold can be lower."""


@dataclass(frozen=True)
class FoundBox:
    """A box of a phrase; xyxy in pixels."""

    score: float
    box_xyxy: tuple[float, float, float, float]


FoundBoxes = Mapping[str, Sequence[FoundBox]]
"""Phrase -> its boxes of valid shape, without duplicates, best first."""


@dataclass(frozen=True)
class AskedPicture:
    """The detections of one picture, and the decoys that were queried with its phrases."""

    size_hw: tuple[int, int]
    decoys: tuple[str, ...]
    shared: FoundBoxes
    vocabulary: FoundBoxes
    num_chunks: int
    """Number of detector passes of the shared query."""


def ask_picture(
    detector: Detector,
    picture: Picture,
    phrases: Mapping[str, Phrases],
    *,
    vocabulary_source: str,
    caption: str,
    num_decoys: int,
    seed: str,
    config: LabelConfig,
    lexicon: Lexicon,
) -> AskedPicture:
    """Detect every source's phrases and decoys.

    phrases: source -> phrases. Decoys are unlike every phrase of the shared query. That query
    includes the oracle's phrases, so no decoy is present in the picture.
    """
    shared = distinct(
        each for name, group in phrases.items() if name != vocabulary_source for each in group
    )
    decoys = pick_decoys(shared, caption=caption, seed=seed, count=num_decoys, lexicon=lexicon)
    found, num_chunks = ask(
        detector, picture, [*shared, *decoys], seed=seed, config=config, lexicon=lexicon
    )
    vocabulary = distinct(phrases[vocabulary_source])
    of_vocabulary, _ = ask(
        detector,
        picture,
        list(dict.fromkeys([*vocabulary, *decoys])),
        seed=seed,
        config=config,
        lexicon=lexicon,
    )
    return AskedPicture(picture.size_hw, decoys, found, of_vocabulary, num_chunks)


def distinct(phrases: Iterable[Phrase]) -> list[str]:
    """Return the phrases' texts without duplicates."""
    return list(dict.fromkeys(phrase.text for phrase in phrases))


def ask(
    detector: Detector,
    picture: Picture,
    texts: Sequence[str],
    *,
    seed: str,
    config: LabelConfig,
    lexicon: Lexicon,
) -> tuple[FoundBoxes, int]:
    """Detect texts in a random order; return each text's valid boxes and the number of passes."""
    drawn = list(texts)
    random.Random(seed).shuffle(drawn)
    result = detector.detect(picture, drawn, box_threshold=STORED_FROM)
    asked = tuple(
        Phrase(text=text, named=False, stuff=is_stuff(text, lexicon), sources=()) for text in drawn
    )
    candidates = list_candidates(Proposal(phrases=asked), (), max_phrases=len(asked))
    undecided = list_undecided(
        result.detections, candidates, size_hw=picture.size_hw, config=config
    )
    found: dict[str, list[FoundBox]] = {text: [] for text in drawn}
    for each in undecided:
        if each.drop_reason == UNDECIDED:
            found[each.label].append(FoundBox(each.score, each.box))
    return found, result.num_chunks


def best_scores(found: FoundBoxes, texts: Sequence[str]) -> np.ndarray:
    """Return the best score of each text: (N,), 0 for a text without boxes."""
    return np.array([found[text][0].score if found[text] else 0.0 for text in texts])
