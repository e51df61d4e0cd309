"""`python -m bench.labelling`: the pipeline against a simple loop, on the same 48 pictures.

The loop works like a script. For each picture, the language model gets one prompt at a time and
computes the few-shot prefix again, and the detector makes one pass per phrase. It uses the same
models, prompts, thresholds and merging, in this process, without a queue or HTTP. The pipeline is
the whole stack as `unspoken demo` runs it: Redis, services over HTTP, dispatcher and worker.

loop_per_s, pipeline_per_s, speedup   pictures per second of both, and their ratio
loop_..., pipeline_...     precision and recall of both against the truth
worst_shortfall            largest difference by which a figure of the pipeline is below the loop's
worst_shortfall_interval   its 95 % interval by a paired bootstrap over the pictures; 48 pictures
                           have few implied boxes, so `bench.margins` compares more pictures
peak_gib                   highest proportional set size of all processes of the stack
"""

import json
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import psutil
import torch

from services.detector.engine import build_engine as build_detector
from services.detector.settings import DetectorSettings
from services.llm.engine import PrompterEngine, load_generator
from services.llm.generator import Generator
from services.llm.parsing import Completion
from services.llm.prompts import ExampleSet
from services.llm.settings import LlmSettings
from services.llm.template_file import load_templates
from smallworld.truth import (
    JudgedBox,
    Score,
    judge_each,
    judged_boxes,
    read_truth_files,
    total_score,
)
from unspoken.ports import Detector
from unspoken.runs.dataset.rows import Annotation
from unspoken.runs.dataset.shards import iter_rows
from unspoken.runs.plan import LabelConfig, default_threshold, make_plan
from unspoken.text.lexicon import load_lexicon
from unspoken.wire.base import ModelInfo
from unspoken.wire.detections import Detection
from worker.label.candidates import list_candidates
from worker.label.classifiers import build_classifiers
from worker.label.filters import FilterResult, apply_filters
from worker.label.merging import merge_detections
from worker.sources.intake import list_source, read_chunk
from worker.sources.row import SourceRow

NUM_IMAGES = 48
SAMPLE_S = 0.5


class LoneCompleter:
    """Completes one prompt per call and computes the whole prompt each time."""

    def __init__(self, generator: Generator) -> None:
        self._generator = generator

    def complete(self, questions: Sequence[str], *, examples: ExampleSet) -> list[Completion]:
        """See services.llm.engine.Completer."""
        answers = []
        for question in questions:
            (made,) = self._generator.generate(
                [question], prefix=examples.prefix, keep_prefix=False
            )
            answers.append(Completion(made.text, mean_logprob=made.mean_logprob))
        return answers


def main() -> None:
    """Run both; print the figures as one JSON line."""
    torch.set_num_threads(DetectorSettings().num_threads)
    with tempfile.TemporaryDirectory(prefix="unspoken-bench-") as folder:
        out = Path(folder) / "demo"
        summary, peak_gib = run_pipeline(out)
        shards = out / "data" / "shards"
        loop_s, loop_boxes = run_loop(shards)
        truths = read_truth_files(shards)
        loop = judge_each(loop_boxes, truths)
        pipeline = judge_each(pipeline_boxes(out), truths)
    loop_figures, pipeline_figures = (
        total_score(loop.values()).figures(),
        total_score(pipeline.values()).figures(),
    )
    figures = {
        "speedup": round(loop_s / summary["seconds"], 2),
        "loop_per_s": round(NUM_IMAGES / loop_s, 3),
        "pipeline_per_s": round(NUM_IMAGES / summary["seconds"], 3),
        "worst_shortfall": round(shortfall(loop, pipeline), 3),
        "worst_shortfall_interval": shortfall_interval(loop, pipeline),
        "peak_gib": round(peak_gib, 2),
        **{f"pipeline_{name}": value for name, value in pipeline_figures.items()},
        **{f"loop_{name}": value for name, value in loop_figures.items()},
    }
    print(json.dumps({"bench": "labelling", "figures": figures}))


def run_pipeline(out: Path) -> tuple[dict[str, float], float]:
    """Run the demo; return its summary and the stack's peak memory in GiB."""
    command = [sys.executable, "-m", "cli.main", "demo", "--images", str(NUM_IMAGES)]
    process = subprocess.Popen([*command, "--out", str(out), "--exit"], stdout=sys.stderr)
    peak = [0]
    sampler = threading.Thread(target=_sample_memory, args=(process, peak))
    sampler.start()
    code = process.wait()
    sampler.join()
    if code:
        raise SystemExit(f"the demo ended with {code}")
    return json.loads((out / "summary.json").read_text()), peak[0] / 2**30


