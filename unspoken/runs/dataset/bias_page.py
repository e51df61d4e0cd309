"""The bias page beside the card: labels and pairs that the model proposes but that are absent."""

from unspoken.runs.dataset.bias import Pair, chance_rate, share_there
from unspoken.runs.dataset.manifest import DatasetCounts
from unspoken.runs.dataset.markdown import percent, table

BIAS_FILE = "bias.md"
MAX_LABELS, MAX_PAIRS_LISTED = 100, 50
MIN_PAIR_PICTURES = 5
"""A pair that was proposed for fewer pictures is not listed."""

_ABOUT = """# What the language model over-proposes

A language model names what usually goes with a caption, not what this picture shows. Below, a
picture counts once for each label that the model proposed for it.

* *found*: the detector gave it a box at the run's threshold, before the margin of implied boxes;
* *by chance*: how often the detector answers this label as a decoy, where nobody proposed it; few
  decoys of one label are drawn towards the rate of all;
* *there, about*: found, less what chance explains. It is too low for a word that the detector does
  not know, since an object that it misses is there all the same; too high where the picture has
  something like it, which deceives a detector more often than a decoy does;
* *in vain, about*: pictures for which it was proposed and is not there, by the same reckoning.
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
    return "This run asked no decoys: what chance explains is not known, and counts as nothing.\n"


def _labels(counts: DatasetCounts) -> str:
    bias = counts.bias
    in_vain = {label: _in_vain(counts, label) for label in bias.proposed}
    worst = sorted(in_vain, key=lambda label: (-in_vain[label], label))
    lines = [_label_line(counts, label, in_vain[label]) for label in worst[:MAX_LABELS]]
    header: tuple[str, ...] = (
        "label", "proposed for", "of pictures", "found", "by chance", "there, about",
        "in vain, about", "implied share of its boxes",
    )  # fmt: skip
    if bias.judged:
        header = (*header, "there, by the truth")
    left = len(worst) - len(lines)
    rest = f"\n{left} more labels were proposed in vain less often.\n" if left > 0 else ""
    return f"## Labels\n\nThe most often in vain first.\n\n{table(header, lines)}{rest}"


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
            "## Pairs\n\nNo label was proposed to the same noun for "
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
        "the caption names", "the model adds", "for", "of pictures of that noun", "times as often",
        "found", "there, about", "in vain, about",
    )  # fmt: skip
    about = (
        "What the model adds to a noun of the caption. *Times as often*: as it adds that label to "
        f"any caption. Pairs proposed for at least {MIN_PAIR_PICTURES} pictures, the most often in "
        "vain first."
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
