"""Requests and users' files reject unknown fields; replies and written files ignore them."""

import importlib
import json
import pkgutil
from collections.abc import Iterator
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import pytest
from pydantic import BaseModel, ValidationError

import unspoken.runs
import unspoken.wire
from unspoken.config.profiles import load_profile
from unspoken.errors import InvalidConfig
from unspoken.problem_words import first_problem, plain_problems
from unspoken.runs.plan import PlanFile
from unspoken.wire.base import FileModel, ReplyModel, RequestModel
from unspoken.wire.filters import FilterConfig

for package in (unspoken.wire, unspoken.runs):
    for module in pkgutil.walk_packages(package.__path__, f"{package.__name__}."):
        importlib.import_module(module.name)


def kinds(base: type[BaseModel]) -> Iterator[type[BaseModel]]:
    for kind in base.__subclasses__():
        if kind.__module__.startswith("unspoken."):
            yield kind
        yield from kinds(kind)


REQUESTS = sorted({*kinds(RequestModel)}, key=lambda kind: kind.__name__)
READ = sorted({*kinds(ReplyModel)} - {FileModel}, key=lambda kind: kind.__name__)


def name_of(kind: type[BaseModel]) -> str:
    return kind.__name__


def written(kind: Any, *, added: dict[str, object]) -> Any:
    """Return a JSON value of a type, with fields added to the objects of all its models."""
    if isinstance(kind, type) and issubclass(kind, BaseModel):
        needed = {
            name: written(field.annotation, added=added)
            for name, field in kind.model_fields.items()
            if field.is_required() or not issubclass(kind, RequestModel)
        }
        return {**needed, **({} if issubclass(kind, RequestModel) else added)}
    origin, arguments = get_origin(kind), get_args(kind)
    if origin is Annotated:
        return written(arguments[0], added=added)
    if origin is Literal:
        return arguments[0]
    if origin in (Union, UnionType):
        return written(next(each for each in arguments if each is not NoneType), added=added)
    if origin is dict:
        return {"key": written(arguments[1], added=added)}
    if origin is tuple and Ellipsis not in arguments:
        return [written(each, added=added) for each in arguments]
    if origin in (list, tuple):
        return [written(arguments[0], added=added)]
    return {str: "en", int: 1, float: 0.5, bool: True, object: "any"}[kind]


@pytest.mark.parametrize("kind", REQUESTS, ids=name_of)
def test_every_part_of_a_request_rejects_a_misspelt_field_and_names_the_right_one(kind):
    field = max(kind.model_fields, key=len)
    with pytest.raises(ValidationError) as caught:
        kind.model_validate({f"{field}s": 1})
    told = [each.message for each in plain_problems(caught.value, kind)]
    assert any(text.endswith(f"did you mean {field!r}?") for text in told), told


@pytest.mark.parametrize("kind", READ, ids=name_of)
def test_every_reply_and_file_is_read_without_the_fields_of_a_later_version(kind):
    plain = written(kind, added={})
    later = written(kind, added={"later": {"a": 1}})
    assert later != plain
    read = kind.model_validate_json(json.dumps(later))
    assert read == kind.model_validate_json(json.dumps(plain))
    assert "later" not in read.model_dump_json()


def test_a_plan_with_an_option_of_a_later_version_is_refused():
    plan = written(PlanFile, added={})
    plan["config"]["options"] = {"crop_checks": True}
    with pytest.raises(ValidationError) as caught:
        PlanFile.model_validate_json(json.dumps(plan))
    assert first_problem(caught.value, PlanFile) == (
        "unknown field 'crop_checks' of config.options; did you mean 'crop_check'?"
    )


def test_null_disables_a_filter_but_is_absent_where_a_field_cannot_be_null():
    filters = FilterConfig.model_validate({"language": None, "drop_duplicates": None})
    assert filters.language is None and filters.drop_duplicates is True


@pytest.mark.parametrize(
    ("models", "message"),
    [
        ("profile: {}", "unknown field 'profile'; did you mean 'profiles'?"),
        (
            "x-shared: 1\nprofiles: {small: {llm: {devise: cpu}}}",
            "unknown field 'devise' of profiles.small.llm; did you mean 'device'?",
        ),
        (
            "profiles: {llm: {llm: {parts: {a: {file: {}}}}}}",
            "unknown field 'file' of profiles.llm.llm.parts.a; did you mean 'files'?",
        ),
        (
            "profiles: {a: {detector: {options: {short_side: 640}}}}",
            "unknown field 'short_side' of profiles.a.detector.options; did you mean "
            "'short_side_px'?",
        ),
    ],
)
def test_a_models_file_rejects_an_unknown_key_and_names_the_right_one(tmp_path, models, message):
    path = tmp_path / "models.yaml"
    path.write_text(models)
    with pytest.raises(InvalidConfig) as refused:
        load_profile("small", models_file=path)
    assert message in refused.value.message
