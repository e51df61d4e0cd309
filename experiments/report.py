"""What was measured as files: JSON with everything, a page with tables, plots."""

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from experiments.figures import draw_cumulative, draw_fdr, draw_type_token
from experiments.sources import ALL_TEMPLATES, CUMULATIVE, SOURCES, WITHOUT
from unspoken.errors import InvalidInput
from unspoken.runs.markdown import table

JSON_FILE, PAGE_FILE = "proposals.json", "proposals.md"
FDR_PLOT, CUMULATIVE_PLOT, TYPE_TOKEN_PLOT = (
    "unnamed-against-fdr.png",
    "templates-one-by-one.png",
    "type-token.png",
)
BEGIN, END = "<!-- proposals:begin -->", "<!-- proposals:end -->"

Result = Mapping[str, Any]

_ABOUT = """# Which source of phrases finds what captions leave out

`unspoken reproduce proposals` on {pictures} pictures of {collection}, seed {seed}; {llm} and
{detector}. An *unnamed* object is one that the truth holds and the caption does not name. Columns at
a false-discovery rate use, for each source, the lowest thresholds at which its own decoys put the
rate at {fdr:.0%} or less. Intervals are 95 % bootstraps over pictures, of the difference itself where it is
one. docs/experiments.md of the project says how to read this, and what it cannot show.
"""


def write_report(result: Result, out: Path) -> list[Path]:
    """Write every file into `out` -> their paths. The plots show what the JSON holds."""
    out.mkdir(parents=True, exist_ok=True)
    clean = _without_nan(result)
    (out / JSON_FILE).write_text(json.dumps(clean, indent=1) + "\n", encoding="utf-8")
    (out / PAGE_FILE).write_text(render_page(clean), encoding="utf-8")
    draw_fdr(
        {
            name: [(p["wanted_fdr"], p["unnamed_recall_50"] or 0.0) for p in points]
            for name, points in clean["fdr_curves"].items()
        },
        out / FDR_PLOT,
        wanted_fdr=clean["config"]["wanted_fdr"],
    )
    draw_cumulative(_cumulative(clean), out / CUMULATIVE_PLOT)
    draw_type_token(
        {
            name: clean["richness"]["equal_fdr"][name]["type_token"]
            for name in clean["fdr_curves"]
            if name in clean["richness"]["equal_fdr"]
        },
        out / TYPE_TOKEN_PLOT,
    )
    names = (JSON_FILE, PAGE_FILE, FDR_PLOT, CUMULATIVE_PLOT, TYPE_TOKEN_PLOT)
    return [out / name for name in names]


def render_page(result: Result) -> str:
    """The page as markdown."""
    about = _ABOUT.format(
        pictures=result["pictures"],
        collection=result["collection"],
        seed=result["config"]["seed"],
        llm=result["versions"]["llm"]["name"],
        detector=result["versions"]["detector"]["name"],
        fdr=result["config"]["wanted_fdr"],
    )
    sections = [
        about,
        "## The answer\n\n" + main_table(result) + "\n" + answer(result),
        "## Differences\n\n" + _differences(result),
        "## At the product's fixed thresholds\n\n" + _setting(result, "fixed"),
        "## At one false-discovery rate\n\n" + _setting(result, "equal_fdr"),
        "## What is proposed, before any detector\n\n" + _proposed(result),
        "## Without one template, and one after another\n\n" + _templates(result),
        "## Labels of the boxes, at one false-discovery rate\n\n" + _richness(result),
        "## Company, and cost\n\n" + _company_and_cost(result),
    ]
    plots = [f"![{name}]({name})" for name in (FDR_PLOT, CUMULATIVE_PLOT, TYPE_TOKEN_PLOT)]
    return "\n".join([*sections, *plots, ""])


def main_table(result: Result) -> str:
    """The table that the README carries: a line a source."""
    header = (
        "source", "queries", "unnamed labels asked", "unnamed objects found", "phrases found right",
        "the same, fixed thresholds", "with B5's number of queries",
    )  # fmt: skip
    at_fdr, fixed = result["figures"]["equal_fdr"], result["figures"]["fixed"]
    lines = []
    for source in SOURCES:
        name, equal = source.name, f"{source.name}="
        lines.append(
            (
                f"{name} {source.title}",
                _number(at_fdr[name]["queries_per_picture"]),
                _share(at_fdr[name]["unnamed_label_recall"]),
                _interval(at_fdr[name]["unnamed_recall_50"]),
                _share(at_fdr[name]["found_phrase_precision"]),
                _share(fixed[name]["unnamed_recall_50"]),
                _share(fixed[equal]["unnamed_recall_50"]) if equal in fixed else "-",
            )
        )
    return table(header, lines)


