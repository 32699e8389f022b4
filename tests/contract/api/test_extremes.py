"""What a body of JSON may hold at its extremes is refused or taken, and never a fault of the service."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest
from msgspec.inspect import FloatType, IntType, ListType, StructType, Type, UnionType, type_info

from wherry.calls import CALLS, Call

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.contract.api.conftest import Api

NUMBERS = (-1, 0, 2**31, 2**53, 2**63 - 1, 2**63, 2**64, -(2**63), -(2**63) - 1, 10**30, -(10**30), 1e308, -1e308)
"""The last integers that columns and doubles take, the first ones that they don't, and some far beyond."""
TEXTS = (rb'{"%s\udef0": 1}', rb'{"%s": "\udef0"}', rb'{"%s": ["\ud800\u0041"]}', b'{"%s": "\xed\xa0\x80"}')
"""Keys and values with half a character, as an escape and as bytes; none of them can be written as UTF-8."""
WITH_A_BODY = [call for call in CALLS if call.body is not None]
LEGAL: dict[str, dict[str, Any]] = {
    "droplets.create": {"name": "web", "size": "s-1vcpu-1gb", "region": "nyc3", "image": "debian-12-x64"},
    "uploads.create": {"name": "disk", "region": "nyc3"},
    "tags.assign": {"resource_type": "image"},
    "tags.unassign": {"resource_type": "droplet"},
    "account_transfers.accept": {"recipient_uuid": "x"},
}
"""What a request needs besides the number, so that the number is looked at."""
KINDS = ("restore", "rebuild", "resize", "enable_backups", "change_kernel")


def sample(kind: Type) -> Any:
    """A value that a type takes."""
    match kind:
        case UnionType():
            return sample(kind.types[0])
        case IntType():
            return 1
        case _:
            return "x"


def with_number(kind: Type, number: float, legal: dict[str, Any]) -> Iterator[Any]:
    """Values of a type, each with this number at one of the places where it takes one."""
    match kind:
        case UnionType():
            for member in kind.types:
                yield from with_number(member, number, legal)
            if any(isinstance(member, IntType) for member in kind.types):  # where ids may be texts as well
                yield str(number)
        case StructType():
            rest = {f.encode_name: sample(f.type) for f in kind.fields if f.required} | legal
            for field in kind.fields:
                for value in with_number(field.type, number, legal):
                    yield rest | {field.encode_name: value} | ({kind.tag_field: kind.tag} if kind.tag_field else {})
        case ListType():
            yield from ([value] for value in with_number(kind.item_type, number, legal))
        case IntType() | FloatType():
            yield number


def path_of(call: Call) -> str:
    return call.url(**{name: "web" if name == "tag" else 1 for name in call.path_params})


@pytest.mark.parametrize("call", WITH_A_BODY, ids=lambda call: call.name)
def test_a_number_of_any_size_is_no_fault(call: Call, api: Api) -> None:
    """Every number of every request may be of any size; the reply is a refusal, or what was asked for."""
    api.post("/v2/tags", json={"name": "web"})
    for number in NUMBERS:
        for body in with_number(type_info(call.body), number, LEGAL.get(call.name, {})):
            kinds = KINDS if call.name.startswith("droplet_actions") else (body.get("type"),)
            for kind in kinds:
                sent = body | {"type": kind} if kind else body
                reply = api.request(call.method, path_of(call), json=sent)
                assert reply.status_code < 500, (sent, reply.text)


@pytest.mark.parametrize("call", WITH_A_BODY, ids=lambda call: call.name)
def test_half_a_character_is_refused(call: Call, api: Api) -> None:
    """A body with a lone surrogate in a key or a value can't be read, and the refusal can."""
    for name in ("type", "name", "no such field"):
        for text in TEXTS:
            reply = api.request(call.method, path_of(call), content=text % name.encode())
            assert reply.status_code == 400, (text, reply.text)
            assert "error parsing request body" in json.loads(reply.content)["message"]
