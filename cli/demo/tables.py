"""Tables that the demo prints: labels, sources of phrases, and the phrases of one picture."""

from collections import Counter
from collections.abc import Iterable, Sequence

from rich.table import Table

from unspoken.runs.dataset.rows import Candidate, Row

SHOWN_LABELS = 15
SHOWN_PHRASES = 24


def label_table(rows: Sequence[Row]) -> Table:
    """Return a table of how often each label was named by a caption, and how often implied."""
    kept = [annotation for row in rows for annotation in row.kept]
    named = Counter(each.label for each in kept if each.named)
    implied = Counter(each.label for each in kept if not each.named)
    table = Table(title="labels of kept boxes: named by a caption, or implied")
    table.add_column("label")
    table.add_column("named", justify="right")
    table.add_column("implied", justify="right")
    for label, _ in (named + implied).most_common(SHOWN_LABELS):
        table.add_row(label, str(named[label] or ""), str(implied[label] or ""))
    rest = len(named + implied) - SHOWN_LABELS
    if rest > 0:
        table.caption = f"and {rest} other labels"
    return table


def source_table(rows: Iterable[Row]) -> Table:
    """Return a table of each source's phrases: number named, implied, found and rejected.

    A phrase that several sources proposed counts for each of them.
    """
    counts: Counter[tuple[str, str]] = Counter()
    for row in rows:
        for candidate in row.candidates:
            if candidate.decoy:
                continue
            for source in {each.template for each in candidate.sources}:
                counts[source, ""] += 1
                if candidate.rejected is not None:
                    counts[source, "rejected"] += 1
                    continue
                counts[source, "named" if candidate.named else "implied"] += 1
                counts[source, "found"] += candidate.id in row.found
    shown = ("named", "implied", "found", "rejected")
    table = Table(title="phrases by source")
    table.add_column("source")
    for name in shown:
        table.add_column(name, justify="right")
    sources = Counter({source: number for (source, name), number in counts.items() if not name})
    for source, _ in sources.most_common():
        table.add_row(source, *(str(counts[source, name] or "") for name in shown))
    return table


def phrase_table(rows: Sequence[Row]) -> Table | None:
    """Return a table of the phrases of the most varied picture; None if none is labelled."""
    labelled = [row for row in rows if row.status == "labelled"]
    if not labelled:
        return None
    row = max(labelled, key=_num_kinds)
    table = Table(title=f"phrases of one picture: {row.caption!r} ({row.key})")
    for name in ("phrase", "kind", "sources", "result"):
        table.add_column(name)
    asked = sorted(
        (each for each in row.candidates if not each.decoy), key=lambda each: _order(each, row)
    )
    for candidate in asked[:SHOWN_PHRASES]:
        what = "named" if candidate.named else "implied"
        sources = ", ".join(dict.fromkeys(each.template for each in candidate.sources))
        table.add_row(candidate.phrase, what, sources, _fate(candidate, row))
    rest = len(asked) - SHOWN_PHRASES
    if rest > 0:
        table.caption = f"and {rest} other phrases"
    return table


def _num_kinds(row: Row) -> int:
    """Return the number of kinds of phrases in a row: named or implied, found, rejected."""
    return len(
        {
            (each.named, each.id in row.found, each.rejected is None)
            for each in row.candidates
            if not each.decoy
        }
    )


def _order(candidate: Candidate, row: Row) -> int:
    """Return a sort key: found phrases first, then rejected ones. The rest may be cut off."""
    if candidate.id in row.found:
        return 0
    return 1 if candidate.rejected is not None else 2


def _fate(candidate: Candidate, row: Row) -> str:
    if candidate.rejected is not None:
        return f"rejected: {candidate.rejected}"
    mine = [each for each in row.annotations if each.candidate_id == candidate.id]
    boxes = [each for each in mine if each.kept]
    if boxes:
        return f"{len(boxes)} found, best {max(each.score for each in boxes):.2f}"
    if candidate.id in row.found:
        return "found, merged into another label"
    if mine:
        best = max(mine, key=lambda each: each.score)
        return f"not kept: {best.drop_reason}, {best.score:.2f}"
    return "not found"
