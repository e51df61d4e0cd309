"""Compares a source with the plan of a run: pictures added, changed or removed since."""

from dataclasses import dataclass
from pathlib import Path

from unspoken.errors import InvalidInput
from unspoken.runs.chunks import NAME_DIGEST_CHARS
from unspoken.runs.location import SourceLocation
from unspoken.runs.plan import Plan, chunks_by_file, read_plan
from worker.sources.intake import list_source
from worker.sources.row import NO_NAME


@dataclass(frozen=True)
class SourceChanges:
    """Numbers of pictures in which a source differs from a plan."""

    new: int = 0
    changed: int = 0
    gone: int = 0

    def __bool__(self) -> bool:
        return bool(self.new or self.changed or self.gone)


def compare_source(run_dir: Path, location: SourceLocation) -> SourceChanges:
    """Compare the pictures of a run's source, by name and caption, with the plan.

    Raises NotFound if there is no plan, and OSError.
    """
    plan = read_plan(run_dir)
    chunks = chunks_by_file(plan)
    new = changed = gone = 0
    try:
        for name, rows in list_source(
            location.source,
            root=location.root,
            pictures=location.pictures,
            runs_dir=run_dir.parent,
        ):
            planned = _digests(plan, chunks.pop(name, []))
            listed = {row.digest for row in rows if not row.digest.startswith(NO_NAME)}
            unknown, missing = listed - planned, planned - listed
            num_changed = len(_names(unknown) & _names(missing))
            changed += num_changed
            new += len(unknown) - num_changed
            gone += len(missing) - num_changed
    except InvalidInput:
        # Nothing in the folder can be labelled any more, so the remaining planned rows are gone.
        pass
    gone += sum(len(_digests(plan, chunk_ids)) for chunk_ids in chunks.values())
    return SourceChanges(new, changed, gone)


def _digests(plan: Plan, chunk_ids: list[int]) -> set[str]:
    digests = (plan.chunks[each].digests.values() for each in chunk_ids)
    return {each for some in digests for each in some if not each.startswith(NO_NAME)}


def _names(digests: set[str]) -> set[str]:
    return {digest[:NAME_DIGEST_CHARS] for digest in digests}
