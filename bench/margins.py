"""`python -m bench.margins`: score thresholds of a dataset, and the effect of joint detection.

Captioned small-world pictures, of seeds that no demo uses, get proposals and detections in this
process. Detection runs once with all phrases of a picture together, as in the pipeline, and once
with one pass per phrase. Then every pair of thresholds is applied to both and compared with the
truth.

Figures, for each `NAMED/IMPLIED` pair of score thresholds: precision and recall of named boxes,
precision and count of implied boxes, together and alone (`alone_...`). docs/decisions/0004 records
the choice that was made from them. `--work DIR` keeps pictures and proposals, so that a run with
other weights repeats only the detections.
"""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated

import torch
import typer

from services.detector.engine import DetectorEngine, build_engine
from services.detector.settings import DetectorSettings
from services.detector.transformers_backend import load_project_detector
from services.llm.engine import build_engine as build_prompter
from services.llm.settings import LlmSettings
from smallworld.shards import write_shards
from smallworld.truth import JudgedBox, judge_each, judged_boxes, read_truth_files, total_score
from smallworld.world import World
from training.detector.train import find_text_encoder
from unspoken.imaging.images import Picture
from unspoken.runs.dataset.rows import Candidate
from unspoken.runs.plan import LabelConfig, make_plan
from unspoken.text.lexicon import load_lexicon
from unspoken.wire.base import ModelInfo
from unspoken.wire.detections import Detection
from unspoken.wire.label_options import LabelOptions
from unspoken.wire.proposals import Proposal
from worker.label.candidates import list_candidates
from worker.label.classifiers import build_classifiers
from worker.label.decoys import pick_decoys
from worker.label.filters import apply_filters, duplicate_finder
from worker.label.merging import merge_detections
from worker.sources.intake import list_source, read_chunk

SEED = 9_400
STORE_FROM = 0.1
NAMED_FROM = (0.0, 0.03, 0.06)  # added to the detector's own threshold
IMPLIED_FROM = (0.1, 0.2, 0.25, 0.3, 0.35, 0.4)  # added to the threshold of named boxes


@dataclass(frozen=True)
class _Item:
    """A picture that passed the filters, with its candidates."""

    key: str
    picture: Picture
    candidates: tuple[Candidate, ...]

    @property
    def asked(self) -> list[str]:
        """Texts of phrases and decoys, in the order of their ids."""
        return [each.phrase for each in self.candidates if each.rejected is None]


def main(
    images: Annotated[int, typer.Option(help="Pictures.")] = 200,
    seed: Annotated[int, typer.Option(help="Of the pictures.")] = SEED,
    weights: Annotated[
        Path | None, typer.Option(help="Folder of a small detector; the profile's otherwise.")
    ] = None,
    work: Annotated[Path | None, typer.Option(help="Keep pictures and proposals here.")] = None,
    *,
    alone: Annotated[bool, typer.Option(help="Also one pass for each phrase.")] = True,
) -> None:
    """Print one JSON line."""
    torch.set_num_threads(DetectorSettings().num_threads)
    detector = _load_detector(weights)
    with TemporaryDirectory(prefix="unspoken-bench-") as folder:
        root = (work or Path(folder)) / f"margins-{seed}-{images}"
        shards = root / "shards"
        if not shards.exists():
            write_shards(shards, World.load(("twemoji",)), num_scenes=images, seed=seed)
        items = list(_items(root))
        truths = read_truth_files(shards)
    found = {"": [_detect(item, detector, together=True) for item in items]}
    if alone:
        found["alone_"] = [_detect(item, detector, together=False) for item in items]
    figures = {}
    for named in NAMED_FROM:
        for implied in IMPLIED_FROM:
            config = LabelConfig(
                named_threshold=detector.box_threshold + named, implied_margin=implied
            )
            line: dict[str, float | int | None] = {}
            for prefix, detections in found.items():
                kept = {
                    item.key: _kept(item, boxes, config)
                    for item, boxes in zip(items, detections, strict=True)
                }
                score = total_score(judge_each(kept, truths).values())
                line |= {f"{prefix}{name}": value for name, value in score.figures().items()}
                line[f"{prefix}implied_boxes"] = score.implied.judged
            figures[f"{config.named_threshold:.3f}/{config.named_threshold + implied:.3f}"] = line
    typer.echo(json.dumps({"bench": "margins", "figures": figures}))


def _load_detector(weights: Path | None) -> DetectorEngine:
    if weights is None:
        return build_engine(DetectorSettings())
    backend = load_project_detector(weights, text_encoder_dir=find_text_encoder(), device="cpu")
    return DetectorEngine(backend, model=ModelInfo(name="x", kind="detector", revision="bench"))


def _items(root: Path) -> Iterator[_Item]:
    """Yield pictures that pass the filters; their proposals are saved beside the shards."""
    config = LabelConfig(named_threshold=0.0, options=LabelOptions(chunk_size=1024))
    shards, kept = root / "shards", root / "proposals.json"
    listing = list_source(
        shards, root=shards, is_duplicate=duplicate_finder(config.options.filters)
    )
    plan = make_plan("margins", listing, config=config, models={})
    classifiers = build_classifiers()
    passed = []
    for chunk in plan.chunks:
        for row in read_chunk(chunk, root=shards):
            filtered = apply_filters(row, classifiers=classifiers, config=config.options.filters)
            if filtered.reason is None and filtered.picture is not None:
                passed.append((row.key, filtered.caption, filtered.picture))
    if not kept.exists():
        prompter = build_prompter(LlmSettings())
        proposals = prompter.propose([caption for _, caption, _ in passed])
        kept.write_text(json.dumps([each.model_dump(mode="json") for each in proposals]))
    lexicon = load_lexicon()
    written = [Proposal.model_validate(each) for each in json.loads(kept.read_text())]
    for (key, caption, picture), proposal in zip(passed, written, strict=True):
        phrases = [phrase.text for phrase in proposal.phrases[: config.max_phrases]]
        decoys = pick_decoys(
            phrases,
            caption=caption,
            seed=picture.sha256,
            count=config.options.num_decoys if phrases else 0,
            lexicon=lexicon,
        )
        candidates = list_candidates(proposal, decoys, max_phrases=config.max_phrases)
        yield _Item(key, picture, candidates)


def _detect(item: _Item, detector: DetectorEngine, *, together: bool) -> list[Detection]:
    if together:
        return list(detector.detect(item.picture, item.asked, box_threshold=STORE_FROM).detections)
    found: list[Detection] = []
    for index, phrase in enumerate(item.asked):
        result = detector.detect(item.picture, [phrase], box_threshold=STORE_FROM)
        found += [each.model_copy(update={"phrase_index": index}) for each in result.detections]
    return found


def _kept(item: _Item, detections: Sequence[Detection], config: LabelConfig) -> list[JudgedBox]:
    annotations = merge_detections(
        detections,
        item.candidates,
        size_hw=item.picture.size_hw,
        config=config,
        lexicon=load_lexicon(),
    )
    return judged_boxes(each for each in annotations if each.kept)


if __name__ == "__main__":
    typer.run(main)
