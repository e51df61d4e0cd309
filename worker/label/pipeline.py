"""Labels a chunk, as a pure function of its rows, the ports and the config.

An error of one item becomes a failed row. An error of a service (busy, loading, unreachable, timed
out) is raised, so that the chunk is retried later and no good item is marked as failed. A call to a
service that is busy, loading or unreachable is first retried here, with growing pauses.
"""

import logging
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import lru_cache
from itertools import islice
from typing import TypeVar

from unspoken.errors import (
    DeadlineExceeded,
    NotAnImage,
    NotReady,
    Overloaded,
    ServiceUnavailable,
    Unauthorized,
    Unreachable,
    UnspokenError,
)
from unspoken.imaging.images import Picture
from unspoken.logs import bind_context
from unspoken.ports import CropRanker, Detector, Prompter
from unspoken.retries import RetryPolicy
from unspoken.runs.dataset.rows import Annotation, Candidate, RawText, Row, Status
from unspoken.runs.plan import LabelConfig, stored_from
from unspoken.safe_text import without_userinfo
from unspoken.text.lexicon import load_lexicon
from unspoken.timings import Timings, note_wait
from unspoken.wire.proposals import Proposal
from worker.label.candidates import join_proposals, list_candidates, list_negatives
from worker.label.classifiers import Classifiers
from worker.label.crop_check import drop_low_ranked, rank_annotations
from worker.label.decoys import pick_decoys
from worker.label.filters import FilterResult, apply_filters, drop_damaged, fold
from worker.label.merging import list_undecided, merge_detections
from worker.sources.row import FAULTS, SourceRow

logger = logging.getLogger(__name__)

SERVICE_ERRORS = (Overloaded, NotReady, ServiceUnavailable, DeadlineExceeded, Unauthorized)
"""Errors of a service, after which the whole chunk is retried later."""
NOT_STARTED_ERRORS = (Overloaded, NotReady, Unreachable, Unauthorized)
"""SERVICE_ERRORS raised before the service started on the request, so no item caused them."""
SERVICE_RETRIES = RetryPolicy(attempts=None, jitter=1.0, max_pause_s=15.0, total_s=60.0)

Answer = TypeVar("Answer")
Answers = Sequence[Proposal | UnspokenError]
"""For each caption of one picture, a proposal or the error."""
Marking = Callable[[Sequence[int]], AbstractContextManager[None]]
"""Marks rows, given by position, as in progress until the context ends."""


def _uncounted(_rows: Sequence[int]) -> None:
    """Ignore rows that are done."""


def _unmarked(_rows: Sequence[int]) -> AbstractContextManager[None]:
    return nullcontext()


@dataclass(frozen=True)
class Ports:
    """Services and classifiers that the pipeline uses."""

    prompter: Prompter
    detector: Detector
    classifiers: Classifiers
    crop_ranker: CropRanker


@dataclass(frozen=True)
class _Admitted:
    """A row that passed the filters."""

    row: SourceRow
    filtered: FilterResult
    picture: Picture


