"""Groups file names into samples as webdataset does, each picture with its own caption.

webdataset's key of a name is its directory and its base name up to the first dot. Consecutive names
of one key are one sample. Such a group may contain more than webdataset's fields can express: two
pictures, two captions, or a name that occurs twice. Each of these is a row of its own with a
reason.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

from worker.sources.source_file import PICTURE_ENDINGS

CAPTION_ENDINGS = ("txt", "caption")
ABOUT_ENDINGS = ("json",)


@dataclass(frozen=True)
class Sample:
    """A future row: the positions of its files among the names of its key."""

    key: str
    picture: int | None = None
    caption: int | None = None
    about: int | None = None
    """Position of the JSON file beside the picture."""
    problem: str | None = None
    detail: str | None = None

    @property
    def places(self) -> list[int]:
        """All positions that are set."""
        return [each for each in (self.picture, self.caption, self.about) if each is not None]


def sample_key(name: str) -> str | None:
    """Return webdataset's key of a name; None for hidden files and names without an ending."""
    base = name.rpartition("/")[2]
    first, dot, _ = base.partition(".")
    return name[: len(name) - len(base)] + first if first and dot else None


def samples_of(key: str, names: Sequence[str]) -> list[Sample]:
    """Return the samples of the names of one key, pictures first, in order.

    A picture gets the caption of its own stem (a.jpg and a.txt, a.caption or a.jpg.txt). The first
    picture without one gets the caption of the key (a.left.jpg and a.txt). JSON files are assigned
    in the same way.
    """
    samples: list[Sample] = []
    for copy, layer in enumerate(_layers(names)):
        paired = _pair(key, layer)
        if copy:
            paired = [_repeated(sample, names) for sample in paired]
        samples += paired
    return samples


class _File(NamedTuple):
    place: int
    name: str

    @property
    def stem(self) -> str:
        return self.name.rpartition(".")[0]

    @property
    def ending(self) -> str:
        return self.name.rpartition(".")[2].lower()


class _Files(dict[str, _File]):
    """Files not yet assigned to a sample, by stem and lower-case ending; each name is unique."""

    def add(self, file: _File) -> None:
        self[f"{file.stem}.{file.ending}"] = file

    def take(self, stems: Iterable[str], endings: Iterable[str]) -> _File | None:
        names = (f"{stem}.{ending}" for stem in stems for ending in endings)
        found = next((name for name in names if name in self), None)
        return None if found is None else self.pop(found)


def _layers(names: Sequence[str]) -> list[list[_File]]:
    """Split files into first occurrences of a name, second occurrences, third, and so on."""
    copies: dict[str, int] = {}
    layers: list[list[_File]] = []
    for file in map(_File, range(len(names)), names):
        copy = copies.get(name := f"{file.stem}.{file.ending}", 0)
        copies[name] = copy + 1
        if copy == len(layers):
            layers.append([])
        layers[copy].append(file)
    return layers


def _repeated(sample: Sample, names: Sequence[str]) -> Sample:
    detail = f"{names[sample.places[0]]} comes more than once: its first copy counts"
    return replace(sample, problem="repeated_member", detail=detail)


def _pair(key: str, files: Iterable[_File]) -> list[Sample]:
    pictures: list[_File] = []
    waiting = _Files()
    for file in files:
        if file.ending in PICTURE_ENDINGS:
            pictures.append(file)
        elif file.ending in CAPTION_ENDINGS + ABOUT_ENDINGS:
            waiting.add(file)
    samples = [
        _sample(picture, key if len(pictures) == 1 else picture.stem, waiting, picture)
        for picture in pictures
    ]
    bare = next((n for n, sample in enumerate(samples) if len(sample.places) == 1), None)
    if bare is not None:
        samples[bare] = _sample(pictures[bare], samples[bare].key, waiting, _File(0, f"{key}."))
    first = next((n for n, sample in enumerate(samples) if len(sample.places) > 1), None)
    if first is None:
        return [*samples, *_left(key, waiting, "no_picture")]
    return [
        *(_second(sample, pictures, n, first) for n, sample in enumerate(samples)),
        *_left(key, waiting, "second_caption"),
    ]


def _sample(picture: _File, key: str, waiting: _Files, named: _File) -> Sample:
    """Return the sample of a picture with the caption and JSON file that match `named`."""
    caption = waiting.take((named.stem, named.name), CAPTION_ENDINGS)
    about = waiting.take((named.stem, named.name), ABOUT_ENDINGS)
    return Sample(
        key=key,
        picture=picture.place,
        caption=None if caption is None else caption.place,
        about=None if about is None else about.place,
    )


def _second(sample: Sample, pictures: Sequence[_File], number: int, first: int) -> Sample:
    """Return the sample; with a reason if another picture of the key has the caption."""
    if len(sample.places) > 1:
        return sample
    detail = f"{pictures[number].name} has no caption of its own: {pictures[first].name} has it"
    return replace(sample, problem="second_picture", detail=detail)


def _left(key: str, waiting: _Files, problem: str) -> Iterator[Sample]:
    """Yield a sample for each caption or JSON file that no picture took."""
    while waiting:
        file = next(iter(waiting.values()))
        caption = waiting.take((file.stem,), CAPTION_ENDINGS)
        about = waiting.take((file.stem,), ABOUT_ENDINGS)
        detail = f"{file.name} has no picture of its own"
        yield Sample(
            key=key,
            caption=None if caption is None else caption.place,
            about=None if about is None else about.place,
            problem=problem,
            detail=detail,
        )
