"""Bases of the wire models, and the models that every service shares.

Requests reject unknown fields, because a misspelt option would be ignored in silence. Replies and
files ignore them, so that clients and programs of one version read those of a later one.
"""

from collections.abc import Mapping
from functools import lru_cache
from typing import ClassVar, get_args

from pydantic import BaseModel, ConfigDict, Field, model_validator

from unspoken.config.services import ModelKind


class RequestModel(BaseModel):
    """A request, a part of one, or a file that users write. Unknown fields are errors.

    Null for a field that cannot be null means the same as omitting it. The docstring of a field is
    its description in OpenAPI.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    field_hints: ClassVar[Mapping[str, str]] = {}
    """Field names of other tools -> the hint that says what to send instead."""

    @model_validator(mode="before")
    @classmethod
    def _null_is_absent(cls, written: object) -> object:
        if not isinstance(written, dict) or None not in written.values():
            return written
        absent = _never_null(cls)
        return {
            name: value
            for name, value in written.items()
            if value is not None or name not in absent
        }


class ReplyModel(BaseModel):
    """A reply or a part of one. Unknown fields, of later versions, are ignored.

    The docstring of a field is its description in OpenAPI.
    """

    model_config = ConfigDict(frozen=True, extra="ignore", use_attribute_docstrings=True)


class FileModel(ReplyModel):
    """A file that this project writes, or a part of one. Unknown fields are ignored as in replies.

    Options in it are RequestModels: a program that ignored one would compute something else.
    """


class ErrorBody(ReplyModel):
    """The body of every error reply."""

    error: str
    message: str
    details: dict[str, object] = Field(default_factory=dict)


class ModelInfo(ReplyModel):
    """The model that answered; `revision` is a hash or a hub's revision."""

    name: str
    kind: ModelKind
    revision: str
    device: str = "cpu"


@lru_cache(maxsize=256)
def _never_null(model: type[BaseModel]) -> frozenset[str]:
    """Return the optional fields of a model whose value cannot be null."""
    return frozenset(
        name
        for name, field in model.model_fields.items()
        if not field.is_required() and type(None) not in get_args(field.annotation)
    )
