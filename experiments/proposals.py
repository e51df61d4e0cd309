"""Do a language model's templates find what captions leave out? All sources, compared fairly.

Captions are proposed for, every picture is asked once for what all sources want of it, and each
source is then decided, merged and counted by itself: at fixed thresholds, at one false-discovery
rate, and with as many queries as B5. docs/experiments.md says how to read what comes out.
"""

import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

import unspoken
from experiments.bootstrap import difference_intervals, draw_weights, figure_intervals
from experiments.collection import Collection
from experiments.comparison import VOCABULARY_SOURCE, Comparison, Outcome
from experiments.found_boxes import AskedPicture, ask, ask_picture, company_effect, distinct
from experiments.phrase_sources import Phrases
from experiments.richness import (
    entropy_bits,
    gini,
    rarefied_size,
    type_token_curve,
    zipf_exponent,
)
from experiments.sources import (
    ALL_SOURCES,
    ALL_TEMPLATES,
    DEFAULT_TEMPLATES,
    SOURCES,
    Answers,
    CountingPrompter,
    Source,
    SourceName,
    ask_prompter,
    list_phrases,
)
from services.detector.packing import MAX_PHRASES
from unspoken.captions import is_named
from unspoken.images import decode_picture
from unspoken.lexicon import Lexicon, load_lexicon
from unspoken.ports import Detector
from unspoken.runs.false_discovery import ChosenThresholds
from unspoken.runs.plan import LabelConfig, default_threshold
from worker.proposals import fixed_thresholds

Progress = Callable[[str, int, int], None]
"""What is done, how many of it, of how many."""

CURVE_SOURCES = ("B1", "B2", "B4", "B5", "B5all", "C1", "C1all", "C3")
PAIRS = (
    *(("B5", other) for other in ("B0", "B1", "B2", "B3", "C1", "C2")),
    *(("B5all", other) for other in ("B0", "B1", "B2", "B3", "C1all", "B5")),
    *(("B6", other) for other in ("B1", "C1n")),
    ("C3", "B5"),
    *(("B5=", other) for other in ("B1=", "B2=", "B3=", "B4=", "C2=")),
    *(("B5all=", other) for other in ("B1=", "B2=", "B4=")),
)
"""Whose difference is told, with its interval."""
TEMPLATES_OF = {
    "B3": ("named",),
    "B5": DEFAULT_TEMPLATES,
    "B5all": ALL_TEMPLATES,
    "B6": DEFAULT_TEMPLATES,
    "C2": DEFAULT_TEMPLATES,
}
CHECKED_SOURCES = ("B1", "B2", "B5")


@dataclass(frozen=True, kw_only=True)
class ProposalsConfig:
    """How the comparison is made; the size is the collection's."""

    seed: int
    wanted_fdr: float = 0.1
    curve_fdrs: tuple[float, ...] = (0.02, 0.05, 0.1, 0.2, 0.3, 0.5)
    num_decoys: int = 8
    num_draws: int = 1000
    num_checked: int = 10
    """Pictures whose sources are asked by themselves too, to see what company changes."""


@dataclass
class _Stopwatch:
    """Seconds of each stage, by the clock and of all threads together."""

    seconds: dict[str, float] = field(default_factory=dict)
    cpu_seconds: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def measure(self, stage: str) -> Iterator[None]:
        started, worked = time.monotonic(), time.process_time()
        yield
        self.seconds[stage] = round(time.monotonic() - started, 1)
        self.cpu_seconds[stage] = round(time.process_time() - worked, 1)


