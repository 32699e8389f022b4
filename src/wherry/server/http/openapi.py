"""The OpenAPI document of what is served, made from the table of calls."""

from __future__ import annotations

from http import HTTPStatus
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

import msgspec

from wherry.calls import COMMON_ERRORS, Call, Param
from wherry.models import ErrorReply

if TYPE_CHECKING:
    from collections.abc import Iterable

_KINDS = {"string": {"type": "string"}, "integer": {"type": "integer"}, "boolean": {"type": "boolean"}}
_NUMBERS = frozenset({"image_id", "action_id", "snapshot_id", "droplet_id", "number"})
_HEADERS = {
    "ratelimit-limit": ("How many requests an hour the token may make.", {"type": "integer"}),
    "ratelimit-remaining": ("How many of them are left.", {"type": "integer"}),
    "ratelimit-reset": ("When the oldest of them no longer counts, in Unix seconds.", {"type": "integer"}),
    "x-request-id": ("Finds the request in the service's log.", {"type": "string", "format": "uuid"}),
}
"""The headers that every reply has."""
_BYTES_HEADERS = {
    "accept-ranges": ("Ranges of bytes may be asked for.", {"type": "string", "const": "bytes"}),
    "etag": ("Names these bytes, for If-Range.", {"type": "string"}),
    "wherry-fingerprint": ("The digest of the image's content, the same in every region.", {"type": "string"}),
}
"""The headers that a reply of bytes has as well."""


def document(calls: Iterable[Call]) -> dict[str, Any]:
    """The document, as OpenAPI 3.1 wants it."""
    served = list(calls)
    types = [
        t
        for call in served
        for t in (*call.replies.values(), *call.refusals.values(), call.body, ErrorReply)
        if t is not None
    ]
    schemas, components = msgspec.json.schema_components(types, ref_template="#/components/schemas/{name}")
    by_type = dict(zip(map(str, types), schemas, strict=True))
    paths: dict[str, Any] = {}
    for call in served:
        paths.setdefault(call.path, {})[call.method.lower()] = _operation(call, by_type)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "wherry",
            "version": version("wherry"),
            "description": "A disk-image service that speaks DigitalOcean's v2 API. What is ours stands beside it.",
        },
        "components": {
            "schemas": components,
            "headers": {
                name: {"description": about, "required": True, "schema": schema}
                for name, (about, schema) in (_HEADERS | _BYTES_HEADERS).items()
            },
            "securitySchemes": {"token": {"type": "http", "scheme": "bearer"}},
        },
        "security": [{"token": []}],
        "paths": paths,
    }


def _operation(call: Call, schemas: dict[str, Any]) -> dict[str, Any]:
    operation: dict[str, Any] = {
        "operationId": call.name,
        "summary": call.about,
        "description": f"Scopes: {', '.join(call.scopes)}.",
        "tags": ["ours" if call.ours else call.name.split(".")[0]],
        "parameters": [*map(_path_param, call.path_params), *map(_param, call.params)],
        "responses": _responses(call, schemas),
    }
    if call.body is not None:
        schema = schemas[str(call.body)]
        operation["requestBody"] = {"required": False, "content": {"application/json": {"schema": schema}}}
    if call.body_media is not None:
        operation["requestBody"] = {"required": False, "content": {call.body_media: {"schema": {}}}}
    return operation


def _responses(call: Call, schemas: dict[str, Any]) -> dict[str, Any]:
    responses: dict[str, Any] = {}
    for status, kind in call.replies.items():
        responses[str(status)] = {"description": HTTPStatus(status).phrase, "headers": _headers(_HEADERS)}
        if kind is not None:
            responses[str(status)]["content"] = {"application/json": {"schema": schemas[str(kind)]}}
        elif call.reply_media is not None:
            responses[str(status)]["content"] = {call.reply_media: {"schema": {}}}
            responses[str(status)]["headers"] |= _headers(_BYTES_HEADERS)
    for status in sorted({*COMMON_ERRORS, *call.errors}):
        responses[str(status)] = {
            "description": HTTPStatus(status).phrase,
            "headers": _headers(_HEADERS),
            "content": {"application/json": {"schema": schemas[str(call.refusals.get(status, ErrorReply))]}},
        }
    return responses


def _headers(names: Iterable[str]) -> dict[str, Any]:
    return {name: {"$ref": f"#/components/headers/{name}"} for name in names}


def _path_param(name: str) -> dict[str, Any]:
    schema = (
        {"type": "string", "minLength": 1} if name not in _NUMBERS else {"type": "string", "pattern": "^[0-9a-z-]+$"}
    )
    return {"name": name, "in": "path", "required": True, "schema": schema}


def _param(param: Param) -> dict[str, Any]:
    schema: dict[str, Any] = {"type": "string", "enum": list(param.values)} if param.values else _KINDS[param.kind]
    return {
        "name": param.name, "in": param.place, "description": param.about, "required": param.required, "schema": schema,
    }  # fmt: skip
