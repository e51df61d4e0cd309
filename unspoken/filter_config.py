"""What is not labelled: the intake's filters with their bounds. None switches a filter off.

Defaults are for tables like LAION's, which are drawn from the open web: strict on safety, and
English, since the small models know no other language.
"""

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

# Words that mark a caption as sexual whatever stands beside them; words with a harmless sense
# ('nude' is a colour of lipstick) are left to the picture's own score.
BLOCKLIST = (
    *("bestiality", "blowjob", "bukkake", "camgirl", "cumshot", "gangbang", "hentai", "incest"),
    *("jailbait", "loli", "lolicon", "milf", "nsfw", "onlyfans", "porn", "porno", "pornographic"),
    *("pornography", "pornstar", "shota", "shotacon", "upskirt", "xxx"),
)

Share = Annotated[float, Field(ge=0, le=1)]
Entry = Annotated[str, Field(min_length=1, max_length=100)]


class FilterConfig(BaseModel):
    """The bounds of each filter; a row outside one is dropped, and counted under its reason."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    language: Annotated[str, Field(pattern=r"^[a-z]{2,3}$")] | None = "en"
    """Code that the column LANGUAGE, or else the classifier, must say."""
    min_language_score: Share = 0.7
    """A caption that the classifier takes for another language is dropped from this score on."""
    min_caption_words: Annotated[int, Field(ge=1)] | None = 3
    max_caption_chars: Annotated[int, Field(ge=1, le=2000)] = 1000
    blocklist: Annotated[tuple[Entry, ...], Field(max_length=10_000)] | None = BLOCKLIST
    """Words or phrases that a caption must not hold, in any case."""
    max_punsafe: Share | None = 0.1
    """The column punsafe must be below this; None: that column does not count."""
    nsfw_ratings: tuple[Entry, ...] | None = ("UNLIKELY",)
    """What the column NSFW may say; None: that column does not count."""
    max_unsafe: Share | None = 0.5
    """Where no column counts, the picture's score by opennsfw must be below this."""
    max_watermark: Share | None = 0.8
    """The column pwatermark must be below this."""
    min_similarity: Annotated[float, Field(ge=-1, le=1)] | None = 0.28
    """The column similarity, of picture and caption by CLIP, must be at least this."""
    min_image_side_px: Annotated[int, Field(ge=1)] | None = 64
    max_aspect: Annotated[float, Field(ge=1)] | None = 3.0
    """Long side over short side; 3 is also the bound of DataComp's basic filter."""
    drop_duplicates: bool = True
    """A picture with the same bytes as one before it in the run is dropped."""
    max_hash_distance: Annotated[int, Field(ge=0, le=8)] | None = None
    """So is one that looks the same: whose 64-bit difference hash differs in so many bits."""
