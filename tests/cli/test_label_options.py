import pytest
from typer.main import get_command

from cli.label_options import flag_of, parse_filters, run_request
from cli.main import app
from unspoken.errors import InvalidInput
from unspoken.wire.filters import BLOCKLIST, FilterConfig
from unspoken.wire.label_options import LabelOptions


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


def test_a_misspelt_filter_is_told_with_its_right_name():
    with pytest.raises(InvalidInput, match="unknown filter 'max_punsave'; did you mean 'max_pun"):
        parse_filters(["max_punsave=0.2"])


def test_a_blocklist_that_is_not_there_is_said(tmp_path):
    with pytest.raises(InvalidInput, match="does not exist"):
        parse_filters([], blocklist=tmp_path / "none.txt")


@pytest.mark.parametrize(
    ("asked", "threshold", "rate"),
    [
        pytest.param({}, None, None, id="default"),
        pytest.param({"box_threshold": "0.3"}, 0.3, None, id="number"),
        pytest.param({"box_threshold": "auto"}, "auto", 0.1, id="auto"),
        pytest.param(
            {"box_threshold": "auto", "false_discovery_rate": 0.02}, "auto", 0.02, id="stricter"
        ),
    ],
)
def test_a_threshold_is_a_number_or_chosen_by_decoys(asked, threshold, rate):
    request = run_request(asked, source="in")
    assert (request.box_threshold, request.false_discovery_rate) == (threshold, rate)


@pytest.mark.parametrize(
    ("asked", "why"),
    [
        pytest.param({"box_threshold": "much"}, "--box-threshold must be", id="no-number"),
        pytest.param({"box_threshold": "1.5"}, "--box-threshold must be", id="too-high"),
        pytest.param(
            {"false_discovery_rate": 0.1}, "--fdr needs --box-threshold", id="rate-without-auto"
        ),
        pytest.param(
            {"box_threshold": "auto", "false_discovery_rate": 0.0},
            "--fdr must be greater than 0",
            id="none-false",
        ),
        pytest.param(
            {"box_threshold": "auto", "num_decoys": 0},
            "--decoys must be at least 1",
            id="no-decoys",
        ),
    ],
)
def test_a_threshold_that_cannot_be_says_why(asked, why):
    with pytest.raises(InvalidInput, match=why):
        run_request(asked, source="in")


def test_every_labelling_option_has_one_flag_with_the_models_default():
    command = get_command(app).commands["label"].load()
    flags = {parameter.name: parameter for parameter in command.params}
    assert set(LabelOptions.model_fields) <= set(flags)
    for name, field in LabelOptions.model_fields.items():
        assert flags[name].opts == [flag_of(name)]
        assert flags[name].default == (None if name == "filters" else field.default)
