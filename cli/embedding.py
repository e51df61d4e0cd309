"""Embeds pictures of a folder ahead of time, so that the first query is fast."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from cli.checking.paths import check_folder, check_output_folder
from cli.segmenter import local_segmenter, open_segmenter
from services.segmenter.settings import SegmenterSettings
from unspoken.errors import InvalidInput, NotReady, Overloaded
from unspoken.imaging.file_formats import FILE_ENDINGS, FILE_FORMATS
from unspoken.imaging.images import read_picture
from unspoken.ports import Segmenter
from unspoken.retries import RetryPolicy

SUFFIXES = {f".{ending}" for ending in FILE_ENDINGS}
RETRIES = RetryPolicy(attempts=None, max_pause_s=5.0, total_s=300.0)


@dataclass
class EmbedReport:
    """Result of embedding a folder: pictures encoded, already cached, and refused."""

    num_encoded: int = 0
    num_there: int = 0
    refused: dict[Path, str] = field(default_factory=dict)
    """Files that could not be read as pictures, with the reason."""


def picture_files(folder: Path) -> list[Path]:
    """Return the picture files below a folder, in order. Raises InvalidInput if there are none."""
    check_folder(folder, what="the folder")
    paths = sorted(p for p in folder.rglob("*") if p.suffix.lower() in SUFFIXES and p.is_file())
    if not paths:
        raise InvalidInput(
            f"{folder} contains no pictures. Give a folder with {', '.join(sorted(SUFFIXES))}"
        )
    return paths


def embed_files(
    paths: Sequence[Path], segmenter: Segmenter, *, on_each: Callable[[], None]
) -> EmbedReport:
    """Embed pictures one after another; files that are not pictures are reported as refused."""
    report = EmbedReport()
    for path in paths:
        try:
            picture = read_picture(path.read_bytes(), formats=FILE_FORMATS)
            reply = RETRIES.call(partial(segmenter.add_image, picture), on=(Overloaded, NotReady))
        except InvalidInput as error:
            report.refused[path] = error.message
        except OSError as error:
            report.refused[path] = str(error.strerror)
        else:
            report.num_there += reply.cached
            report.num_encoded += not reply.cached
        on_each()
    return report


@contextmanager
def filled_segmenter(url: str | None, cache: Path | None) -> Iterator[Segmenter]:
    """Provide the segmenter whose cache is filled. Raises InvalidInput if there is no cache."""
    if url is not None:
        if cache is not None:
            raise InvalidInput(
                "--cache cannot be used with --url, because a service has its own cache: omit one"
            )
        with open_segmenter(url) as segmenter:
            yield segmenter
        return
    settings = SegmenterSettings()
    if cache is not None:
        settings = settings.model_copy(update={"disk_cache_dir": cache})
    if settings.disk_cache_dir is None:
        raise InvalidInput("no disk cache: give --cache, SEGMENTER_DISK_CACHE_DIR or --url")
    check_output_folder(settings.disk_cache_dir, what="--cache")
    with local_segmenter(settings, with_detector=False) as segmenter:
        yield segmenter
