"""The immutable plan of a run: assigns the rows of each source file to chunks.

plan.json holds the options and the models of the run. The chunks are lines of a file beside it,
whose name contains the start of their digest. The same source and the same request give the same
bytes, because a plan uses no clock and no random number. A chunk has rows of one file only, so a
worker opens one file for it.
"""

import hashlib
import secrets
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

from pydantic import ValidationError

from unspoken.errors import Conflict, InvalidInput, NotFound, PlanDamaged
from unspoken.runs import storage
from unspoken.runs.chunks import Chunk, ChunkLines, dump_chunk, dump_chunks, open_chunks
from unspoken.runs.files import file_sha256, json_sha256, unreadable, write_json
from unspoken.wire.base import FileModel, ModelInfo, RequestModel
from unspoken.wire.label_options import LabelOptions

DATASET_MARGIN = 0.06
PLAN_FILE = "plan.json"


class ListedRow(NamedTuple):
    """A row as the planner sees it: its index in the file, and a digest of its content."""

    row: int
    digest: str
    offset: int = 0
    """Position in the file where a reader may start for this row."""
    duplicate: bool = False
    """True if its picture occurs earlier in the run."""


class LabelConfig(RequestModel):
    """All that decides a run's output, apart from data and models: its options and constants."""

    options: LabelOptions = LabelOptions()
    named_threshold: float
    """Minimum score of a named label's boxes: the option `box_threshold`, or `default_threshold`.
    If decoys choose the thresholds, it decides only which boxes are stored."""
    implied_margin: float = 0.35
    """Extra score required of implied labels, compared to named ones."""
    store_fraction: float = 0.5
    """Boxes are stored from this fraction of the threshold on; those below the threshold have
    `kept` false."""
    min_box_side_px: float = 8.0
    min_box_area_share: float = 0.001
    max_box_area_share: float = 0.95
    """Largest share of the picture that a box of a thing may cover; stuff may be larger."""
    min_part_inside: float = 0.7
    """Share of a part's box that must lie within a box of the noun whose parts were asked for."""
    label_nms_iou: float = 0.5
    part_nms_iou: float = 0.3
    label_nested_share: float = 0.8
    """A box is a repetition if this share of it lies within another box of the same label."""
    merge_iou: float = 0.8
    synonym_merge_iou: float = 0.7
    """IoU from which boxes merge if one label means or includes the other (dog, hound, animal)."""
    max_clip_rank: int = 5
    """With `crop_check`: largest rank of a label among the picture's labels and random ones."""
    num_random_labels: int = 200
    """Largest number of random labels. They come from the decoys' words, without those that are
    similar to the picture's own labels."""
    max_boxes: int = 50
    max_phrases: int = 40
    detector_threads: int = 4


def stored_from(config: LabelConfig) -> float:
    """Return the lowest score of a stored box."""
    return config.named_threshold * config.store_fraction


def default_threshold(detector_threshold: float) -> float:
    """Return the default box threshold of a run.

    It is higher than the detector's own, because a dataset needs precision. Both margins were
    chosen on 300 small-world pictures (docs/decisions/0004).
    """
    return min(1.0, detector_threshold + DATASET_MARGIN)


def config_sha256(config: LabelConfig) -> str:
    """Return the digest of a config."""
    return json_sha256(config.model_dump(mode="json"))


@dataclass(frozen=True, kw_only=True)
class Plan:
    """The options, models and chunks of a run."""

    run_id: str
    config: LabelConfig
    config_sha256: str
    models: dict[str, ModelInfo]
    """'llm', 'detector', 'text_encoder' -> the model that must answer."""
    prompt_sha256: str | None = None
    """Digest of the prompt text around every caption; None if the prompter reports none."""
    num_rows: int
    """Number of inputs of the run."""
    chunks: Sequence[Chunk]


class PlanFile(FileModel):
    """The content of plan.json."""

    run_id: str
    config: LabelConfig
    config_sha256: str
    models: dict[str, ModelInfo]
    prompt_sha256: str | None = None
    num_rows: int
    num_chunks: int
    chunks_file: str
    chunks_sha256: str


