"""Cut a model's answer at the end of its first line, or before the first repeated item."""

import re

_ITEM = re.compile(r"([^,;]+)([,;]?)")


def cut_answer(text: str) -> tuple[str, bool]:
    """Return the answer in the text written so far, and True if the answer has ended.

    A small model that repeats an item keeps repeating itself from there on. The last item is
    compared only if a separator or the end of the line follows it, because it may still grow.
    """
    line, newline, _ = text.lstrip(" ").partition("\n")
    seen: set[str] = set()
    for match in _ITEM.finditer(line):
        item, separator = match[1].strip().lower(), match[2]
        if item in seen and (separator or newline):
            return line[: match.start()].rstrip(" ,;"), True
        seen.add(item)
    return line.strip(), bool(newline)
