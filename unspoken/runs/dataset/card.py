"""The dataset card: counts of a dataset, rows left out with their reasons, and plots."""

from collections.abc import Mapping
from pathlib import Path

from unspoken.runs import storage
from unspoken.runs.dataset.bias_page import BIAS_FILE, render_bias_page
from unspoken.runs.dataset.false_discovery import SCORE_GRID, SOURCES, ChosenThresholds, Decision
from unspoken.runs.dataset.manifest import DatasetCounts
from unspoken.runs.dataset.markdown import percent, plain, table
from unspoken.runs.dataset.plots import Curve, bar_plot, rate_plot, zipf_plot
from unspoken.runs.dataset.row_picture import SHEET_FILE
from unspoken.runs.notice import describe_limits
from unspoken.runs.plan import Plan

CARD_FILE = "README.md"
ZIPF_FILE, PER_PICTURE_FILE = "label-frequencies.svg", "labels-per-picture.svg"
FDR_FILE = "false-discoveries.svg"
"""Plot that exists only if the run's decoys chose its thresholds."""
BESIDE_CARD = (SHEET_FILE, ZIPF_FILE, PER_PICTURE_FILE, BIAS_FILE)
"""Files that the card shows or links to."""
MAX_LABELS_LISTED = 200

_KINDS = ("llm", "detector", "text_encoder")


def write_card(
    dataset_dir: Path,
    plan: Plan,
    counts: DatasetCounts,
    decision: Decision | None = None,
    *,
    notice: str = "",
) -> None:
    """Write README.md beside the shards, with its plots and the bias page."""
    boxes = [_boxes(counts, label) for label in counts.labels]
    per_picture = bar_plot(
        counts.labels_per_picture,
        title="Labels per picture",
        across="distinct labels in a picture",
        up="pictures",
    )
    for name, text in (
        (ZIPF_FILE, zipf_plot(boxes)),
        (PER_PICTURE_FILE, per_picture),
        (BIAS_FILE, render_bias_page(counts)),
    ):
        storage.replace(dataset_dir / name, text.encode())
    if decision is not None:
        storage.replace(dataset_dir / FDR_FILE, _fdr_plot(decision).encode())
    chosen = None if decision is None else decision.chosen
    card = render_card(plan, counts, chosen, notice=notice)
    storage.replace(dataset_dir / CARD_FILE, card.encode())


def render_card(
    plan: Plan,
    counts: DatasetCounts,
    chosen: ChosenThresholds | None = None,
    *,
    notice: str = "",
) -> str:
    """Return the card as markdown.

    chosen: thresholds that the run's decoys chose. notice: shown at the top.
    """
    # Use a fixed order, because the plan's order changes once it is read from its file.
    answering = [plan.models[kind] for kind in _KINDS if kind in plan.models]
    models = [f"`{model.name}` ({model.revision})" for model in answering]
    limits = describe_limits(model.revision for model in answering if model.kind == "detector")
    sections = [
        f"# Dataset of run {plan.run_id}\n",
        f"**Notice:** {plain(notice)}\n" if notice else "",
        "Boxes of objects that captions name, and of objects that they omit. A label is *named* if "
        "its noun or a synonym occurs in the caption, else *implied*. Labels were proposed by a "
        "language model and located by a detector; no person checked them. Fields and units: "
        "docs/reference/dataset-format.md of the project.\n",
        f"Models: {', '.join(models)}. Boxes are kept from a score of {_thresholds(plan, chosen)}."
        f"{_crop_check(plan)}\n",
        f"**{limits}.**\n" if limits else "",
        f"![contact sheet]({SHEET_FILE})\n",
        "## Counts\n",
        table(
            ("what", "number"),
            [
                ("rows", counts.rows),
                ("labelled", counts.labelled),
                ("dropped by a filter", counts.dropped.total()),
                ("failed", counts.failed.total()),
                ("annotations", counts.annotations),
                ("of these implied", counts.label_implied.total()),
                ("share implied", percent(counts.implied_share)),
                ("distinct labels", len(counts.labels)),
                ("labels per labelled picture, mean", _mean_labels(counts)),
                ("phrases asked", counts.candidates_asked),
                ("phrases found", counts.candidates_found),
                ("phrases absent (hard negatives)", counts.negatives.total()),
            ],
        ),
        _reasons("Dropped rows", counts.dropped),
        _reasons("Failed rows", counts.failed),
        _reasons("Rejected phrases", counts.rejected),
        _reasons("Boxes not kept", counts.not_kept),
        _decoys(counts) if chosen is None else _false_discoveries(plan, chosen),
        f"## Bias\n\nLabels that the language model proposes but that are absent, by label and by "
        f"noun of the caption: [{BIAS_FILE}]({BIAS_FILE}).\n",
        f"## Distributions\n\n![boxes per label, by rank]({ZIPF_FILE})\n\n"
        f"![labels per picture]({PER_PICTURE_FILE})\n",
        _labels(counts),
    ]
    return "\n".join(section for section in sections if section)


