"""Every list, map and text of every request has a cap, and one more than that is refused by the field's name."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import pytest
from msgspec.inspect import DictType, ListType, StrType, StructType, Type, UnionType, type_info

from wherry.calls import CALLS
from wherry.errors import Unprocessable
from wherry.server.http.edge import as_type

if TYPE_CHECKING:
    from collections.abc import Iterator

BODIES = {call.name: call.body for call in CALLS if call.body is not None}


def sample(kind: Type) -> Any:
    """A value that a type takes."""
    match kind:
        case UnionType():
            return sample(kind.types[0])
        case StructType():
            tag = {kind.tag_field: kind.tag} if kind.tag_field else {}
            return tag | {field.encode_name: sample(field.type) for field in kind.fields if field.required}
        case StrType():
            return "x"
        case _:
            return 1


def beyond(kind: Type, path: str = "$") -> Iterator[tuple[str, int | None, Any]]:  # noqa: C901  one case for each kind
    """What a type caps, and how: the path, the cap (None where there is none), and a value that has one more."""
    match kind:
        case UnionType():
            for member in kind.types:
                yield from beyond(member, path)
        case StructType():
            for field in kind.fields:
                for inner, most, value in beyond(field.type, f"{path}.{field.encode_name}"):
                    yield inner, most, sample(kind) | {field.encode_name: value}
        case ListType():
            yield path, kind.max_length, [sample(kind.item_type)] * ((kind.max_length or 0) + 1)
            for inner, most, value in beyond(kind.item_type, f"{path}[]"):
                yield inner, most, [value]
        case DictType():
            numbers = range((kind.max_length or 0) + 1)
            yield path, kind.max_length, {str(number): sample(kind.value_type) for number in numbers}
            for inner, most, value in beyond(kind.key_type, f"{path} key"):
                yield inner, most, {value: sample(kind.value_type)}
            for inner, most, value in beyond(kind.value_type, f"{path}{{}}"):
                yield inner, most, {"x": value}
        case StrType():
            yield path, kind.max_length, "x" * ((kind.max_length or 0) + 1)


CAPS = [(name, *cap) for name, body in BODIES.items() for cap in beyond(type_info(body))]


def test_the_walk_comes_to_what_is_deep() -> None:
    """Items of lists, fields of objects in lists and both sides of maps are looked at."""
    paths = {(name, path) for name, path, _, _ in CAPS}

    assert {("tags.assign", "$.resources[].resource_id"), ("droplets.create", "$.volumes[] key")} <= paths
    assert {("droplets.create", "$.backup_policy.plan"), ("images.create", "$.tags[]")} <= paths


def test_everything_has_a_cap() -> None:
    """No request has a text, a list or a map of any length."""
    assert [(name, path) for name, path, most, _ in CAPS if most is None] == []


@pytest.mark.parametrize(("name", "path", "most", "value"), CAPS, ids=[f"{name} {path}" for name, path, _, _ in CAPS])
def test_one_more_than_the_cap_is_refused(name: str, path: str, most: int, value: Any) -> None:
    """The refusal names the field and its cap."""
    with pytest.raises(Unprocessable) as caught:
        as_type(value, BODIES[name])

    text = caught.value.message.lower().replace(" ", "_")
    assert str(most) in text
    assert re.split(r"[^a-z0-9_]+", path.removeprefix("$."))[0].removesuffix("_key") in text