def compare_proposals(
    collection: Collection,
    prompter: CountingPrompter,
    detector: Detector,
    *,
    config: ProposalsConfig,
    vocabulary: Sequence[str] | None = None,
    progress: Progress = lambda *_: None,
) -> dict[str, Any]:
    """Everything that was measured, as it is written to proposals.json.

    vocabulary: of B4 and of random labels; the labels that the truth knows otherwise.
    """
    lexicon, watch = load_lexicon(), _Stopwatch()
    label_config = LabelConfig(box_threshold=default_threshold(detector.box_threshold))
    total = len(collection.samples)
    with watch.measure("language_model"):
        answers = ask_prompter(
            prompter,
            [sample.caption for sample in collection.samples],
            progress=lambda done: progress("captions asked", done, total),
        )
    phrases = list_phrases(
        collection,
        answers,
        vocabulary=vocabulary or collection.vocabulary,
        lexicon=lexicon,
        seed=config.seed,
    )
    asked: list[AskedPicture] = []
    company: list[tuple[np.ndarray, np.ndarray]] = []
    with watch.measure("detector"):
        for sample, wanted in zip(collection.samples, phrases, strict=True):
            picture, seed = decode_picture(sample.read()), f"{config.seed}/{sample.key}"
            answer = ask_picture(
                detector,
                picture,
                wanted,
                vocabulary_source=VOCABULARY_SOURCE,
                caption=sample.caption,
                num_decoys=config.num_decoys,
                seed=seed,
                config=label_config,
                lexicon=lexicon,
            )
            asked.append(answer)
            if len(asked) <= config.num_checked:
                for name in CHECKED_SOURCES:
                    texts = [*distinct(wanted[name]), *answer.decoys]
                    alone, _ = ask(
                        detector, picture, texts, seed=seed, config=label_config, lexicon=lexicon
                    )
                    company.append(
                        company_effect(answer.shared, alone, threshold=label_config.box_threshold)
                    )
            progress("pictures asked", len(asked), total)
    with watch.measure("deciding"):
        comparison = Comparison(collection, phrases, asked, config=label_config, lexicon=lexicon)
        report = _Report(collection, comparison, config=config, label_config=label_config)
        outcomes = report.decide(progress)
    return {
        "experiment": "proposals",
        "collection": collection.name,
        "pictures": total,
        "config": {**asdict(config), "fixed_thresholds": fixed_thresholds(label_config)},
        "versions": {
            "unspoken": unspoken.__version__,
            "llm": prompter.model.model_dump(),
            "detector": detector.model.model_dump(),
        },
        **outcomes,
        "richness": report.richness(lexicon),
        "cost": _cost(answers, phrases, asked),
        "company": _company(company),
        "seconds": watch.seconds,
        "cpu_seconds": watch.cpu_seconds,
    }