def make_plan(
    run_id: str,
    listing: Iterable[tuple[str, Iterable[ListedRow]]],
    *,
    config: LabelConfig,
    models: dict[str, ModelInfo],
    prompt_sha256: str | None = None,
) -> Plan:
    """Divide (file, its rows) pairs into chunks. Raises InvalidInput if there are no rows."""
    # Chunks are stored as lines, because five million rows as objects would fill a GiB.
    lines, num_chunks, num_rows = bytearray(), 0, 0
    for source, rows in listing:
        for part in _parts(rows, config.options.chunk_size):
            chunk = Chunk(
                id=num_chunks,
                source=source,
                ranges=_ranges([row.row for row in part]),
                row_digests="".join(row.digest for row in part),
                offset=part[0].offset,
                duplicates=tuple(row.row for row in part if row.duplicate),
            )
            lines += dump_chunk(chunk)
            num_chunks += 1
            num_rows += len(part)
    if not num_chunks:
        raise InvalidInput("the source has no rows to label")
    return Plan(
        run_id=run_id,
        config=config,
        config_sha256=config_sha256(config),
        models=models,
        prompt_sha256=prompt_sha256,
        num_rows=num_rows,
        chunks=ChunkLines(bytes(lines)),
    )


def write_plan(run_dir: Path, plan: Plan) -> None:
    """Write the plan once. Raises Conflict if the run has a different plan."""
    lines = dump_chunks(plan.chunks)
    digest = hashlib.sha256(lines).hexdigest()
    content = PlanFile(
        run_id=plan.run_id,
        config=plan.config,
        config_sha256=plan.config_sha256,
        models=plan.models,
        prompt_sha256=plan.prompt_sha256,
        num_rows=plan.num_rows,
        num_chunks=len(plan.chunks),
        chunks_file=f"chunks-{digest[:16]}.jsonl",
        chunks_sha256=digest,
    )
    storage.replace(run_dir / content.chunks_file, lines)
    draft = run_dir / f".plan.{secrets.token_hex(4)}.tmp"
    write_json(draft, content.model_dump(mode="json"))
    try:
        final = run_dir / PLAN_FILE
        won = storage.publish_first(draft, final)
        if not won and file_sha256(draft) != file_sha256(final):
            raise Conflict(
                f"run {plan.run_id!r} already has another plan, because its source, models or "
                f"prompts have changed: if its files were damaged, restore {PLAN_FILE} and "
                f"chunks-*.jsonl from a backup, or run `unspoken fork {plan.run_id}`"
            )
    finally:
        storage.remove(draft)


def read_plan(run_dir: Path) -> Plan:
    """Read the plan of a run; caches the last few plans. Raises NotFound, PlanDamaged."""
    path = run_dir / PLAN_FILE
    try:
        found = path.stat()
        return _read_plan(path, found.st_mtime_ns, found.st_size)
    except FileNotFoundError as error:
        raise NotFound(f"run {run_dir.name!r} has no plan") from error
    except ValidationError as error:
        raise PlanDamaged(unreadable(path, error, PlanFile)) from error


def forget_plans() -> None:
    """Clear the cache of plans, so that each is read and checked again."""
    _read_plan.cache_clear()


def chunks_by_file(plan: Plan) -> dict[str, list[int]]:
    """Return file of the source -> ids of its chunks."""
    found: dict[str, list[int]] = {}
    for chunk in plan.chunks:
        found.setdefault(chunk.source, []).append(chunk.id)
    return found


def read_plan_file(run_dir: Path) -> PlanFile:
    """Read plan.json, without the chunks. Raises OSError, pydantic.ValidationError."""
    return PlanFile.model_validate_json((run_dir / PLAN_FILE).read_bytes())


@lru_cache(maxsize=8)
def _read_plan(path: Path, _mtime_ns: int, _size: int) -> Plan:
    content = read_plan_file(path.parent)
    return Plan(
        run_id=content.run_id,
        config=content.config,
        config_sha256=content.config_sha256,
        models=content.models,
        prompt_sha256=content.prompt_sha256,
        num_rows=content.num_rows,
        chunks=_open_chunks(path.with_name(content.chunks_file), content),
    )


def _open_chunks(path: Path, content: PlanFile) -> ChunkLines:
    try:
        chunks = open_chunks(path)
    except (FileNotFoundError, ValueError) as error:
        raise PlanDamaged(f"{path} is missing or empty") from error
    if len(chunks) != content.num_chunks or chunks.sha256() != content.chunks_sha256:
        raise PlanDamaged(
            f"{path} does not match {PLAN_FILE}: it has {len(chunks)} chunks, "
            f"{content.num_chunks} are planned"
        )
    chunks[0:1]  # raises ValidationError here and not in the middle of the run
    return chunks


def _ranges(rows: Iterable[int]) -> tuple[tuple[int, int], ...]:
    ranges: list[tuple[int, int]] = []
    for row in rows:
        if ranges and ranges[-1][1] == row:
            ranges[-1] = (ranges[-1][0], row + 1)
        else:
            ranges.append((row, row + 1))
    return tuple(ranges)


def _parts(rows: Iterable[ListedRow], size: int) -> Iterator[list[ListedRow]]:
    part: list[ListedRow] = []
    for row in rows:
        part.append(row)
        if len(part) == size:
            yield part
            part = []
    if part:
        yield part
