"""How the OpenAPI document describes the web UI's calls."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel

from service.compat.a1111.answers import A1111Error
from service.http.warnings import HEADER_DOCUMENT
from service.routes.openapi import Responses, problems


def answers(*statuses: int) -> Responses:
    """Describe a call's answers: its errors have the web UI's form."""
    refused = problems(*statuses, model=A1111Error)
    return {200: {"headers": HEADER_DOCUMENT}, **refused} if statuses else refused


def body(model: type[BaseModel], **example: object) -> dict[str, Any]:
    """Describe a JSON body; `example` is a short one."""
    schema = _inlined(model.model_json_schema())
    content = {"schema": schema, "examples": {"short": {"summary": "A short one", "value": example}}}
    return {"requestBody": {"required": True, "content": {"application/json": content}}}


def _inlined(schema: dict[str, Any]) -> dict[str, Any]:
    """Put the schemas that a schema refers to into it: the document has no place for them."""
    inner: dict[str, Any] = schema.pop("$defs", {})

    def put(value: Any) -> Any:
        if isinstance(value, dict):
            reference = value.get("$ref")
            return inner[reference.rpartition("/")[2]] if reference else {k: put(v) for k, v in value.items()}
        return [put(item) for item in value] if isinstance(value, list) else value

    return {name: put(value) for name, value in schema.items()}
