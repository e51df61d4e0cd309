"""Finishes a run: verifies its shards and writes labels, contact sheet, manifest and card."""

from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path

from unspoken.errors import UnspokenError
from unspoken.ports import TextEncoder
from unspoken.runs.chunks import Chunk
from unspoken.runs.dataset.card import write_card
from unspoken.runs.dataset.manifest import count_run, write_labels, write_manifest
from unspoken.runs.dataset.row_picture import draw_contact_sheet
from unspoken.runs.dataset.rows import Row
from unspoken.runs.dataset.shards import chunk_of, committed_records, read_shard
from unspoken.runs.location import SourceLocation, locate_source
from unspoken.runs.plan import Plan
from worker.dispatch.choose_thresholds import decide_run
from worker.dispatch.run_state import RunState
from worker.process.attempt import check_models
from worker.sources.intake import read_chunk


def finish_run(
    run_state: RunState,
    plan: Plan,
    *,
    text_encoder: TextEncoder,
    runs_dir: Path,
    data_dir: Path | None,
) -> bool:
    """Write the files that complete the dataset; return False if a shard is damaged.

    Every shard is first compared with its record. Each file is written atomically, so an
    interrupted call may be repeated. Raises the encoder's errors, ModelsChanged and OSError.
    """
    ledger = run_state.ledger
    if not run_state.verified:
        if not all([ledger.verify(chunk.id) for chunk in plan.chunks]):
            return False
        run_state.verified = True
    check_models(plan, [text_encoder.model])
    ledger.sweep(len(plan.chunks))
    if plan.config.options.false_discovery_rate is not None and run_state.decision is None:
        retried = run_state.run.retry_of
        run_state.decision = decide_run(
            ledger.shards_dir, plan, retried_dir=None if retried is None else runs_dir / retried
        )
    location = locate_source(run_state.run, runs_dir=runs_dir, data_dir=data_dir)
    dataset_dir = ledger.run_dir / "dataset"
    decision = run_state.decision
    chosen = None if decision is None else decision.chosen
    counts = count_run(ledger.run_dir, plan, chosen)
    write_labels(dataset_dir, sorted(counts.stored_labels), text_encoder)
    shown = _Pictures(dataset_dir, plan, location)
    draw_contact_sheet(dataset_dir, shown.rows(), shown.load)
    write_manifest(ledger.run_dir, plan, counts, chosen)
    write_card(dataset_dir, plan, counts, decision, notice=run_state.notice)
    return True


class _Pictures:
    """Iterates over a run's rows, and loads the picture of the row that came last."""

    def __init__(self, dataset_dir: Path, plan: Plan, location: SourceLocation) -> None:
        self._dataset_dir, self._plan = dataset_dir, plan
        self._chunk_id = 0

        @lru_cache(maxsize=1)
        def read(chunk_id: int) -> dict[int, bytes | None]:
            chunk: Chunk = plan.chunks[chunk_id]
            sources = read_chunk(chunk, root=location.root, pictures=location.pictures)
            return {source.row: source.picture for source in sources}

        self._read = read

    def rows(self) -> Iterator[Row]:
        for path, _ in committed_records(self._dataset_dir):
            self._chunk_id = chunk_of(path)
            yield from read_shard(path)

    def load(self, row: Row) -> bytes | None:
        try:
            return self._read(self._chunk_id).get(row.source_row)
        except (UnspokenError, OSError):
            return None