def _decoys(counts: DatasetCounts) -> str:
    if not counts.decoys_asked:
        return ""
    return (
        "## False detections\n\n"
        f"The detector also got {counts.decoys_asked.total()} decoys, which are phrases that were "
        f"not proposed. It found {counts.decoys_answered.total()} of them: decoy rate "
        f"{percent(counts.false_answer_rate)}. The estimated false-discovery rate of labels is "
        f"{percent(counts.false_discovery_rate)}.\n"
    )


def _thresholds(plan: Plan, chosen: ChosenThresholds | None) -> str:
    if chosen is not None:
        return "their source's threshold, chosen by decoys (see False discoveries)"
    config = plan.config
    return f"{config.named_threshold:.3g} ({config.implied_margin:+.3g} if implied)"


def _crop_check(plan: Plan) -> str:
    config = plan.config
    if not config.options.crop_check:
        return ""
    return (
        " Of these, only boxes are kept whose label has a rank of at most "
        f"{config.max_clip_rank} for the content of the box, by the image tower of the text "
        "encoder's model, among the picture's candidates and up to "
        f"{config.num_random_labels} random nouns."
    )


def _false_discoveries(plan: Plan, chosen: ChosenThresholds) -> str:
    """Return the section on each source's threshold and the limits of the estimate."""
    lines = [
        (
            each.source,
            "none: no box is kept" if each.threshold is None else f"{each.threshold:.3f}",
            each.phrases,
            each.found,
            each.decoys_found,
            percent(each.false_discovery_rate),
        )
        for each in chosen.sources
    ]
    header = ("source", "threshold", "phrases", "found", "decoys found", "false-discovery rate")
    whose = "" if chosen.run_id == plan.run_id else f" of run {chosen.run_id}, which this completes"
    return (
        "## False discoveries\n\n"
        f"The detector also got {chosen.decoys} decoys{whose}, which are phrases that were not "
        "proposed. Each source has the lowest threshold with an estimated false-discovery rate of "
        f"at most {percent(chosen.false_discovery_rate)}: the share of decoys found, divided by "
        "the share of the source's phrases found. No threshold is lower than "
        f"{chosen.stored_from:.3g}, the lowest score of stored boxes. Source `part` has phrases "
        "that were proposed only as parts of a noun. Decoys do not measure inaccurate boxes, "
        "duplicate boxes, and objects that resemble the proposed one, so more boxes are wrong than "
        "this estimate says.\n\n"
        + table(header, lines)
        + f"\n![estimated false-discovery rate, by threshold]({FDR_FILE})\n"
    )


def _fdr_plot(decision: Decision) -> str:
    thresholds = decision.chosen.by_source()
    curves = []
    for source in SOURCES:
        rates = decision.tally.rates(source)
        points = [
            (at, float(rate)) for at, rate in zip(SCORE_GRID, rates, strict=True) if rate == rate
        ]
        stored = [point for point in points if point[0] >= decision.chosen.stored_from - 1e-3]
        curves.append(Curve(source, stored, chosen=thresholds[source]))
    return rate_plot(
        curves,
        limit=decision.chosen.false_discovery_rate,
        title="Estimated false-discovery rate, by threshold",
        across="threshold",
        up="estimated false-discovery rate",
    )


def _labels(counts: DatasetCounts) -> str:
    """Return the table of labels: box counts with bars, and false answers to each as a decoy."""
    only_decoys = sorted(set(counts.decoys_answered) - set(counts.labels))
    labels = counts.labels + [label for label in only_decoys if counts.decoys_answered[label]]
    most = max((_boxes(counts, label) for label in labels), default=0)
    lines = []
    for label in labels[:MAX_LABELS_LISTED]:
        boxes, implied = _boxes(counts, label), counts.label_implied[label]
        asked, answered = counts.decoys_asked[label], counts.decoys_answered[label]
        bar = "#" * round(20 * boxes / most) if most else ""
        share = percent(implied / boxes) if boxes else ""
        false = f"{answered} of {asked}" if asked else ""
        lines.append((label, boxes, bar, share, false))
    more = len(labels) - len(lines)
    rest = f"\n{more} more labels are in the shards.\n" if more > 0 else ""
    header = ("label", "boxes", "", "implied share", "found as a decoy")
    return "## Labels\n\n" + table(header, lines) + rest


def _mean_labels(counts: DatasetCounts) -> str:
    pictures = counts.labels_per_picture.total()
    labels = sum(number * times for number, times in counts.labels_per_picture.items())
    return f"{labels / pictures:.1f}" if pictures else "-"


def _boxes(counts: DatasetCounts, label: str) -> int:
    return counts.label_named[label] + counts.label_implied[label]


def _reasons(title: str, reasons: Mapping[str, int]) -> str:
    if not reasons:
        return ""
    ordered = sorted(reasons.items(), key=lambda item: (-item[1], item[0]))
    return f"## {title}\n\n" + table(("reason", "number"), ordered)
