"""Experiment: do a language model's templates find objects that captions omit?

Phrases are proposed for each caption, and each picture is queried once with the phrases of all
sources. Then thresholds, merging and counting are applied to each source separately: at fixed
thresholds, at one false-discovery rate, and with as many queries as B5.
docs/explanation/proposals-experiment.md explains how to read the results.
"""

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from typing import Any, NamedTuple

import numpy as np

import unspoken
from experiments.bootstrap import draw_weights
from experiments.collections.collection import Collection
from experiments.comparison import VOCABULARY_SOURCE, Comparison
from experiments.found_boxes import AskedPicture, ask, ask_picture, best_scores, distinct
from experiments.outcomes import (
    decide_all,
    describe_sources,
    differences_of,
    fdr_curves,
    figures_of,
    richness_of,
)
from experiments.phrase_sources import Phrases
from experiments.sources import (
    ALL_SOURCES,
    ALL_TEMPLATES,
    DEFAULT_TEMPLATES,
    SOURCES,
    CountingPrompter,
    SourceName,
    TemplateProposals,
    ask_prompter,
    list_phrases,
)
from services.detector.packing import MAX_PHRASES
from unspoken.errors import InvalidInput
from unspoken.imaging.images import Picture, decode_picture
from unspoken.ports import Detector
from unspoken.progress import NO_PROGRESS, Progress, counted
from unspoken.runs.plan import LabelConfig, default_threshold
from unspoken.text.lexicon import Lexicon, load_lexicon
from worker.label.merging import fixed_thresholds

Wanted = Mapping[SourceName, Phrases]

TEMPLATES_OF = {
    "B3": ("named",),
    "B5": DEFAULT_TEMPLATES,
    "B5all": ALL_TEMPLATES,
    "B6": DEFAULT_TEMPLATES,
    "C2": DEFAULT_TEMPLATES,
}
CHECKED_SOURCES = ("B1", "B2", "B5", "C3")


@dataclass(frozen=True, kw_only=True)
class ProposalsConfig:
    """Settings of the comparison; the number of pictures is the collection's."""

    seed: int
    false_discovery_rate: float = 0.1
    curve_fdrs: tuple[float, ...] = (0.05, 0.1, 0.2, 0.3)
    num_decoys: int = 8
    num_draws: int = 1000
    num_checked: int = 10
    """Number of pictures whose sources are also queried separately, to measure the difference."""


@dataclass
class _Stopwatch:
    """Wall seconds and CPU seconds (of all threads) of each stage."""

    seconds: dict[str, float] = field(default_factory=dict)
    cpu_seconds: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def measure(self, stage: str) -> Iterator[None]:
        started, worked = time.monotonic(), time.process_time()
        yield
        self.seconds[stage] = round(time.monotonic() - started, 1)
        self.cpu_seconds[stage] = round(time.process_time() - worked, 1)


class _Pair(NamedTuple):
    """Best scores of the same phrases in the shared query and in their source's own query: (N,)."""

    shared: np.ndarray
    alone: np.ndarray


def compare_proposals(
    collection: Collection,
    prompter: CountingPrompter,
    detector: Detector,
    *,
    config: ProposalsConfig,
    vocabulary: Sequence[str] | None = None,
    progress: Progress = NO_PROGRESS,
) -> dict[str, Any]:
    """Run the comparison and return the content of proposals.json.

    vocabulary: labels of B4 and of the random controls; by default the labels of the truth. Raises
    InvalidInput for fewer than two pictures.
    """
    lexicon, watch, total = load_lexicon(), _Stopwatch(), len(collection.pictures)
    if total < 2:
        raise InvalidInput(
            "at least two pictures are needed: C2 uses the caption of another picture"
        )
    label_config = LabelConfig(named_threshold=default_threshold(detector.box_threshold))
    fixed = fixed_thresholds(label_config)
    captions = [captioned.caption for captioned in collection.pictures]
    with (
        watch.measure("language model"),
        progress.stage("asking the language model", total=total, unit="captions") as stage,
    ):
        proposals = ask_prompter(prompter, captions, stage=stage)
    wanted = list_phrases(
        collection,
        proposals,
        vocabulary=vocabulary or collection.vocabulary,
        lexicon=lexicon,
        seed=config.seed,
    )
    asker = _Asker(detector, config, label_config, lexicon)
    asked = []
    with watch.measure("detector"), progress.stage("detecting", total=total) as stage:
        for captioned, phrases in counted(zip(collection.pictures, wanted, strict=True), stage):
            picture = decode_picture(captioned.read())
            asked.append(asker.ask(picture, phrases, key=captioned.key, caption=captioned.caption))
    with (
        watch.measure("deciding"),
        progress.stage("comparing", total=len(ALL_SOURCES), unit="sources") as stage,
    ):
        comparison = Comparison(collection, wanted, asked, config=label_config, lexicon=lexicon)
        outcomes, thresholds = decide_all(
            comparison,
            fixed=fixed,
            false_discovery_rate=config.false_discovery_rate,
            stage=stage,
        )
        curves = fdr_curves(comparison, config.curve_fdrs)
    weights = draw_weights(total, num_draws=config.num_draws, seed=config.seed)
    return {
        "experiment": "proposals",
        "collection": collection.name,
        "pictures": total,
        "config": asdict(config),
        "versions": {
            "unspoken": unspoken.__version__,
            "llm": prompter.model.model_dump(),
            "detector": detector.model.model_dump(),
        },
        "sources": describe_sources(),
        "thresholds": {
            "fixed": fixed,
            "equal_fdr": {name: each.model_dump() for name, each in thresholds.items()},
        },
        "figures": figures_of(outcomes, weights),
        "differences": differences_of(outcomes, weights),
        "fdr_curves": curves,
        "richness": richness_of(outcomes, collection, lexicon),
        "cost": _cost(proposals, wanted, asked),
        "query_sharing": asker.query_sharing(threshold=label_config.named_threshold),
        "seconds": watch.seconds,
        "cpu_seconds": watch.cpu_seconds,
    }