def answer(result: Result) -> str:
    """The question and what came out of it, in words that follow from the intervals."""
    differences = result["differences"]["equal_fdr"]
    lines = ["Unnamed objects found at that rate, and their difference:\n"]
    for pair in (
        "B5 - B1",
        "B5 - B2",
        "B5 - C1",
        "B5 - C2",
        "B5all - B2",
        "B5all - C1all",
        "C3 - B5",
    ):
        value, low, high = differences[pair]["unnamed_recall_50"]
        lines.append(
            f"* {pair}: {_signed(value)} ({_signed(low)} to {_signed(high)}): {_verdict(low, high)}."
        )
    return "\n".join(lines) + "\n"


def put_into(readme: Path, result: Result) -> None:
    """Put table and answer between the marks of a page. Raises InvalidInput without the marks."""
    text = readme.read_text(encoding="utf-8")
    if text.count(BEGIN) != 1 or text.count(END) != 1 or text.index(BEGIN) > text.index(END):
        raise InvalidInput(f"{readme} must hold {BEGIN} and then {END}, each once")
    before, rest = text.split(BEGIN)
    clean = _without_nan(result)
    readme.write_text(
        f"{before}{BEGIN}\n{main_table(clean)}\n{answer(clean)}{END}{rest.split(END)[1]}",
        encoding="utf-8",
    )


def _verdict(low: float | None, high: float | None) -> str:
    if low is None or high is None:
        return "not known"
    if low > 0:
        return "more"
    return "fewer" if high < 0 else "no difference that these pictures can tell"


def _differences(result: Result) -> str:
    header = ("difference", "unnamed objects, fixed", "unnamed objects, at the rate", "all objects, at the rate",
              "box precision, at the rate")  # fmt: skip
    fixed, at_fdr = result["differences"]["fixed"], result["differences"]["equal_fdr"]
    lines = [
        (
            pair,
            _interval(fixed[pair]["unnamed_recall_50"], signed=True),
            _interval(at_fdr[pair]["unnamed_recall_50"], signed=True),
            _interval(at_fdr[pair]["recall_50"], signed=True),
            _interval(at_fdr[pair]["box_precision_50"], signed=True),
        )
        for pair in at_fdr
    ]
    about = "Names that end in `=` are held to B5's number of queries, with random labels where theirs do not suffice.\n"
    return f"{about}\n{table(header, lines)}"


def _setting(result: Result, setting: str) -> str:
    header = ("source", "recall .5", "recall .75", "AR", "any label .5", "any label AR", "named .5", "unnamed .5",
              "unnamed AR", "parts .5", "box precision", "implied box precision", "phrases found right",
              "boxes", "labels")  # fmt: skip
    names = (
        "recall_50", "recall_75", "average_recall", "agnostic_recall_50", "agnostic_average_recall",
        "named_recall_50", "unnamed_recall_50", "unnamed_average_recall", "part_recall_50",
        "box_precision_50", "unnamed_box_precision_50", "found_phrase_precision",
    )  # fmt: skip
    figures = result["figures"][setting]
    lines = []
    for name in figures:
        if name in {each.name for each in (*SOURCES,)} or name.endswith("="):
            shares = [_share(figures[name][figure]) for figure in names]
            numbers = [
                _number(figures[name][figure])
                for figure in ("boxes_per_picture", "labels_per_picture")
            ]
            lines.append((name, *shares, *numbers))
    return table(header, lines)


def _proposed(result: Result) -> str:
    header = ("source", "queries", "labels asked, exact", "with synonyms", "unnamed labels", "labels of parts",
              "phrases right")  # fmt: skip
    figures = result["figures"]["fixed"]
    lines = [
        (
            f"{each.name} {each.title}",
            _number(figures[each.name]["queries_per_picture"]),
            *(
                _share(figures[each.name][figure])
                for figure in (
                    "label_recall_exact",
                    "label_recall",
                    "unnamed_label_recall",
                    "part_label_recall",
                    "phrase_precision",
                )  # fmt: skip
            ),
        )
        for each in SOURCES
    ]
    about = "Matches by hypernym are not told: the lexicon holds none.\n"
    return f"{about}\n{table(header, lines)}"


