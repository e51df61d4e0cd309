"""Where an answer ends: at its line's end, or before the first item that repeats."""


def cut_answer(text: str) -> tuple[str, bool]:
    """The answer in what the model has written so far, and whether it has ended.

    A small model that repeats an item goes round in circles from there on. The last item counts
    only when a comma or the line's end follows: it may still grow.
    """
    line, newline, _ = text.lstrip(" ").partition("\n")
    items = line.split(",")
    complete = items if newline else items[:-1]
    seen: set[str] = set()
    for place, item in enumerate(complete):
        if item.strip().lower() in seen:
            return ",".join(items[:place]).strip(), True
        seen.add(item.strip().lower())
    return line.strip(), bool(newline)
