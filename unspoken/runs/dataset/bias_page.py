"""The bias page beside the card: labels and pairs that the model proposes but that are absent."""

from unspoken.runs.dataset.bias import Pair, chance_rate, share_there
from unspoken.runs.dataset.manifest import DatasetCounts
from unspoken.runs.dataset.markdown import percent, table

BIAS_FILE = "bias.md"
MAX_LABELS, MAX_PAIRS_LISTED = 100, 50
MIN_PAIR_PICTURES = 5
"""A pair that was proposed for fewer pictures is not listed."""

_ABOUT = """# What the language model over-proposes

A language model names what usually goes with a caption, not what this picture shows. In the tables
below, a picture counts once for each label that the model proposed for it.

* *found*: the share of these pictures in which the detector found the label, at the run's threshold
  and without the margin of implied labels;
* *decoy rate*: how often the detector finds this label as a decoy, in pictures for which it was not
  proposed. If a label has few decoys, its rate is moved towards the rate of all decoys;
* *present (estimate)*: the found share, corrected by the decoy rate. It is too low if the detector
  misses objects of this label. It is too high if pictures show similar objects, because these
  cause more false detections than decoys do;
* *absent (estimate)*: the number of pictures for which the label was proposed but is absent.
"""


def render_bias_page(counts: DatasetCounts) -> str:
    """Return the page as markdown."""
    if not counts.bias.proposed:
        return f"{_ABOUT}\nThe model proposed nothing.\n"
    sections = [_ABOUT, _no_decoys(counts), _labels(counts), _pairs(counts)]
    return "\n".join(section for section in sections if section)


def _no_decoys(counts: DatasetCounts) -> str:
    if counts.decoys_asked:
        return ""
    return "This run used no decoys: the decoy rate is unknown and taken as 0.\n"


def _labels(counts: DatasetCounts) -> str:
    bias = counts.bias
    in_vain = {label: _in_vain(counts, label) for label in bias.proposed}
    worst = sorted(in_vain, key=lambda label: (-in_vain[label], label))
    lines = [_label_line(counts, label, in_vain[label]) for label in worst[:MAX_LABELS]]
    header: tuple[str, ...] = (
        "label", "proposed for", "share of pictures", "found", "decoy rate", "present (estimate)",
        "absent (estimate)", "implied share of its boxes",
    )  # fmt: skip
    if bias.judged:
        header = (*header, "present (ground truth)")
    left = len(worst) - len(lines)
    rest = f"\n{left} more labels have lower estimates.\n" if left > 0 else ""
    about = "Sorted by the number of pictures in which the label is absent."
    return f"## Labels\n\n{about}\n\n{table(header, lines)}{rest}"


def _label_line(counts: DatasetCounts, label: str, in_vain: float) -> tuple[object, ...]:
    bias = counts.bias
    proposed, found = bias.proposed[label], bias.found[label]
    chance = _chance(counts, label)
    implied = counts.label_implied[label]
    boxes = implied + counts.label_named[label]
    line: tuple[object, ...] = (
        label,
        proposed,
        percent(proposed / bias.pictures),
        percent(found / proposed),
        percent(chance if counts.decoys_asked else None),
        percent(share_there(proposed, found, chance=chance)),
        round(in_vain),
        percent(implied / boxes if boxes else None),
    )
    if bias.judged:
        judged = bias.judged[label]
        line = (*line, f"{bias.there[label]} of {judged}" if judged else "-")
    return line


def _pairs(counts: DatasetCounts) -> str:
    bias = counts.bias
    common = [pair for pair, number in bias.pair_proposed.items() if number >= MIN_PAIR_PICTURES]
    in_vain = {pair: _pair_in_vain(counts, pair) for pair in common}
    worst = sorted(common, key=lambda pair: (-in_vain[pair], pair))[:MAX_PAIRS_LISTED]
    if not worst:
        return (
            "## Pairs\n\nNo label was proposed together with the same noun for "
            f"{MIN_PAIR_PICTURES} pictures or more.\n"
        )
    lines = []
    for pair in worst:
        proposed, found = bias.pair_proposed[pair], bias.pair_found[pair]
        there = share_there(proposed, found, chance=_chance(counts, pair[1]))
        of_noun = proposed / bias.named[pair[0]]
        lift = f"{bias.lift(pair):.1f}"
        shares = (percent(of_noun), lift, percent(found / proposed), percent(there))
        lines.append((*pair, proposed, *shares, round(in_vain[pair])))
    header = (
        "noun of the caption", "label added", "proposed for", "share of the noun's pictures",
        "lift", "found", "present (estimate)", "absent (estimate)",
    )  # fmt: skip
    about = (
        "Labels that the model adds to a noun of the caption. *lift*: how many times as often it "
        "adds the label to this noun as to any caption. Only pairs proposed for at least "
        f"{MIN_PAIR_PICTURES} pictures, sorted by the number of pictures in which the label is "
        "absent."
    )
    return f"## Pairs\n\n{about}\n\n{table(header, lines)}"


def _chance(counts: DatasetCounts, label: str) -> float:
    if not counts.decoys_asked:
        return 0.0
    asked, answered = counts.decoys_asked[label], counts.decoys_answered[label]
    return chance_rate(asked, answered, overall=counts.false_answer_rate or 0.0)


def _in_vain(counts: DatasetCounts, label: str) -> float:
    """Estimate the number of pictures for which a label was proposed but is absent."""
    proposed, found = counts.bias.proposed[label], counts.bias.found[label]
    there = share_there(proposed, found, chance=_chance(counts, label))
    return proposed * (1 - there)


def _pair_in_vain(counts: DatasetCounts, pair: Pair) -> float:
    proposed, found = counts.bias.pair_proposed[pair], counts.bias.pair_found[pair]
    there = share_there(proposed, found, chance=_chance(counts, pair[1]))
    return proposed * (1 - there)