def pipeline_boxes(out: Path) -> dict[str, list[JudgedBox]]:
    """Return the kept annotations of the demo's dataset by picture."""
    (dataset,) = out.glob("runs/*/dataset")
    rows = iter_rows(dataset)
    return {row.key: judged_boxes(row.kept) for row in rows if row.status == "labelled"}


def shortfall(loop: Mapping[str, Score], pipeline: Mapping[str, Score]) -> float:
    """Return the largest shortfall of a pipeline figure; negative if all are above the loop's."""
    theirs, ours = total_score(loop.values()).figures(), total_score(pipeline.values()).figures()
    gaps = [
        value - mine
        for name, value in theirs.items()
        if value is not None and (mine := ours[name]) is not None
    ]
    return max(gaps, default=0.0)


def shortfall_interval(
    loop: Mapping[str, Score], pipeline: Mapping[str, Score], *, num_draws: int = 1000
) -> list[float]:
    """Return the 95 % interval of the worst shortfall, over draws of pictures both labelled."""
    theirs, ours = total_score(loop.values()).figures(), total_score(pipeline.values()).figures()
    worst = max(theirs, key=lambda name: (theirs[name] or 0.0) - (ours[name] or 0.0))
    keys = sorted(set(loop) & set(pipeline))
    rng = np.random.default_rng(0)
    gaps = []
    for _ in range(num_draws):
        drawn = [keys[i] for i in rng.integers(len(keys), size=len(keys))]
        first = total_score(loop[key] for key in drawn).figures()[worst]
        second = total_score(pipeline[key] for key in drawn).figures()[worst]
        if first is not None and second is not None:
            gaps.append(first - second)
    low, high = np.quantile(gaps, [0.025, 0.975])
    return [round(float(low), 3), round(float(high), 3)]


def run_loop(shards: Path) -> tuple[float, dict[str, list[JudgedBox]]]:
    """Run the loop; return its seconds without loading, and its boxes by picture."""
    detector = build_detector(DetectorSettings())
    prompter = _lone_prompter(LlmSettings())
    config = LabelConfig(named_threshold=default_threshold(detector.box_threshold))
    rows = _read_rows(shards)
    prompter.propose(["a warm-up"])
    boxes: dict[str, list[JudgedBox]] = {}
    classifiers = build_classifiers()
    started = time.monotonic()
    for row in rows:
        filtered = apply_filters(row, classifiers=classifiers, config=config.options.filters)
        if filtered.reason is None and filtered.picture is not None:
            kept = _label_alone(filtered, prompter=prompter, detector=detector, config=config)
            boxes[row.key] = judged_boxes(kept)
    return time.monotonic() - started, boxes


def _label_alone(
    filtered: FilterResult, *, prompter: PrompterEngine, detector: Detector, config: LabelConfig
) -> list[Annotation]:
    """Label one picture with one detector pass per phrase."""
    assert filtered.picture is not None, "the caller dropped rows without a picture"
    (proposal,) = prompter.propose([filtered.caption])
    candidates = list_candidates(proposal, (), max_phrases=config.max_phrases)
    found: list[Detection] = []
    for index, phrase in enumerate(proposal.phrases[: config.max_phrases]):
        result = detector.detect(
            filtered.picture, [phrase.text], box_threshold=config.named_threshold
        )
        found += [each.model_copy(update={"phrase_index": index}) for each in result.detections]
    annotations = merge_detections(
        found,
        candidates,
        size_hw=filtered.picture.size_hw,
        config=config,
        lexicon=load_lexicon(),
    )
    return [annotation for annotation in annotations if annotation.kept]


def _lone_prompter(settings: LlmSettings) -> PrompterEngine:
    entry = settings.read_profile().llm
    generator = load_generator(entry, cache_dir=settings.cache_dir, max_batch=1)
    return PrompterEngine(
        LoneCompleter(generator),
        model=ModelInfo(name=entry.name, kind="llm", revision=entry.revision),
        templates=load_templates(),
        default_templates=settings.templates,
        lexicon=load_lexicon(),
        cache_entries=0,
    )


def _read_rows(shards: Path) -> list[SourceRow]:
    listing = list_source(shards, root=shards)
    plan = make_plan("loop", listing, config=LabelConfig(named_threshold=0.0), models={})
    return [row for chunk in plan.chunks for row in read_chunk(chunk, root=shards)]


def _sample_memory(process: subprocess.Popen[bytes], peak: list[int]) -> None:
    """Record the highest sum of proportional set sizes of the process and its descendants."""
    while process.poll() is None:
        total = 0
        try:
            root = psutil.Process(process.pid)
            for each in [root, *root.children(recursive=True)]:
                total += each.memory_full_info().pss
        except psutil.NoSuchProcess:
            continue  # a child ended between listing and reading
        peak[0] = max(peak[0], total)
        time.sleep(SAMPLE_S)


if __name__ == "__main__":
    main()