def _templates(result: Result) -> str:
    header = (
        "templates",
        "queries",
        "unnamed labels asked",
        "phrases right",
        "unnamed objects found, at the rate",
    )
    figures = result["figures"]["equal_fdr"]
    named = [("B2", "none: the caption's nouns"), ("B5all", "all eight")]
    named += [(each.name, each.title) for each in (*WITHOUT, *CUMULATIVE)]
    lines = [
        (
            title,
            _number(figures[name]["queries_per_picture"]),
            _interval(figures[name]["unnamed_label_recall"]),
            _share(figures[name]["phrase_precision"]),
            _interval(figures[name]["unnamed_recall_50"]),
        )
        for name, title in named
    ]
    return table(header, lines)


def _richness(result: Result) -> str:
    header = ("source", "boxes", "labels", "labels among so many boxes", "Zipf exponent", "entropy, bits", "Gini",
              "labels that no caption names")  # fmt: skip
    lines = []
    for name, row in result["richness"]["equal_fdr"].items():
        rarefied = f"{_plain(row['rarefied_labels'], 1)} of {row['rarefied_to']}"
        exponents = (_plain(row[key], 2) for key in ("zipf_exponent", "entropy_bits", "gini"))
        absent = _plain(row["labels_absent_from_captions"], 3)
        lines.append((name, row["boxes"], row["labels"], rarefied, *exponents, absent))
    return table(header, lines)


def _company_and_cost(result: Result) -> str:
    header = (
        "source",
        "tokens written a picture",
        "queries a picture",
        "detector passes, at least",
    )
    lines = [
        (
            name,
            _plain(row["lm_tokens_per_picture"], 1),
            _plain(row["queries_per_picture"], 1),
            _plain(row["detector_passes_per_picture"], 2),
        )
        for name, row in result["cost"]["sources"].items()
    ]
    company, seconds = result["company"], result["seconds"]
    about = (
        f"All sources but B4 share one question a picture. Asked by themselves, {company['phrases']} phrases of "
        f"the first pictures scored {_signed(company.get('mean_difference'))} on average and "
        f"{_plain(company.get('mean_absolute_difference'), 3)} in absolute terms from what they scored there; "
        f"{_plain(company.get('share_across_threshold'), 3)} of them crossed the fixed threshold.\n\n"
        f"Seconds: {', '.join(f'{stage} {value}' for stage, value in seconds.items())}.\n"
    )
    return f"{about}\n{table(header, lines)}"


def _cumulative(result: Result) -> dict[str, Sequence[tuple[float, float]]]:
    names = ["B2", *(each.name for each in CUMULATIVE)]
    curves = {
        "unnamed labels asked": "unnamed_label_recall",
        "unnamed objects found, at the rate": "unnamed_recall_50",
    }
    assert len(names) == len(ALL_TEMPLATES) + 1
    return {
        title: [
            (float(number), result["figures"]["equal_fdr"][name][figure][0] or 0.0)
            for number, name in enumerate(names)
        ]
        for title, figure in curves.items()
    }


def _interval(interval: Sequence[float | None], *, signed: bool = False) -> str:
    show = _signed if signed else lambda value: _plain(value, 3)
    value, low, high = interval
    return "-" if value is None else f"{show(value)} ({show(low)} to {show(high)})"


def _share(interval: Sequence[float | None]) -> str:
    return _plain(interval[0], 3)


def _number(interval: Sequence[float | None]) -> str:
    return _plain(interval[0], 1)


def _signed(value: float | None) -> str:
    return "-" if value is None else f"{value:+.3f}"


def _plain(value: float | None, places: int) -> str:
    return "-" if value is None else f"{value:.{places}f}"


def _without_nan(value: Any) -> Any:
    """JSON has no NaN: None instead, in whatever is nested."""
    if isinstance(value, Mapping):
        return {key: _without_nan(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_without_nan(each) for each in value]
    if isinstance(value, float) and math.isnan(value):
        return None
    return value
