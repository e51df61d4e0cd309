"""Chooses the thresholds of an `auto` run from its decoys, at its end, and applies them.

Workers store all boxes undecided, because the scores of all sources and decoys are known only when
the last chunk is committed. The thresholds depend only on the committed shards. The decided shards
depend only on these shards and the thresholds. So this is idempotent: a rerun writes identical
bytes.
"""

import secrets
from pathlib import Path

from unspoken.runs import storage
from unspoken.runs.dataset.false_discovery import (
    Decision,
    ScoreTally,
    Thresholds,
    choose_thresholds,
)
from unspoken.runs.dataset.manifest import read_thresholds
from unspoken.runs.dataset.rows import Row
from unspoken.runs.dataset.shards import (
    CommitRecord,
    committed_records,
    count_rows,
    dump_record,
    iter_rows,
    read_shard,
    write_shard,
)
from unspoken.runs.ledger import Ledger
from unspoken.runs.plan import LabelConfig, Plan, stored_from
from unspoken.text.lexicon import Lexicon, load_lexicon
from worker.label.crop_check import drop_low_ranked
from worker.label.merging import decide_annotations


def decide_run(undecided_dir: Path, plan: Plan, *, retried_dir: Path | None = None) -> Decision:
    """Choose the thresholds of a run and write its decided shards into `dataset/`.

    retried_dir: folder of the run that this one retries. Its thresholds are used, so that both runs
    form one dataset; a few failed rows have too few decoys to choose thresholds.
    """
    rate = plan.config.options.false_discovery_rate
    assert rate is not None, "only such runs are undecided"
    tally = ScoreTally()
    for row in iter_rows(undecided_dir):
        tally.add(row)
    chosen = read_thresholds(retried_dir / "dataset") if retried_dir is not None else None
    if chosen is None:
        chosen = choose_thresholds(
            tally,
            false_discovery_rate=rate,
            stored_from=stored_from(plan.config),
            run_id=plan.run_id,
        )
    dataset_dir = undecided_dir.with_name("dataset")
    Ledger(dataset_dir.parent).sweep(len(plan.chunks))
    lexicon, thresholds = load_lexicon(), chosen.by_source()
    for path, record in committed_records(undecided_dir):
        rows = [
            decide_row(row, plan.config, thresholds=thresholds, lexicon=lexicon)
            for row in read_shard(path)
        ]
        _publish(dataset_dir, record, rows)
    return Decision(chosen, tally)


def decide_row(row: Row, config: LabelConfig, *, thresholds: Thresholds, lexicon: Lexicon) -> Row:
    """Return the row as a run that had these thresholds from the start would have written it."""
    if row.image_width is None or row.image_height is None:
        return row
    annotations = decide_annotations(
        row.annotations,
        row.candidates,
        size_hw=(row.image_height, row.image_width),
        config=config,
        lexicon=lexicon,
        thresholds=thresholds,
    )
    return row.model_copy(update={"annotations": drop_low_ranked(annotations, config)})


def _publish(dataset_dir: Path, undecided: CommitRecord, rows: list[Row]) -> None:
    """Write the shard and its record, each atomically. Files of an earlier call are replaced."""
    final = dataset_dir / undecided.shard
    draft = dataset_dir / f".{final.name}.{secrets.token_hex(6)}.tmp"
    try:
        write_shard(draft, rows)
        sha256 = storage.seal(draft)
        storage.replace_by(draft, final)
    finally:
        storage.remove(draft)
    record = undecided.model_copy(update={"sha256": sha256, **count_rows(rows)})
    storage.replace(final.with_suffix(".json"), dump_record(record))
