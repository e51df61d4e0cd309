"""OpenAPI bodies and statuses of `/segment` and `/images`, for the segmenter and the gateway.

Both services parse bodies (JSON or form) themselves, so FastAPI does not know their schemas.
"""

import base64
import json
from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel

from unspoken.imaging.images import ONE_WHITE_PIXEL
from unspoken.wire.segment import ImageReply, ImageRequest, SegmentRequest

EXAMPLE_PNG = base64.b64encode(ONE_WHITE_PIXEL).decode()


def inlined_schema(model: type[BaseModel]) -> dict[str, Any]:
    """Return a model's schema with all references resolved, because OpenAPI has no `$defs`."""
    schema = model.model_json_schema()
    parts = schema.pop("$defs", {})

    def resolve(node: Any) -> Any:
        if isinstance(node, Mapping):
            if "$ref" in node:
                return resolve(parts[str(node["$ref"]).rpartition("/")[2]])
            return {key: resolve(value) for key, value in node.items()}
        return [resolve(each) for each in node] if isinstance(node, list) else node

    resolved: dict[str, Any] = resolve(schema)
    return resolved


_QUERIES = [
    {"text": "car", "negative": ["truck"], "threshold": 0.4},
    {"text": "wheel", "boxes": [{"x0": 10, "y0": 40, "x1": 60, "y1": 90}]},
    {"points": [{"x": 30, "y": 30}, {"x": 5, "y": 5, "label": 0}]},
]
SEGMENT_BODY: dict[str, Any] = {
    "required": True,
    "content": {
        "application/json": {
            "schema": inlined_schema(SegmentRequest),
            "example": {
                "image": {"base64": EXAMPLE_PNG},
                "queries": _QUERIES[:1],
                "method": "auto",
                "output": {"mask": "rle", "embedding": False, "top_k": 20},
            },
        },
        "multipart/form-data": {
            "schema": {
                "type": "object",
                "required": ["queries"],
                "properties": {
                    "image": {"type": "string", "format": "binary"},
                    "image_id": {"type": "string", "description": "instead of a file"},
                    "name": {"type": "string"},
                    "queries": {"type": "string", "description": "the JSON list of queries"},
                    "method": {"type": "string", "enum": ["auto", "bank", "detector"]},
                    "output": {"type": "string", "description": "a JSON object"},
                    "nms_iou": {"type": "number"},
                    "independent": {"type": "boolean", "default": False},
                },
            },
            "example": {"queries": json.dumps(_QUERIES), "output": json.dumps({"mask": "polygon"})},
        },
    },
}
IMAGES_BODY: dict[str, Any] = {
    "required": True,
    "content": {
        "application/json": {
            "schema": inlined_schema(ImageRequest),
            "example": {"image": {"base64": EXAMPLE_PNG, "name": "street"}},
        },
        "multipart/form-data": {
            "schema": {
                "type": "object",
                "required": ["image"],
                "properties": {
                    "image": {"type": "string", "format": "binary"},
                    "name": {"type": "string"},
                },
            },
        },
    },
}
ADDED_IMAGE: dict[int | str, dict[str, Any]] = {
    200: {"model": ImageReply, "description": "The picture was cached already"},
    201: {"model": ImageReply, "description": "The picture was embedded now"},
}
KNOWN_IMAGE: dict[int | str, dict[str, Any]] = {
    304: {"description": "If-None-Match names the picture's ETag, and it is cached"},
}
