"""Whether a reply's JSON has exactly the types that the table of calls declares for it.

Stricter than JSON Schema, for which ``10.0`` is an integer: clients in Go decode an integer from digits alone.
"""

from __future__ import annotations

import json
import re
from functools import cache
from typing import TYPE_CHECKING, Any

from msgspec import inspect as mi

from wherry.calls import CALLS, Call
from wherry.models import ErrorReply

if TYPE_CHECKING:
    from collections.abc import Iterator

    import httpx2

_PLAIN: dict[type[mi.Type], tuple[type, ...]] = {
    mi.BoolType: (bool,),
    mi.FloatType: (float, int),
    mi.IntType: (int,),
    mi.NoneType: (type(None),),
    mi.StrType: (str,),
    mi.DateTimeType: (str,),
}
_PATHS = [(call, re.compile(re.sub(r"{\w+}", "[^/]+", call.path))) for call in CALLS]
_PATHS.sort(key=lambda row: "{" in row[0].path)  # as the service looks: a path without names first


def call_of(reply: httpx2.Response) -> Call | None:
    """The call that a reply belongs to."""
    method, path = reply.request.method, reply.request.url.path.rstrip("/")
    return next((call for call, pattern in _PATHS if call.method == method and pattern.fullmatch(path)), None)


def check_types(reply: httpx2.Response) -> Call | None:
    """Check each value of a JSON reply against its declared type; returns the call. Raises AssertionError."""
    call = call_of(reply)
    if call is None or not reply.headers.get("content-type", "").startswith("application/json"):
        return None
    body = json.loads(reply.read())
    declared = call.replies.get(reply.status_code) or call.refusals.get(reply.status_code, ErrorReply)
    faults = list(faults_of(body, _type_info(declared)))
    assert not faults, (call.name, reply.status_code, faults)
    return call


@cache
def _type_info(declared: object) -> mi.Type:
    return mi.type_info(declared)


def faults_of(value: Any, declared: mi.Type, path: str = "$") -> Iterator[str]:
    """Where a value read from JSON is not of a type, each place in a line."""
    if isinstance(declared, mi.Metadata):
        yield from faults_of(value, declared.type, path)
    elif isinstance(declared, mi.UnionType):
        tried = [list(faults_of(value, option, path)) for option in declared.types]
        if all(tried):
            yield from min(tried, key=len)
    elif isinstance(declared, mi.StructType):
        yield from _struct_faults(value, declared, path)
    elif isinstance(declared, mi.ListType) and isinstance(value, list):
        for number, item in enumerate(value):
            yield from faults_of(item, declared.item_type, f"{path}[{number}]")
    elif isinstance(declared, mi.DictType) and isinstance(value, dict):
        for name, item in value.items():
            yield from faults_of(item, declared.value_type, f"{path}.{name}")
    elif type(value) not in _PLAIN.get(type(declared), ()):  # not isinstance: a bool is an int
        yield f"{path}: {value!r} is no {type(declared).__name__}"


def _struct_faults(value: Any, declared: mi.StructType, path: str) -> Iterator[str]:
    if not isinstance(value, dict):
        yield f"{path}: {value!r} is no object"
        return
    fields = {field.encode_name: field for field in declared.fields}
    for name, item in value.items():
        if name not in fields:
            yield f"{path}.{name} is not declared"
        else:
            yield from faults_of(item, fields[name].type, f"{path}.{name}")
    yield from (f"{path}.{name} is missing" for name, f in fields.items() if f.required and name not in value)
