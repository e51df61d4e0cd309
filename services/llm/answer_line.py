"""Where an answer ends: at its line's end, or before the first item that repeats."""

import re

_ITEM = re.compile(r"([^,;]+)([,;]?)")


def cut_answer(text: str) -> tuple[str, bool]:
    """The answer in what the model has written so far, and whether it has ended.

    A small model that repeats an item goes round in circles from there on. The last item counts
    only when a comma or the line's end follows: it may still grow.
    """
    line, newline, _ = text.lstrip(" ").partition("\n")
    seen: set[str] = set()
    for match in _ITEM.finditer(line):
        item, separator = match[1].strip().lower(), match[2]
        if item in seen and (separator or newline):
            return line[: match.start()].rstrip(" ,;"), True
        seen.add(item)
    return line.strip(), bool(newline)
