"""Results of the comparison: every source at every setting, with intervals."""

import math
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import asdict
from typing import Any

import numpy as np

from experiments.bootstrap import Interval, difference_intervals, figure_intervals
from experiments.collections.collection import Collection
from experiments.comparison import Comparison, Outcome
from experiments.judging import ratios
from experiments.richness import (
    entropy_bits,
    gini,
    rarefied_size,
    type_token_curve,
    zipf_exponent,
)
from experiments.sources import ALL_SOURCES, SOURCES, SourceName
from unspoken.progress import Stage, counted
from unspoken.runs.dataset.false_discovery import ChosenThresholds, Thresholds
from unspoken.text.captions import is_named
from unspoken.text.lexicon import Lexicon

CURVE_SOURCES = ("B1", "B2", "B4", "B5", "B5all", "C1", "C1all", "C3")
PAIRS = (
    *(("B5", other) for other in ("B0", "B1", "B2", "B3", "C1", "C2")),
    *(("B5all", other) for other in ("B0", "B1", "B2", "B3", "C1all", "B5")),
    *(("B6", other) for other in ("B1", "C1n")),
    *(("C3", other) for other in ("B5", "B5all")),
    *(("B5=", other) for other in ("B1=", "B2=", "B3=", "B4=", "C2=")),
    *(("B5all=", other) for other in ("B1=", "B2=", "B4=", "B5=")),
)
"""Pairs of sources whose difference is reported with its interval."""

MIN_RAREFIED = 30

Outcomes = Mapping[str, Mapping[SourceName, Outcome]]
"""Setting -> source -> outcome."""


def decide_all(
    comparison: Comparison,
    *,
    fixed: Thresholds,
    false_discovery_rate: float,
    stage: Stage,
) -> tuple[Outcomes, dict[SourceName, ChosenThresholds]]:
    """Decide every source at one false-discovery rate, and most at fixed thresholds too.

    Sources that vary the choice of templates are not decided at fixed thresholds.
    """
    outcomes: dict[str, dict[SourceName, Outcome]] = {"fixed": {}, "equal_fdr": {}}
    chosen: dict[SourceName, ChosenThresholds] = {}
    for source in counted(ALL_SOURCES, stage):
        chosen[source.name] = comparison.choose(source, false_discovery_rate=false_discovery_rate)
        outcomes["equal_fdr"][source.name] = comparison.decide(
            source, chosen[source.name].by_source()
        )
        if source.group in ("source", "equal"):
            outcomes["fixed"][source.name] = comparison.decide(source, fixed)
    return outcomes, chosen


def figures_of(outcomes: Outcomes, weights: np.ndarray) -> dict[str, Any]:
    """Return setting -> source -> figure -> value with interval; weights: (D, P) of the draws."""
    return {
        setting: {name: figure_intervals(each.counts, weights) for name, each in by_source.items()}
        for setting, by_source in outcomes.items()
    }


def differences_of(
    outcomes: Outcomes, weights: np.ndarray
) -> dict[str, dict[str, dict[str, Interval]]]:
    """Return setting -> "B5 - B1" -> figure -> difference with interval."""
    return {
        setting: {
            f"{first} - {second}": difference_intervals(
                by_source[first].counts, by_source[second].counts, weights
            )
            for first, second in PAIRS
        }
        for setting, by_source in outcomes.items()
    }


def fdr_curves(
    comparison: Comparison, rates: tuple[float, ...]
) -> dict[SourceName, list[dict[str, float]]]:
    """Return recall of unnamed objects and precision of found phrases for each allowed rate."""
    curves = {}
    for source in SOURCES:
        if source.name not in CURVE_SOURCES:
            continue
        points = []
        for rate in rates:
            thresholds = comparison.choose(source, false_discovery_rate=rate).by_source()
            figures = ratios(comparison.decide(source, thresholds).counts.sum(axis=0))
            names = ("unnamed_recall_50", "found_phrase_precision")
            points.append(
                {"false_discovery_rate": rate, **{name: float(figures[name]) for name in names}}
            )
        curves[source.name] = points
    return curves


def richness_of(
    outcomes: Outcomes, collection: Collection, lexicon: Lexicon
) -> dict[str, dict[SourceName, dict[str, Any]]]:
    """Return the richness of each source's labels at each setting.

    Labels are rarefied to the smallest number of boxes of any source. Sources with fewer than
    MIN_RAREFIED boxes do not set that number and are not rarefied. B0 is left out, because it has
    one box per picture and no labels of its own.
    """
    captions = [captioned.caption for captioned in collection.pictures]
    spoken: dict[str, bool] = {}

    def is_spoken(label: str) -> bool:
        if label not in spoken:
            spoken[label] = any(is_named(label, caption, lexicon) for caption in captions)
        return spoken[label]

    report: dict[str, dict[SourceName, dict[str, Any]]] = {}
    for setting, by_source in outcomes.items():
        counted = {
            source.name: Counter(by_source[source.name].labels)
            for source in SOURCES
            if not source.single_box
        }
        totals = [sum(labels.values()) for labels in counted.values()]
        size = min((total for total in totals if total >= MIN_RAREFIED), default=0)
        report[setting] = {
            name: {
                **_richness(list(labels.values()), size),
                "labels_absent_from_captions": _share(not is_spoken(label) for label in labels),
            }
            for name, labels in counted.items()
        }
    return report


def _richness(counts: list[int], size: int) -> dict[str, Any]:
    return {
        "boxes": sum(counts),
        "labels": len(counts),
        "rarefied_to": size,
        "rarefied_labels": rarefied_size(counts, size) if size else math.nan,
        "zipf_exponent": zipf_exponent(counts),
        "entropy_bits": entropy_bits(counts),
        "gini": gini(counts),
        "type_token": type_token_curve(counts),
    }


def _share(holds: Iterable[bool]) -> float:
    values = list(holds)
    return sum(values) / len(values) if values else math.nan


def describe_sources() -> dict[SourceName, dict[str, Any]]:
    """Return the description of each source by name."""
    return {each.name: asdict(each) for each in ALL_SOURCES}