class _Asker:
    """Queries pictures, and for the first ones compares shared with separate queries."""

    def __init__(
        self,
        detector: Detector,
        config: ProposalsConfig,
        label_config: LabelConfig,
        lexicon: Lexicon,
    ) -> None:
        self._detector = detector
        self._config = config
        self._label_config = label_config
        self._lexicon = lexicon
        self._pairs: dict[SourceName, list[_Pair]] = {name: [] for name in CHECKED_SOURCES}
        self._num_asked = 0

    def ask(self, picture: Picture, wanted: Wanted, *, key: str, caption: str) -> AskedPicture:
        """See experiments.found_boxes.ask_picture."""
        seed = f"{self._config.seed}/{key}"
        asked = ask_picture(
            self._detector,
            picture,
            wanted,
            vocabulary_source=VOCABULARY_SOURCE,
            caption=caption,
            num_decoys=self._config.num_decoys,
            seed=seed,
            config=self._label_config,
            lexicon=self._lexicon,
        )
        if self._num_asked < self._config.num_checked:
            for name, pairs in self._pairs.items():
                texts = distinct(wanted[name])
                alone, _ = ask(
                    self._detector,
                    picture,
                    [*texts, *asked.decoys],
                    seed=seed,
                    config=self._label_config,
                    lexicon=self._lexicon,
                )
                pairs.append(_Pair(best_scores(asked.shared, texts), best_scores(alone, texts)))
        self._num_asked += 1
        return asked

    def query_sharing(self, *, threshold: float) -> dict[SourceName, dict[str, float | int]]:
        """Return by source how the best scores change if the source is queried separately."""
        effects: dict[SourceName, dict[str, float | int]] = {}
        for name, pairs in self._pairs.items():
            shared = np.concatenate([np.zeros(0), *(pair.shared for pair in pairs)])
            alone = np.concatenate([np.zeros(0), *(pair.alone for pair in pairs)])
            if not len(shared):
                continue
            crossed = (shared >= threshold) != (alone >= threshold)
            effects[name] = {
                "phrases": len(shared),
                "mean_difference": float((alone - shared).mean()),
                "mean_absolute_difference": float(np.abs(alone - shared).mean()),
                "share_across_threshold": float(crossed.mean()),
            }
        return effects


def _cost(
    proposals: TemplateProposals, wanted: Sequence[Wanted], asked: Sequence[AskedPicture]
) -> dict[str, Any]:
    """Return each source's cost per picture: tokens written, queries, and detector passes.

    Passes are those of the source alone, computed from the number of phrases. Long phrases may need
    more.
    """
    total, by_source = len(wanted), {}
    for source in SOURCES:
        queries = [len(phrases[source.name]) for phrases in wanted]
        tokens = sum(proposals.tokens_written.get(t, 0) for t in TEMPLATES_OF.get(source.name, ()))
        by_source[source.name] = {
            "lm_tokens_per_picture": tokens / total,
            "queries_per_picture": sum(queries) / total,
            "detector_passes_per_picture": sum(-(-n // MAX_PHRASES) for n in queries) / total,
        }
    return {
        "sources": by_source,
        "lm_tokens_by_template": dict(proposals.tokens_written),
        "passes_of_the_shared_query": sum(each.num_chunks for each in asked) / total,
    }
