"""Compares a source with the plan of a run: pictures that came, changed or went since."""

from dataclasses import dataclass
from pathlib import Path

from unspoken.errors import InvalidInput
from unspoken.runs.chunks import NAME_DIGEST_CHARS
from unspoken.runs.location import SourceLocation
from unspoken.runs.plan import Plan, chunks_by_file, read_plan
from worker.intake import list_source


@dataclass(frozen=True)
class SourceChanges:
    """How many rows of a source differ from those of a plan."""

    new: int = 0
    changed: int = 0
    gone: int = 0

    def __bool__(self) -> bool:
        return bool(self.new or self.changed or self.gone)


def compare_source(run_dir: Path, location: SourceLocation) -> SourceChanges:
    """List a run's source, without its pictures, and compare it with the plan.

    Raises NotFound without a plan, OSError.
    """
    plan = read_plan(run_dir)
    chunks = chunks_by_file(plan)
    new = changed = gone = 0
    try:
        for name, rows in list_source(
            location.source, root=location.root, pictures=location.pictures
        ):
            planned = _digests(plan, chunks.pop(name, []))
            listed = {row.digest for row in rows}
            unknown, missing = listed - planned, planned - listed
            num_changed = len(_names(unknown) & _names(missing))
            changed += num_changed
            new += len(unknown) - num_changed
            gone += len(missing) - num_changed
    except InvalidInput:
        # Nothing in the folder can be labelled any more: what is left of the plan is gone.
        pass
    gone += sum(plan.chunks[chunk_id].num_rows for ids in chunks.values() for chunk_id in ids)
    return SourceChanges(new, changed, gone)


def _digests(plan: Plan, chunk_ids: list[int]) -> set[str]:
    return {digest for each in chunk_ids for digest in plan.chunks[each].digests.values()}


def _names(digests: set[str]) -> set[str]:
    return {digest[:NAME_DIGEST_CHARS] for digest in digests}
