"""Decoys: phrases that nobody proposed, asked beside the others to count false answers.

A detector answers absent questions too; how often it does, per label and threshold, is what makes
scores of different sources comparable without any ground truth (target-decoy counting). Parts of
common things are left out of the vocabulary: they are there more often than anybody says.
"""

import hashlib
import random
from collections.abc import Sequence
from itertools import islice

from unspoken.lexicon import Lexicon

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


def pick_decoys(
    phrases: Sequence[str], *, caption: str, seed: str, count: int, lexicon: Lexicon
) -> tuple[str, ...]:
    """`count` words that have nothing to do with the phrases or the caption.

    The same seed gives the same words. Related is what shares a word or a synonym.
    """
    related = _words([*phrases, caption.lower()], lexicon)
    digest = hashlib.sha256(seed.encode()).digest()
    order = random.Random(int.from_bytes(digest[:8], "big"))
    words = order.sample(VOCABULARY, len(VOCABULARY))
    chosen = (word for word in words if not _words([word], lexicon) & related)
    return tuple(islice(chosen, count))


def _words(texts: Sequence[str], lexicon: Lexicon) -> set[str]:
    words: set[str] = set()
    for text in texts:
        tokens = ["".join(c for c in token if c.isalpha()) for token in text.split()]
        singulars = [lexicon.singular(token) for token in tokens if token]
        for lemma in [*singulars, " ".join(singulars[-2:])]:
            words |= {lemma, *lexicon.synonyms_of(lemma)}
            words |= {part for synonym in lexicon.synonyms_of(lemma) for part in synonym.split()}
    return words - {""}
