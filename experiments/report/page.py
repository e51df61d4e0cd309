"""The comparison as markdown tables: a page beside the JSON, and the part for the README."""

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from experiments.sources import CUMULATIVE, SOURCES, WITHOUT
from unspoken.runs.dataset.markdown import table

Result = Mapping[str, Any]
"""The return value of `experiments.proposals.compare_proposals`."""
Triple = Sequence[float | None]
"""A value and its 95 % interval."""

_ABOUT = """# Which source of phrases finds what captions leave out

`unspoken reproduce proposals`: {pictures} pictures of {collection}, seed {seed}, with {llm} and
{detector}.

An *unnamed* object is in the truth, but the caption does not name it. *At the rate*: with
the lowest thresholds at which the source's own decoys put its false-discovery rate at {fdr:.0%} or
less. Intervals are 95 % bootstraps over pictures; a difference has its own interval.
docs/explanation/proposals-experiment.md of the project explains how to read the tables, and what
they cannot show.
"""
_ANSWERS = (
    *("B5 - B1", "B5 - B2", "B5 - C1", "B5 - C2"),
    *("B5all - B1", "B5all - B2", "B5all - C1all", "C3 - B5"),
)
_FOUND = {
    "recall .5": "recall_50",
    "recall .75": "recall_75",
    "AR": "average_recall",
    "any label .5": "agnostic_recall_50",
    "any label .75": "agnostic_recall_75",
    "any label AR": "agnostic_average_recall",
    "named .5": "named_recall_50",
    "unnamed .5": "unnamed_recall_50",
    "unnamed AR": "unnamed_average_recall",
    "parts .5": "part_recall_50",
    "box precision": "box_precision_50",
    "of implied boxes": "unnamed_box_precision_50",
    "found phrases right": "found_phrase_precision",
    "boxes": "boxes_per_picture",
    "labels": "labels_per_picture",
}
_PROPOSED = {
    "queries": "queries_per_picture",
    "labels asked, exact": "label_recall_exact",
    "with synonyms": "label_recall",
    "with hypernyms": "label_recall_hypernym",
    "unnamed labels": "unnamed_label_recall",
    "labels of parts": "part_label_recall",
    "phrases right": "phrase_precision",
}
_RICHNESS = {
    "Zipf exponent": "zipf_exponent",
    "entropy, bits": "entropy_bits",
    "Gini": "gini",
    "no caption names": "labels_absent_from_captions",
}
_COST = {
    "tokens written": "lm_tokens_per_picture",
    "queries": "queries_per_picture",
    "detector passes, at least": "detector_passes_per_picture",
}


def render_page(result: Result, plots: Iterable[str]) -> str:
    """Render the page as markdown; `plots`: names of image files beside it."""
    about = _ABOUT.format(
        pictures=result["pictures"],
        collection=result["collection"],
        seed=result["config"]["seed"],
        llm=result["versions"]["llm"]["name"],
        detector=result["versions"]["detector"]["name"],
        fdr=result["config"]["false_discovery_rate"],
    )
    sections = {
        "The answer": f"{main_table(result)}\n{answer(result)}",
        "Differences": _differences(result),
        "At the rate": _setting(result, "equal_fdr"),
        "At the product's fixed thresholds": _setting(result, "fixed"),
        "What is proposed, before any detector": _proposed(result),
        "All templates but one, and one after another": _templates(result),
        "Labels of the boxes, at the rate": _richness(result),
        "Cost a picture": _cost(result),
        "Effect of the shared query": _query_sharing(result),
    }
    texts = [f"## {title}\n\n{text}" for title, text in sections.items()]
    pictures = "\n\n".join(f"![{name}]({name})" for name in plots)
    return "\n".join([about, *texts, pictures]) + "\n"


def main_table(result: Result) -> str:
    """Render a table with one row per source: its queries, and its recall of unnamed objects."""
    header = (
        *("source", "queries", "unnamed labels asked", "unnamed objects found"),
        *("found phrases right", "at fixed thresholds", "with B5's number of queries"),
    )
    at_rate, fixed = result["figures"]["equal_fdr"], result["figures"]["fixed"]
    lines = []
    for source in SOURCES:
        figures, equal = at_rate[source.name], fixed.get(f"{source.name}=")
        lines.append(
            (
                f"{source.name} {source.title}",
                value_of(figures["queries_per_picture"], 1),
                value_of(figures["unnamed_label_recall"]),
                interval_of(figures["unnamed_recall_50"]),
                value_of(figures["found_phrase_precision"]),
                value_of(fixed[source.name]["unnamed_recall_50"]),
                value_of(equal["unnamed_recall_50"]) if equal else "-",
            )
        )
    return table(header, lines)


def answer(result: Result) -> str:
    """Render the question and its answer in words, derived from the intervals."""
    differences = result["differences"]["equal_fdr"]
    rate = result["config"]["false_discovery_rate"]
    lines = [f"Difference of the unnamed objects found at a false-discovery rate of {rate:.0%}:\n"]
    for pair in _ANSWERS:
        difference = differences[pair]["unnamed_recall_50"]
        lines.append(f"* {pair}: {interval_of(difference, signed=True)}, {_verdict(difference)}")
    return "\n".join(lines) + "\n"


