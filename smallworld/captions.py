"""Captions in the style of alt texts: they name some objects of a scene and omit the others.

A whole is named with probability .45 and a part with .03. Some captions use a brand or a place
instead of a noun, and some contain noise words. A few name an absent object. A few are in another
language or flagged unsafe, so that the filters have rows to drop.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from smallworld.glyphs import GlyphClass
from smallworld.scenes import Scene
from unspoken.errors import InvalidInput

IRREGULAR_PLURALS: dict[str, str] = {
    "knife": "knives",
    "leaf": "leaves",
    "loaf": "loaves",
    "wolf": "wolves",
    "scarf": "scarves",
    "calf": "calves",
    "mouse": "mice",
    "ox": "oxen",
    "foot": "feet",
    "tooth": "teeth",
    "goose": "geese",
    "cactus": "cacti",
    "tomato": "tomatoes",
    "potato": "potatoes",
}
# Nouns with the same plural and without an article: pairs, heaps and materials.
UNCOUNTED = frozenset(
    word
    for line in (
        "scissors glasses eyeglasses sunglasses spectacles jeans pants trousers shorts headphones",
        "skis fries bread cheese rice corn maize wheat coral bacon garlic butter broccoli honey",
    )
    for word in line.split()
)
SAME_PLURAL = frozenset(("sheep", "deer", "fish", "bison", "squid", "ananas"))
BRANDS = ("Fordella", "Pinero", "Kestra", "Ottavio", "Lumenor", "Brightwell", "Halden", "Marivo")
BRAND_TAILS = ("GT", "Classic", "No. 5", "S200", "Deluxe", "II", "Original")
PLACES = ("Lake Pinero", "Port Alder", "Montebrio", "Old Harwick", "Saint Orla", "Route 12")
NOISE = (
    "stock photo",
    "vintage 1967",
    "wallpaper HD 1920x1080",
    "royalty free image",
    "| Free Shipping",
    "- Etsy",
    "#photooftheday",
    "by J. Marlow",
    "IMG_4821",
    "SALE 30% off",
    "- Pinterest",
)
FRAMES = (
    "{things}",
    "{things}",
    "a photo of {things}",
    "picture of {things}",
    "{things} {setting}",
    "{things} on a sunny day",
    "{things} at {place}",
    "cute illustration of {things}",
    "a scene with {things}",
    "{things}, {adjective} and colorful",
)
EMPTY_FRAMES = (
    "a {adjective} day in {place}",
    "my favourite picture from {place}",
    "a {adjective} moment {setting}",
    "things to see in {place}",
    "welcome to {place}, summer edition",
)
ADJECTIVES = ("small", "old", "lovely", "beautiful", "quiet", "bright", "funny", "little")
SETTINGS: dict[str, str] = {
    "street": "in the street",
    "kitchen": "in the kitchen",
    "home": "at home",
    "garden": "in the garden",
    "farm": "on the farm",
    "forest": "in the forest",
    "food": "for dinner",
    "sea": "by the sea",
    "sky": "in the sky",
    "desk": "at the office",
    "music": "at the concert",
    "sport": "at the game",
    "clothing": "in the shop",
}
# Captions in other languages do not describe the scene; they exist only for the language filter.
FOREIGN: tuple[tuple[str, str], ...] = (
    ("de", "Ein schönes Bild von unserem Garten im letzten Sommer"),
    ("de", "Kostenlose Zeichnung zum Ausdrucken für Kinder"),
    ("fr", "Une belle image de la rue avec beaucoup de choses"),
    ("fr", "Dessin gratuit à imprimer pour les enfants"),
    ("es", "Una imagen muy bonita de la casa de mi abuela"),
    ("it", "Una bella giornata in campagna con tutta la famiglia"),
    ("ru", "Красивая картинка для детей"),
    ("ja", "夏休みの楽しい思い出のイラスト"),
)


@dataclass(frozen=True, kw_only=True)
class CaptionConfig:
    """Probabilities for writing a caption, each in [0, 1]."""

    whole_p: float = 0.45  # for each kind of whole in the scene
    part_p: float = 0.03  # for each kind of part
    synonym_p: float = 0.25
    brand_p: float = 0.2  # a caption uses a brand instead of the noun for one object
    noise_p: float = 0.2
    wrong_p: float = 0.05  # a caption names something that is not there
    foreign_p: float = 0.02
    unsafe_p: float = 0.02

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if not 0 <= value <= 1:
                raise InvalidInput(f"{name} must be in [0, 1], got {value}")


DEFAULT_CAPTIONS = CaptionConfig()


@dataclass(frozen=True)
class Caption:
    """An alt text with LAION's columns for it.

    `named`: labels of the scene that the text contains, as noun or synonym (a brand does not
    count). `wrong`: nouns in the text that the scene does not show.
    """

    text: str
    language: str  # LAION's LANGUAGE: "en", "de", ...
    nsfw: str  # LAION's NSFW: "UNLIKELY", "UNSURE" or "NSFW"
    punsafe: float  # in [0, 1]
    named: tuple[str, ...]
    wrong: tuple[str, ...] = ()

    @property
    def is_droppable(self) -> bool:
        """True if the default filters must drop the row."""
        return self.language != "en" or self.nsfw != "UNLIKELY"


def write_caption(
    scene: Scene,
    classes: Sequence[GlyphClass],
    *,
    seed: int,
    config: CaptionConfig = DEFAULT_CAPTIONS,
) -> Caption:
    """Write one caption of a scene; the same scene, seed and config give the same text.

    `classes` gives the synonyms, and the nouns from which a wrong one is drawn.
    """
    rng = np.random.default_rng((seed, 0xCA7))  # another stream than the scene's
    synonyms = {each.noun: each.synonyms for each in classes}
    if rng.random() < config.foreign_p:
        language, text = FOREIGN[int(rng.integers(len(FOREIGN)))]
        return Caption(text, language, "UNLIKELY", _low_punsafe(rng), named=())

    words, named = _spoken_words(scene, synonyms, rng=rng, config=config)
    wrong: tuple[str, ...] = ()
    if rng.random() < config.wrong_p:
        shown = {each.label for each in scene.objects}
        absent = [each.noun for each in classes if each.noun not in shown]
        if absent:
            wrong = (_pick(absent, rng),)
            words.append(with_article(wrong[0]))
    words = [words[index] for index in rng.permutation(len(words))]
    things = join_words(words)
    # The filters drop captions of one or two words, so a bare 'a car' always gets a longer frame.
    frames = FRAMES if len(things.split()) > 2 else FRAMES[2:]
    text = _pick(frames if words else EMPTY_FRAMES, rng).format(
        things=things,
        setting=SETTINGS.get(scene.theme, "in a picture"),
        place=_pick(PLACES, rng),
        adjective=_pick(ADJECTIVES, rng),
    )
    if rng.random() < config.noise_p:
        text = f"{text} {_pick(NOISE, rng)}"
    if rng.random() < 0.5:
        text = text[0].upper() + text[1:]
    if rng.random() < config.unsafe_p:
        return Caption(text, "en", "NSFW", round(float(rng.uniform(0.6, 1)), 4), named, wrong)
    return Caption(text, "en", "UNLIKELY", _low_punsafe(rng), named, wrong)


def _spoken_words(
    scene: Scene,
    synonyms: Mapping[str, tuple[str, ...]],
    *,
    rng: np.random.Generator,
    config: CaptionConfig,
) -> tuple[list[str], tuple[str, ...]]:
    """Choose the objects to mention -> (words, labels named by them)."""
    counts = Counter(each.label for each in scene.objects if not each.is_part)
    brand_left = rng.random() < config.brand_p
    words: list[str] = []
    named: list[str] = []
    for label, count in counts.items():
        if rng.random() >= config.whole_p:
            continue
        if brand_left:
            words.append(f"{_pick(BRANDS, rng)} {_pick(BRAND_TAILS, rng)}")
            brand_left = False
            continue
        word = label
        if synonyms.get(label) and rng.random() < config.synonym_p:
            word = _pick(synonyms[label], rng)
        words.append(plural(word) if count > 1 else with_article(word))
        named.append(label)
    parts = dict.fromkeys(each.label for each in scene.objects if each.is_part)
    for label in parts:
        if label not in named and rng.random() < config.part_p:
            words.append(with_article(label))
            named.append(label)
    return words, tuple(named)


def plural(noun: str) -> str:
    """Return the plural of an English noun: 'police cars', 'bunches of flowers'."""
    head, of, rest = noun.partition(" of ")
    *before, last = head.split(" ")
    return " ".join([*before, _plural_word(last)]) + of + rest


def _plural_word(word: str) -> str:
    if word in UNCOUNTED or word in SAME_PLURAL:
        return word
    if word in IRREGULAR_PLURALS:
        return IRREGULAR_PLURALS[word]
    if word.endswith(("s", "x", "z", "ch", "sh")):
        return f"{word}es"
    if word.endswith("y") and word[-2:-1] not in "aeiou":
        return f"{word[:-1]}ies"
    return f"{word}s"


def with_article(noun: str) -> str:
    """Prefix an indefinite article: 'a car', 'an apple', but 'scissors'."""
    if noun.split(" ")[-1] in UNCOUNTED:
        return noun
    # 'a unicorn', 'a UFO', 'a ukulele': spelled with a vowel, pronounced with a consonant.
    starts_with_vowel = noun[0] in "aeiou" and not noun.startswith(("uni", "ufo", "uk", "eu"))
    return f"{'an' if starts_with_vowel else 'a'} {noun}"


def join_words(words: Sequence[str]) -> str:
    """Join words to a list: 'a car', 'a car and a tree', 'a car, a tree and a dog'."""
    if len(words) < 2:
        return "".join(words)
    return f"{', '.join(words[:-1])} and {words[-1]}"


def _pick(choices: Sequence[str], rng: np.random.Generator) -> str:
    return choices[int(rng.integers(len(choices)))]


def _low_punsafe(rng: np.random.Generator) -> float:
    """Draw LAION's unsafe probability of a harmless picture: nearly always below .02."""
    return round(float(rng.beta(1, 200)), 4)
