"""Bases of the wire models, and the models that every service shares."""

from collections.abc import Mapping
from typing import ClassVar

from pydantic import BaseModel, ConfigDict, Field, model_validator

from unspoken.config.services import ModelKind


class WireModel(BaseModel):
    """Base of all schemas: frozen, and an unknown field is an error.

    The docstring of a field is its description in OpenAPI.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)


class RequestModel(WireModel):
    """A part of a request. Null for an optional field means the same as omitting it."""

    field_hints: ClassVar[Mapping[str, str]] = {}
    """Field names of other tools -> the hint that says what to send instead."""

    @model_validator(mode="before")
    @classmethod
    def _null_is_absent(cls, written: object) -> object:
        if not isinstance(written, dict):
            return written
        return {
            name: value
            for name, value in written.items()
            if value is not None
            or name not in cls.model_fields
            or cls.model_fields[name].is_required()
        }


class ErrorBody(WireModel):
    """The body of every error reply."""

    error: str
    message: str
    details: dict[str, object] = Field(default_factory=dict)


class ModelInfo(WireModel):
    """The model that answered; `revision` is a hash or a hub's revision."""

    name: str
    kind: ModelKind
    revision: str
    device: str = "cpu"
