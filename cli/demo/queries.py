"""The demo's last step: text queries about one of its pictures over HTTP, answered with masks."""

from collections.abc import Callable, Sequence
from pathlib import Path

from rich.console import Console

from cli.segmenter import open_segmenter
from cli.segmenting import describe_reply, read_question, segment_file
from unspoken.config.profiles import Profile
from unspoken.imaging.images import Picture
from unspoken.runs.dataset.rows import Row

ABSENT = "violin"
"""A query for something that is probably absent, to show a result without masks."""
MAX_WORDS = 5
ReadPicture = Callable[[Row], Picture]


def ask_for_words(
    rows: Sequence[Row],
    read: ReadPicture,
    out: Path,
    *,
    profile: Profile,
    url: str,
    console: Console,
) -> None:
    """Query the picture with the most labels; write OUT/KEY-masks.png and .json.

    The words are named and implied labels of the picture, and one absent word. Does nothing if the
    profile has no segmenter.
    """
    if profile.segmenter is None:
        return
    labelled = [row for row in rows if row.kept]
    if not labelled:
        return
    row = max(labelled, key=lambda each: (len(words_of(each)), each.key))
    out.mkdir(parents=True, exist_ok=True)
    picture = out / f"{Path(row.key).name}.jpg"
    picture.write_bytes(read(row).encoded)
    words = [*words_of(row)[:MAX_WORDS], ABSENT]
    with open_segmenter(url) as segmenter:
        reply = segment_file(read_question(picture, words), out=out, segmenter=segmenter)
    console.print(f"text queries over HTTP for {picture.name} ('{row.caption}'):")
    for line in describe_reply(reply):
        console.print(f"  {line}")
    console.print(f"masks                 {out / picture.stem}-masks.png")


def words_of(row: Row) -> list[str]:
    """Return the distinct labels of a row's kept boxes, implied and named ones in turn.

    Implied labels come first, because the caption does not mention them.
    """
    implied = [each.label for each in row.kept if not each.named]
    named = [each.label for each in row.kept if each.named]
    mixed = [label for pair in zip(implied, named, strict=False) for label in pair]
    return list(dict.fromkeys([*mixed, *implied, *named]))
