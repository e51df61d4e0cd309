"""The parquet that img2dataset writes beside a shard: columns by key."""

from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from unspoken.errors import InvalidInput
from worker.readers.columns import known_spellings, pick_columns
from worker.readers.row import Columns


def columns_beside(parquet: Path) -> Mapping[str, Columns]:
    """Columns by key; none where there is no such file. Raises InvalidInput."""
    if not parquet.is_file():
        return {}
    return _read(parquet, parquet.stat().st_mtime_ns)


@lru_cache(maxsize=2)
def _read(parquet: Path, _mtime_ns: int) -> Mapping[str, Columns]:
    try:
        names = known_spellings(pq.read_schema(parquet).names)
        table = pq.read_table(parquet, columns=names, partitioning=None)
    except (OSError, pa.ArrowInvalid) as error:
        # pyarrow's own errors have no number; those of the disk have one, and may pass.
        if isinstance(error, OSError) and error.errno is not None:
            raise
        raise InvalidInput(f"{parquet.name} cannot be read: {error}") from error
    rows = map(pick_columns, table.to_pylist())
    return {str(row["key"]): row for row in rows if "key" in row}
