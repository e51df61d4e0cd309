"""Independent reader of a run's dataset; it shares no code with the writer.

A shard counts if the commit record beside it contains its sha256. The chaos suite uses it; it also
runs alone: `python -m tests.chaos.reader DATASET`.
"""

import hashlib
import json
import sys
from collections import Counter
from pathlib import Path
from typing import NamedTuple

import pyarrow.parquet as pq


class EndState(NamedTuple):
    """Rows by (source file, place in it), and one digest of all rows."""

    inputs: Counter[tuple[str, int]]
    """Number of rows of each input in committed shards."""
    statuses: dict[str, str]
    """Caption -> `labelled`, `dropped: reason` or `failed: reason`."""
    sha256: str
    """Digest of all rows, sorted."""
    problems: list[str]
    """Shards without record, records without shard, hashes and counts that do not match."""


def read_end_state(dataset: Path) -> EndState:
    """Read every shard that has a commit record."""
    rows, problems = [], []
    records = {path.stem: path for path in dataset.glob("shard-*.json")}
    shards = {path.stem: path for path in dataset.glob("shard-*.parquet")}
    problems += [f"{name} has a record and no shard" for name in sorted(set(records) - set(shards))]
    problems += [f"{name} has a shard and no record" for name in sorted(set(shards) - set(records))]
    for name in sorted(set(shards) & set(records)):
        record = json.loads(records[name].read_text())
        content = shards[name].read_bytes()
        if hashlib.sha256(content).hexdigest() != record["sha256"]:
            problems.append(f"{name} is not the shard that its record names")
            continue
        found = pq.read_table(shards[name], partitioning=None).to_pylist()
        if len(found) != record["num_rows"]:
            problems.append(f"{name} has {len(found)} rows, its record says {record['num_rows']}")
        rows += found
    lines = sorted(json.dumps(row, sort_keys=True, ensure_ascii=False) for row in rows)
    return EndState(
        inputs=Counter((row["source_shard"], row["source_row"]) for row in rows),
        statuses={row["caption"]: _status(row) for row in rows},
        sha256=hashlib.sha256("\n".join(lines).encode()).hexdigest(),
        problems=problems,
    )


def _status(row: dict) -> str:
    return row["status"] if row["reason"] is None else f"{row['status']}: {row['reason']}"


if __name__ == "__main__":
    state = read_end_state(Path(sys.argv[1]))
    twice = sum(times > 1 for times in state.inputs.values())
    counts = dict(Counter(state.statuses.values()))
    summary = {"rows": len(state.inputs), "twice": twice, "statuses": counts}
    sys.stdout.write(json.dumps({**summary, "sha256": state.sha256, "problems": state.problems}))
    sys.stdout.write("\n")