def value_of(triple: Triple, places: int = 3) -> str:
    """Format the value of a figure; '-' if it is missing."""
    return _number(triple[0], places)


def interval_of(triple: Triple, *, signed: bool = False) -> str:
    """Format a figure with its interval; '-' if it is missing."""
    value, low, high = (_number(each, 3, signed=signed) for each in triple)
    return value if value == "-" else f"{value} ({low} to {high})"


def _verdict(difference: Triple) -> str:
    _, low, high = difference
    if _is_absent(low) or _is_absent(high):
        return "not known"
    assert low is not None and high is not None
    if low > 0:
        return "more"
    return "fewer" if high < 0 else "not significant"


def _differences(result: Result) -> str:
    header = (
        *("difference", "unnamed objects, fixed thresholds", "unnamed objects, at the rate"),
        *("all objects, at the rate", "box precision, at the rate"),
    )
    fixed, at_rate = result["differences"]["fixed"], result["differences"]["equal_fdr"]
    lines = []
    for pair in at_rate:
        chosen = (
            fixed[pair]["unnamed_recall_50"],
            at_rate[pair]["unnamed_recall_50"],
            at_rate[pair]["recall_50"],
            at_rate[pair]["box_precision_50"],
        )
        lines.append((pair, *(interval_of(each, signed=True) for each in chosen)))
    about = (
        "Sources whose name ends in `=` have exactly B5's number of queries per picture: longer "
        "lists are cut, shorter ones are filled up with random labels.\n"
    )
    return f"{about}\n{table(header, lines)}"


def _setting(result: Result, setting: str) -> str:
    chosen = {"source", "equal"}
    lines = [
        (name, *(value_of(figures[each]) for each in _FOUND.values()))
        for name, figures in result["figures"][setting].items()
        if result["sources"][name]["group"] in chosen
    ]
    return table(("source", *_FOUND), lines)


def _proposed(result: Result) -> str:
    figures = result["figures"]["equal_fdr"]
    lines = [
        (
            f"{each.name} {each.title}",
            *(value_of(figures[each.name][figure]) for figure in _PROPOSED.values()),
        )
        for each in SOURCES
    ]
    return table(("source", *_PROPOSED), lines)


def _templates(result: Result) -> str:
    header = ("templates", "queries", "unnamed labels asked", "phrases right", "unnamed found")
    shown = [("B2", "none: the caption's nouns"), ("B5all", "all eight")]
    shown += [(each.name, each.title) for each in (*WITHOUT, *CUMULATIVE)]
    lines = []
    for name, title in shown:
        figures = result["figures"]["equal_fdr"][name]
        lines.append(
            (
                title,
                value_of(figures["queries_per_picture"], 1),
                interval_of(figures["unnamed_label_recall"]),
                value_of(figures["phrase_precision"]),
                interval_of(figures["unnamed_recall_50"]),
            )
        )
    return table(header, lines)


def _richness(result: Result) -> str:
    lines = []
    for name, row in result["richness"]["equal_fdr"].items():
        rarefied = f"{_number(row['rarefied_labels'], 1)} of {row['rarefied_to']}"
        figures = (_number(row[each], 3) for each in _RICHNESS.values())
        lines.append((name, row["boxes"], row["labels"], rarefied, *figures))
    return table(("source", "boxes", "labels", "labels among so many boxes", *_RICHNESS), lines)


def _cost(result: Result) -> str:
    lines = [
        (name, *(_number(row[each], 1) for each in _COST.values()))
        for name, row in result["cost"]["sources"].items()
    ]
    seconds = ", ".join(f"{stage} {value}" for stage, value in result["seconds"].items())
    worked = ", ".join(f"{stage} {value}" for stage, value in result["cpu_seconds"].items())
    return f"{table(('source', *_COST), lines)}\nSeconds: {seconds}. CPU seconds: {worked}.\n"


def _query_sharing(result: Result) -> str:
    header = ("source", "phrases", "mean difference", "mean absolute", "across the threshold")
    lines = [
        (
            name,
            row["phrases"],
            _number(row["mean_difference"], 3, signed=True),
            _number(row["mean_absolute_difference"], 3),
            _number(row["share_across_threshold"], 3),
        )
        for name, row in result["query_sharing"].items()
    ]
    about = (
        "All sources but B4 share one query per picture. Differences of the best scores if a "
        "source is queried by itself, on the first pictures:\n"
    )
    return f"{about}\n{table(header, lines)}"


def _number(value: float | None, places: int, *, signed: bool = False) -> str:
    if _is_absent(value):
        return "-"
    return f"{value:+.{places}f}" if signed else f"{value:.{places}f}"


def _is_absent(value: float | None) -> bool:
    return value is None or math.isnan(value)
