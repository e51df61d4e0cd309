import pytest

from cli.filter_options import parse_filters
from unspoken.errors import InvalidInput
from unspoken.wire.filters import BLOCKLIST, FilterConfig


def test_no_setting_leaves_the_defaults():
    assert parse_filters([]) == FilterConfig()


def test_each_filter_can_be_switched_off_or_set():
    settings = [f"{name}=off" for name, field in FilterConfig.model_fields.items()
                if name not in ("min_language_score", "max_caption_chars")]  # fmt: skip
    off = parse_filters(settings)
    assert off.drop_duplicates is False
    assert {value for name, value in off if name not in ("drop_duplicates", "min_language_score",
            "max_caption_chars")} == {None}  # fmt: skip
    chosen = parse_filters(["language=de", "max_punsafe=0.5", "nsfw_ratings=UNLIKELY,UNSURE"])
    assert (chosen.language, chosen.max_punsafe) == ("de", 0.5)
    assert chosen.nsfw_ratings == ("UNLIKELY", "UNSURE")


def test_a_blocklist_comes_from_a_file_a_word_a_line(tmp_path):
    (tmp_path / "words.txt").write_text("stock photo\n\n clip art \n")
    filters = parse_filters([], blocklist=tmp_path / "words.txt")
    assert filters.blocklist == ("stock photo", "clip art") != BLOCKLIST


@pytest.mark.parametrize(
    "setting", ["speed=1", "language", "language=", "max_punsafe=much", "max_aspect=0.5"]
)
def test_a_setting_that_cannot_be_says_why(setting):
    with pytest.raises(InvalidInput, match=setting.partition("=")[0]):
        parse_filters([setting])


def test_a_blocklist_that_is_not_there_is_said(tmp_path):
    with pytest.raises(InvalidInput, match="cannot be read"):
        parse_filters([], blocklist=tmp_path / "none.txt")
