"""What the detector says of a picture's phrases, asked once for all sources: one shared question.

So a phrase has the same boxes whichever source gave it, and sources differ by their phrases alone.
Within a chunk phrases crowd one another, so they are asked in a drawn order: none has better
company than another. A vocabulary of hundreds would crowd everything, so it is a question of its
own, with the same decoys.
"""

import random
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from experiments.phrase_sources import Phrases
from unspoken.images import Picture
from unspoken.lexicon import Lexicon
from unspoken.phrases import is_stuff
from unspoken.ports import Detector
from unspoken.runs.false_discovery import UNDECIDED
from unspoken.runs.plan import LabelConfig
from unspoken.schemas import Phrase, Proposal
from worker.decoys import pick_decoys
from worker.proposals import list_candidates, list_undecided

STORED_FROM = 0.1
"""Boxes below this score are not looked at, so no threshold is lower."""


@dataclass(frozen=True)
class FoundBox:
    """A box of a phrase; xyxy in pixels."""

    score: float
    box_xyxy: tuple[float, float, float, float]


FoundBoxes = Mapping[str, Sequence[FoundBox]]
"""Phrase -> its boxes of a sound shape, without repetitions, best first."""


@dataclass(frozen=True)
class AskedPicture:
    """One picture's answers, and the decoys that were asked beside."""

    size_hw: tuple[int, int]
    decoys: tuple[str, ...]
    shared: FoundBoxes
    vocabulary: FoundBoxes
    num_chunks: int
    """Detector passes of the shared question."""


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
    """Ask for every source's phrases and for decoys.

    phrases: source -> phrases. Decoys are unlike every phrase of the shared question; the oracle's
    are among these, so that no decoy is there.
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
    """The phrases' texts, each once."""
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
    """Ask in a drawn order; the boxes of each text after hygiene, and the number of chunks."""
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
    """Of each text's boxes the best: (N,), 0 where there is none."""
    return np.array([found[text][0].score if found[text] else 0.0 for text in texts])