def label_chunk(
    rows: Sequence[SourceRow],
    ports: Ports,
    config: LabelConfig,
    *,
    under_way: Marking = _unmarked,
    done: Callable[[Sequence[int]], None] = _uncounted,
    timings: Timings | None = None,
) -> list[Row]:
    """Label a chunk; return one Row per input row, in order. Raises only SERVICE_ERRORS.

    done: receives the positions of rows once they are done, from several threads.
    timings: receives the time of each stage: filter, prompt, detect, merge, and rank with
    crop_check. Time spent waiting for a busy service is separate: prompt_wait, detect_wait,
    rank_wait.
    """
    timings = timings or Timings()
    finished: dict[int, Row] = {}
    admitted: list[tuple[int, _Admitted]] = []
    for index, row in enumerate(rows):
        with under_way([index]), timings.measure("filter"):
            filtered = apply_filters(
                row, classifiers=ports.classifiers, config=config.options.filters
            )
        if filtered.reason is not None or filtered.picture is None:
            status: Status = "failed" if filtered.reason in FAULTS else "dropped"
            finished[index] = _row(row, filtered, status=status, reason=filtered.reason)
        else:
            admitted.append((index, _Admitted(row, filtered, filtered.picture)))
    done(list(finished))
    with under_way([index for index, _ in admitted]), timings.asking("prompt"):
        proposals = _propose_each(
            [item for _, item in admitted], ports.prompter, config.options.templates
        )

    def label(index: int, item: _Admitted, answers: Answers, own: Timings) -> Row:
        with under_way([index]):
            row = _label(item, answers, ports, config, own)
        done([index])
        return row

    started, taken = time.perf_counter(), [Timings() for _ in admitted]
    pool = _detector_threads(config.detector_threads)
    try:
        jobs = [
            pool.submit(bind_context(label, index, item, answers, own))
            for (index, item), answers, own in zip(admitted, proposals, taken, strict=True)
        ]
        for (index, _), job in zip(admitted, jobs, strict=True):
            finished[index] = job.result()
    except BaseException:  # includes the soft time limit
        _detector_threads.cache_clear()
        pool.shutdown(cancel_futures=True)  # so that no row is marked after its attempt has ended
        raise
    timings.share((time.perf_counter() - started) * 1000, taken)
    return [finished[index] for index in range(len(rows))]


@lru_cache(maxsize=1)
def _detector_threads(number: int) -> ThreadPoolExecutor:
    """Return the thread pool of detector calls, kept between chunks.

    Starting new threads for each chunk took a twentieth of a worker's own time. A process works on
    one chunk at a time, so a failing chunk may shut the pool down.
    """
    return ThreadPoolExecutor(max_workers=number, thread_name_prefix="detect")


def failed_row(row: SourceRow, *, reason: str, detail: str) -> Row:
    """Return the row of an item that could not be labelled at all."""
    filtered = FilterResult(fold(row.caption), None, ())
    return _row(row, filtered, status="failed", reason=reason, detail=detail)


def _propose_each(
    items: Sequence[_Admitted], prompter: Prompter, templates: Sequence[str] | None
) -> list[Answers]:
    """Request proposals for every caption of every item; return the answers of each item."""
    answers = iter(
        _propose([c for item in items for c in item.filtered.captions], prompter, templates)
    )
    return [list(islice(answers, len(item.filtered.captions))) for item in items]


def _propose(
    captions: Sequence[str], prompter: Prompter, templates: Sequence[str] | None
) -> list[Proposal | UnspokenError]:
    """Request proposals in one call, or one by one if it fails, to isolate a bad caption."""
    if not captions:
        return []
    try:
        return list(_with_retries(lambda: prompter.propose(captions, templates=templates)))
    except SERVICE_ERRORS:
        raise
    except UnspokenError as error:
        if len(captions) == 1:
            return [error]
    return [answer for caption in captions for answer in _propose([caption], prompter, templates)]


def _label(
    item: _Admitted, answers: Answers, ports: Ports, config: LabelConfig, timings: Timings
) -> Row:
    """Return a labelled row, or a dropped or failed one if the item itself causes an error.

    Captions without a proposal are left out, and `detail` reports them. The row fails if no caption
    has a proposal.
    """
    errors = [answer for answer in answers if isinstance(answer, UnspokenError)]
    proposals = [answer for answer in answers if isinstance(answer, Proposal)]
    try:
        if not proposals:
            raise errors[0]
        row = _detect(item, proposals, ports, config, timings)
        if errors:
            detail = (
                f"{len(errors)} of {len(answers)} captions have no proposal: {errors[0].message}"
            )
            return row.model_copy(update={"detail": detail})
        return row
    except SERVICE_ERRORS:
        raise
    except UnspokenError as error:
        damaged = drop_damaged(item.row, item.filtered) if isinstance(error, NotAnImage) else None
        if damaged is not None:
            return _row(item.row, damaged, status="dropped", reason=damaged.reason)
        logger.warning("failed key=%s reason=%s", item.row.key, error.code)
        return _row(
            item.row, item.filtered, status="failed", reason=error.code, detail=error.message
        )