class _Report:
    """Every source at every setting, with intervals."""

    def __init__(
        self,
        collection: Collection,
        comparison: Comparison,
        *,
        config: ProposalsConfig,
        label_config: LabelConfig,
    ) -> None:
        self._collection = collection
        self._comparison = comparison
        self._config = config
        self._fixed = fixed_thresholds(label_config)
        self._weights = draw_weights(
            len(collection.samples), num_draws=config.num_draws, seed=config.seed
        )
        self._outcomes: dict[str, dict[SourceName, Outcome]] = {"fixed": {}, "equal_fdr": {}}

    def decide(self, progress: Progress) -> dict[str, Any]:
        """Figures of each source and setting, differences, and recall over rates."""
        chosen: dict[SourceName, ChosenThresholds] = {}
        for done, source in enumerate(ALL_SOURCES, start=1):
            thresholds = self._comparison.choose(source, wanted_fdr=self._config.wanted_fdr)
            chosen[source.name] = thresholds
            settings = {"fixed": self._fixed, "equal_fdr": thresholds.by_source()}
            for setting, by_source in settings.items():
                if setting == "equal_fdr" or source.group in ("source", "equal"):
                    outcome = self._comparison.decide(source, by_source)
                    self._outcomes[setting][source.name] = outcome
            progress("sources decided", done, len(ALL_SOURCES))
        return {
            "sources": {each.name: asdict(each) for each in ALL_SOURCES},
            "thresholds": {name: c.model_dump() for name, c in chosen.items()},
            "figures": {
                setting: {
                    name: figure_intervals(outcome.counts, self._weights)
                    for name, outcome in outcomes.items()
                }
                for setting, outcomes in self._outcomes.items()
            },
            "differences": {
                setting: {
                    f"{first} - {second}": difference_intervals(
                        outcomes[first].counts, outcomes[second].counts, self._weights
                    )
                    for first, second in PAIRS
                }
                for setting, outcomes in self._outcomes.items()
            },
            "fdr_curves": {
                source.name: self._fdr_curve(source)
                for source in SOURCES
                if source.name in CURVE_SOURCES
            },
        }

    def _fdr_curve(self, source: Source) -> list[dict[str, float]]:
        """For each allowed rate: unnamed objects found, and how many found phrases are there."""
        points = []
        for rate in self._config.curve_fdrs:
            chosen = self._comparison.choose(source, wanted_fdr=rate)
            outcome = self._comparison.decide(source, chosen.by_source())
            figures = figure_intervals(outcome.counts, self._weights[:0])
            points.append(
                {
                    "wanted_fdr": rate,
                    "unnamed_recall_50": figures["unnamed_recall_50"].value,
                    "found_phrase_precision": figures["found_phrase_precision"].value,
                }
            )
        return points

    def richness(self, lexicon: Lexicon) -> dict[str, dict[str, dict[str, Any]]]:
        """Of each source's labels, at each setting; rarefied to the fewest boxes of a source.

        A source without boxes to speak of (B0, one a picture) does not set that size.
        """
        names = [source.name for source in SOURCES if not source.single_box]
        captions = [sample.caption for sample in self._collection.samples]
        spoken: dict[str, bool] = {}

        def is_spoken(label: str) -> bool:
            if label not in spoken:
                spoken[label] = any(is_named(label, caption, lexicon) for caption in captions)
            return spoken[label]

        report: dict[str, dict[str, dict[str, Any]]] = {}
        for setting, outcomes in self._outcomes.items():
            counted = {name: Counter(outcomes[name].labels) for name in names}
            size = min(sum(labels.values()) for labels in counted.values())
            report[setting] = {}
            for name, labels in counted.items():
                counts = list(labels.values())
                absent = sum(not is_spoken(label) for label in labels)
                report[setting][name] = {
                    "boxes": sum(counts),
                    "labels": len(labels),
                    "rarefied_to": size,
                    "rarefied_labels": rarefied_size(counts, size),
                    "zipf_exponent": zipf_exponent(counts),
                    "entropy_bits": entropy_bits(counts),
                    "gini": gini(counts),
                    "labels_absent_from_captions": absent / len(labels) if labels else None,
                    "type_token": type_token_curve(counts),
                }
        return report


def _cost(
    answers: Answers,
    phrases: Sequence[Mapping[SourceName, Phrases]],
    asked: Sequence[AskedPicture],
) -> dict[str, Any]:
    """Per picture: tokens that the model wrote, queries, and the detector's passes if alone."""
    total = len(phrases)
    by_source = {}
    for source in SOURCES:
        queries = [len(each[source.name]) for each in phrases]
        tokens = sum(answers.tokens_written.get(t, 0) for t in TEMPLATES_OF.get(source.name, ()))
        by_source[source.name] = {
            "lm_tokens_per_picture": tokens / total,
            "queries_per_picture": sum(queries) / total,
            "detector_passes_per_picture": sum(-(-n // MAX_PHRASES) for n in queries) / total,
        }
    return {
        "sources": by_source,
        "lm_tokens_by_template": dict(answers.tokens_written),
        "shared_detector_passes_per_picture": sum(each.num_chunks for each in asked) / total,
    }


def _company(effects: Sequence[tuple[np.ndarray, np.ndarray]]) -> dict[str, float | int]:
    """Over the pictures that were asked both ways: how far a phrase's best score moves."""
    if not effects:
        return {"phrases": 0}
    moves = np.concatenate([each for each, _ in effects])
    crossed = np.concatenate([each for _, each in effects])
    return {
        "phrases": len(moves),
        "mean_difference": float(moves.mean()),
        "mean_absolute_difference": float(np.abs(moves).mean()),
        "share_across_threshold": float(crossed.mean()),
    }
