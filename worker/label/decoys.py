"""Decoys: phrases that were not proposed, detected beside the others to count false detections.

A detector also finds things that are absent. How often it does so, by label and threshold, makes
scores of different sources comparable without ground truth (target-decoy counting). The vocabulary
has no parts of common things, because these are often in a picture without being mentioned.
"""

import hashlib
import random
from collections.abc import Mapping, Sequence
from functools import lru_cache
from itertools import cycle, islice
from typing import NamedTuple

from unspoken.text.lexicon import Lexicon

_WORDS = (
    "accordion, airplane, alarm clock, anchor, ant, apple, axe, backpack, bagpipe, balloon, "
    "banana, barrel, baseball bat, basketball, bear, bed, bee, bell, bicycle, binoculars, boat, "
    "bomb, bone, book, boot, bottle, bow, bowl, bracelet, brain, bread, broccoli, broom, bucket, "
    "bus, butterfly, cactus, cake, calculator, camel, camera, candle, cannon, canoe, car, carrot, "
    "castle, cat, chair, cheese, cherry, chess, chicken, church, cigarette, clarinet, clock, "
    "coconut, coffin, coin, compass, computer, cookie, corn, couch, cow, crab, crane, crocodile, "
    "crown, cup, deer, dice, dinosaur, dog, doll, dolphin, donkey, donut, dragon, dress, drill, "
    "drum, duck, eagle, egg, elephant, envelope, fence, fire hydrant, fish, flag, flamingo, "
    "flute, fork, fountain, fox, frog, garlic, ghost, giraffe, glove, goat, grapes, guitar, "
    "hammer, hamster, harp, hat, hedgehog, helicopter, helmet, hippo, honey, horse, hospital, ice "
    "cream, iron, jar, jellyfish, kangaroo, kettle, key, keyboard, kite, knife, ladder, lamp, "
    "lemon, lion, lipstick, lizard, lobster, lock, magnet, mailbox, map, medal, microphone, "
    "microscope, monkey, moon, motorcycle, mouse, mushroom, necklace, notebook, octopus, onion, "
    "orange, owl, paintbrush, panda, parachute, parrot, peach, peacock, peanut, pear, pen, "
    "penguin, piano, pig, pillow, pineapple, pirate, pizza, pumpkin, puzzle, rabbit, raccoon, "
    "radio, refrigerator, rhino, robot, rocket, rooster, rope, rose, ruler, saddle, sandwich, "
    "satellite, saxophone, scarf, scissors, scooter, scorpion, shark, sheep, shell, shield, ship, "
    "shovel, skateboard, skeleton, skull, sled, snail, snake, soap, sock, spider, spoon, "
    "squirrel, stapler, statue, strawberry, submarine, suitcase, sunflower, surfboard, swan, "
    "sword, syringe, table, taxi, teapot, telephone, telescope, television, tent, tiger, toilet, "
    "tomato, toothbrush, tractor, train, trophy, truck, trumpet, turkey, turtle, umbrella, "
    "unicorn, vase, violin, volcano, watch, watermelon, whale, wheelchair, whistle, windmill, "
    "wolf, wrench, yacht, zebra "
)
VOCABULARY = tuple(word.strip() for word in _WORDS.split(","))


NUM_NEAREST = 24
"""A decoy is drawn from this many unrelated words, those of the nearest frequency."""


def pick_decoys(
    phrases: Sequence[str], *, caption: str, seed: str, count: int, lexicon: Lexicon
) -> tuple[str, ...]:
    """Return at most `count` words unrelated to the phrases and the caption, of similar frequency.

    Each decoy is matched in frequency to one of the phrases, in turn and in random order. Decoys
    must be as common as the proposed phrases, because a detector finds common words more readily.
    Two texts are related if they share a word, a synonym or a hypernym. The same seed gives the
    same words.
    """
    order = _order(seed)
    left = _unrelated_words(phrases, caption, order=order, lexicon=lexicon)
    models = cycle(order.sample(phrases, len(phrases)) or [""])
    chosen = []
    for model in islice(models, min(count, len(left))):
        wanted = lexicon.frequencies.get(lexicon.head(model))
        # The frequency of a word outside the lexicon is unknown, so any decoy may match it.
        near = left if not wanted else _nearest(left, wanted, lexicon)
        chosen.append(order.choice(near))
        left.remove(chosen[-1])
    return tuple(chosen)


def pick_random_labels(
    phrases: Sequence[str], *, caption: str, seed: str, count: int, lexicon: Lexicon
) -> tuple[str, ...]:
    """Return at most `count` words unrelated to the phrases and the caption.

    A box's label competes with them in the crop check. The same seed gives the same words.
    """
    return tuple(_unrelated_words(phrases, caption, order=_order(seed), lexicon=lexicon)[:count])


def _order(seed: str) -> random.Random:
    digest = hashlib.sha256(seed.encode()).digest()
    return random.Random(int.from_bytes(digest[:8], "big"))


def _unrelated_words(
    phrases: Sequence[str], caption: str, *, order: random.Random, lexicon: Lexicon
) -> list[str]:
    said = _words([*phrases, caption.lower()], lexicon)
    said_or_broader = said.union(*(lexicon.hypernyms_of(word) for word in said))
    related = _related_words(lexicon)
    return [
        word
        for word in order.sample(VOCABULARY, len(VOCABULARY))
        if related[word].own.isdisjoint(said_or_broader) and related[word].broader.isdisjoint(said)
    ]


def _nearest(words: Sequence[str], wanted: int, lexicon: Lexicon) -> list[str]:
    """Return the NUM_NEAREST words of the nearest frequency. `words` come in random order."""
    by_distance = sorted(words, key=lambda word: abs(lexicon.frequencies.get(word, 0) - wanted))
    return by_distance[:NUM_NEAREST]


class _RelatedWords(NamedTuple):
    """Words related to a vocabulary word: its own lemmas and synonyms, and its hypernyms."""

    own: frozenset[str]
    broader: frozenset[str]


@lru_cache(maxsize=2)
def _related_words(lexicon: Lexicon) -> Mapping[str, _RelatedWords]:
    """Return the related words of the vocabulary. Cached: this took most of a worker's time."""
    return {
        word: _RelatedWords(frozenset(_words([word], lexicon)), lexicon.hypernyms_of(word))
        for word in VOCABULARY
    }


def _words(texts: Sequence[str], lexicon: Lexicon) -> set[str]:
    words: set[str] = set()
    for text in texts:
        tokens = ["".join(c for c in token if c.isalpha()) for token in text.split()]
        singulars = [lexicon.singular(token) for token in tokens if token]
        for lemma in [*singulars, " ".join(singulars[-2:])]:
            words |= {lemma, *lexicon.synonyms_of(lemma)}
            # Only the head of a synonym: "domestic cat" and "domestic dog" are not related.
            words |= {synonym.rpartition(" ")[2] for synonym in lexicon.synonyms_of(lemma)}
    return words - {""}
