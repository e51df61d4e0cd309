"""Limits of the filters that exclude rows from labelling. None disables a filter.

Defaults suit tables such as LAION's, which come from the open web: strict safety filters, and
English only, because the small models know no other language.
"""

from typing import Annotated

from pydantic import Field

from unspoken.wire.base import RequestModel

# Words that mark a caption as sexual in any context. Words with a harmless sense ('nude' is a
# colour of lipstick) are not listed, because the picture's own score covers them.
BLOCKLIST = (
    *("bestiality", "blowjob", "bukkake", "camgirl", "cumshot", "gangbang", "hentai", "incest"),
    *("jailbait", "loli", "lolicon", "milf", "nsfw", "onlyfans", "porn", "porno", "pornographic"),
    *("pornography", "pornstar", "shota", "shotacon", "upskirt", "xxx"),
)

Share = Annotated[float, Field(ge=0, le=1)]
Entry = Annotated[str, Field(min_length=1, max_length=100)]


class FilterConfig(RequestModel):
    """The limits of each filter; a row that violates one is dropped and counted by reason."""

    language: Annotated[str, Field(pattern=r"^[a-z]{2,3}$")] | None = "en"
    """Required language code, from the column LANGUAGE or else from the classifier."""
    min_language_score: Share = 0.7
    """Drop a caption that the classifier assigns to another language with at least this score."""
    min_caption_words: Annotated[int, Field(ge=1)] | None = 3
    max_caption_chars: Annotated[int, Field(ge=1, le=2000)] = 1000
    blocklist: Annotated[tuple[Entry, ...], Field(max_length=10_000)] | None = BLOCKLIST
    """Words or phrases that a caption must not contain, ignoring case."""
    max_punsafe: Share | None = 0.1
    """The column punsafe must be below this. None: the column is ignored."""
    nsfw_ratings: tuple[Entry, ...] | None = ("UNLIKELY",)
    """Allowed values of the column NSFW. None: the column is ignored."""
    max_unsafe: Share | None = 0.5
    """If no column applies, the picture's opennsfw score must be below this."""
    max_watermark: Share | None = 0.8
    """The column pwatermark must be below this."""
    min_similarity: Annotated[float, Field(ge=-1, le=1)] | None = 0.28
    """The column similarity (CLIP similarity of picture and caption) must be at least this."""
    min_image_side_px: Annotated[int, Field(ge=1)] | None = 64
    max_aspect: Annotated[float, Field(ge=1)] | None = 3.0
    """Maximum ratio of long side to short side; 3 is also the limit of DataComp's basic filter."""
    drop_duplicates: bool = True
    """Drop a picture with the same bytes as an earlier one of the run."""
    max_hash_distance: Annotated[int, Field(ge=0, le=8)] | None = None
    """Also drop a picture that looks like an earlier one of the run.

    Two pictures look alike if their 64-bit difference hashes differ in at most this many bits.
    """