def _detect(
    item: _Admitted,
    proposals: Sequence[Proposal],
    ports: Ports,
    config: LabelConfig,
    timings: Timings,
) -> Row:
    lexicon = load_lexicon()
    proposal = join_proposals(proposals, caption=item.filtered.caption, lexicon=lexicon)
    phrases = [phrase.text for phrase in proposal.phrases[: config.max_phrases]]
    decoys = pick_decoys(
        phrases,
        caption=item.filtered.caption,
        seed=item.picture.sha256,
        count=config.options.num_decoys if phrases else 0,
        lexicon=lexicon,
    )
    candidates = list_candidates(proposal, decoys, max_phrases=config.max_phrases)
    asked = [*phrases, *decoys]
    with timings.asking("detect"):
        result = _with_retries(
            lambda: ports.detector.detect(item.picture, asked, box_threshold=stored_from(config))
        )
    size_hw = item.picture.size_hw
    with timings.measure("merge"):
        if config.options.false_discovery_rate is None:
            annotations = merge_detections(
                result.detections, candidates, size_hw=size_hw, config=config, lexicon=lexicon
            )
        else:
            annotations = list_undecided(
                result.detections, candidates, size_hw=size_hw, config=config
            )
    if config.options.crop_check:
        with timings.asking("rank"):
            annotations = _check_crops(item, annotations, candidates, ports.crop_ranker, config)
    row = _row(item.row, item.filtered, status="labelled", candidates=candidates)
    return row.model_copy(
        update={
            "annotations": annotations,
            "negatives": list_negatives(candidates, result.detections, lexicon),
            "num_detector_chunks": result.num_chunks,
            "prompt_sha256": proposal.prompt_sha256,
            "raw_texts": tuple(
                RawText(template=template, text=text)
                for each in proposals
                for template, text in each.raw_texts.items()
            ),
        }
    )


def _check_crops(
    item: _Admitted,
    annotations: Sequence[Annotation],
    candidates: Sequence[Candidate],
    ranker: CropRanker,
    config: LabelConfig,
) -> tuple[Annotation, ...]:
    """Rank the annotations' crops, and drop kept boxes that are unlike their label.

    In an `auto` run no box is kept yet: its boxes are dropped later, when thresholds are chosen.
    """
    ranked = _with_retries(
        lambda: rank_annotations(
            annotations,
            candidates,
            picture=item.picture,
            caption=item.filtered.caption,
            ranker=ranker,
            config=config,
            lexicon=load_lexicon(),
        )
    )
    return drop_low_ranked(ranked, config)


def _row(
    row: SourceRow,
    filtered: FilterResult,
    *,
    status: Status,
    reason: str | None = None,
    detail: str | None = None,
    candidates: tuple[Candidate, ...] = (),
) -> Row:
    picture = filtered.picture
    url = row.columns.get("url")
    return Row(
        key=row.key,
        source_shard=row.shard,
        source_member=row.member,
        source_row=row.row,
        source_offset=row.picture_offset,
        source_size=None if row.picture_offset is None else row.size,
        url=without_userinfo(url) if isinstance(url, str) else None,
        caption=filtered.caption,
        captions=filtered.captions if len(filtered.captions) > 1 else (),
        image_sha256=picture.sha256 if picture else None,
        image_width=picture.size_hw[1] if picture else None,
        image_height=picture.size_hw[0] if picture else None,
        status=status,
        reason=reason,
        detail=detail or filtered.detail,
        filters=filtered.filters,
        candidates=candidates,
    )


def _with_retries(ask: Callable[[], Answer]) -> Answer:
    """Call `ask`; retry NOT_STARTED_ERRORS by SERVICE_RETRIES and record the waiting time."""
    return SERVICE_RETRIES.call(
        ask, on=NOT_STARTED_ERRORS, waited=lambda seconds: note_wait(1000 * seconds)
    )
