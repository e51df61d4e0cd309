"""The demo's last act: words asked of one of its own pictures over HTTP, answered with masks."""

from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from stack.segmenting import describe_reply, reached_segmenter, segment_file
from unspoken.runs.picture_files import PictureFiles, Place
from unspoken.runs.rows import Row
from unspoken.settings import ProcessSettings

ABSENT = "violin"
"""A word that is asked for though nothing speaks for it: no hit is an answer too."""
MAX_WORDS = 5


def ask_for_words(
    rows: Sequence[Row], shards: Path, out: Path, *, url: str, console: Console
) -> None:
    """Write OUT/KEY-masks.png and .json of the picture with most labels, if there is a segmenter.

    The words are labels that the dataset found in the picture, named and implied, and one absent.
    """
    settings = ProcessSettings()
    if settings.read_profile().segmenter is None:
        return
    labelled = [row for row in rows if row.kept]
    if not labelled:
        return
    row = max(labelled, key=lambda each: (len(words_of(each)), each.key))
    out.mkdir(parents=True, exist_ok=True)
    picture = out / f"{Path(row.key).name}.jpg"
    picture.write_bytes(_read(row, shards))
    words = [*words_of(row)[:MAX_WORDS], ABSENT]
    with reached_segmenter(url) as segmenter:
        reply = segment_file(picture, words, out=out, segmenter=segmenter)
    console.print(f"asked {picture.name} ('{row.caption}') for words over HTTP:")
    for line in describe_reply(reply):
        console.print(f"  {line}")
    console.print(f"masks drawn           {out / picture.stem}-masks.png")


def words_of(row: Row) -> list[str]:
    """Labels of a row's kept boxes, implied ones first: they are what the caption leaves out."""
    implied = [each.label for each in row.kept if not each.named]
    named = [each.label for each in row.kept if each.named]
    mixed = [label for pair in zip(implied, named, strict=False) for label in pair]
    return list(dict.fromkeys([*mixed, *implied, *named]))


def _read(row: Row, shards: Path) -> bytes:
    place = Place.of(row)._replace(shard=Path(row.source_shard).name)
    return PictureFiles(shards).read(place).encoded
