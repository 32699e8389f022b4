from __future__ import annotations

import base64
from typing import TYPE_CHECKING

import pytest

from wherry.errors import BadRequest, KeyMissing
from wherry.server.storage import load_keyring, new_key_line
from wherry.server.storage.keyring import Key, Keyring, parse_keyring

if TYPE_CHECKING:
    from pathlib import Path

SECRET = bytes(range(32))
ENCODED = base64.b64encode(SECRET).decode()
OTHER = base64.b64encode(bytes(32)).decode()


def test_the_first_key_seals_and_all_open() -> None:
    """Keys stand one a line, the sealing one first; empty lines and notes say nothing."""
    keyring = parse_keyring(f"# since June\n\n  new.1: {ENCODED} \nold_1:{OTHER}\n", "a test")

    assert keyring.sealing == Key("new.1", SECRET)
    assert [key.id for key in keyring.keys] == ["new.1", "old_1"]
    assert keyring.find("old_1", Key("old_1", bytes(32)).check, "it").secret == bytes(32)


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "There is no key in a test"),
        ("# nothing\n\n", "There is no key in a test"),
        (ENCODED, "Line 1 of the keys in a test: there is no colon"),
        (f"a:{ENCODED}\n:{ENCODED}", "Line 2 of the keys in a test: an id has"),
        (f"{'a' * 33}:{ENCODED}", "Line 1 of the keys in a test: an id has"),
        (f"new key:{ENCODED}", "Line 1 of the keys in a test: an id has"),
        (f"{ENCODED}:a", "Line 1 of the keys in a test: an id has"),
        (f"a:{ENCODED[:-1]}", "Line 1 of the keys in a test: the key is not in base64"),
        (f"a:{ENCODED[:20]}!{ENCODED[20:]}", "Line 1 of the keys in a test: the key is not in base64"),
        (f"a:{ENCODED[:40]}", "Line 1 of the keys in a test: the key has 30 bytes; 32 are wanted"),
        (f"# two\na:{ENCODED}\na:{OTHER}", "Line 3 of the keys in a test: the id a is there already"),
    ],
)
def test_a_wrong_line_is_named_and_not_repeated(text: str, why: str) -> None:
    """An error says in which line what is wrong, and nothing of the key."""
    with pytest.raises(BadRequest) as caught:
        parse_keyring(text, "a test")
    assert caught.value.message.startswith(why)
    assert ENCODED[:8] not in caught.value.message
    assert caught.value.__cause__ is None


def test_keys_come_from_the_environment_or_a_file(tmp_path: Path) -> None:
    """Either place gives the same keys."""
    file = tmp_path / "keys"
    file.write_text(f"a:{ENCODED}\n", encoding="ascii")

    assert load_keyring(f"a:{ENCODED}", None) == load_keyring(None, file) == Keyring((Key("a", SECRET),))


def test_neither_place_and_both_are_refused(tmp_path: Path) -> None:
    """Which of two sets of keys counts is not guessed; a variable that is not set never means no encryption."""
    with pytest.raises(BadRequest, match="found both"):
        load_keyring(f"a:{ENCODED}", tmp_path / "keys")
    with pytest.raises(BadRequest, match="found neither"):
        load_keyring(None, None)


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    """A file that is not there, or is not text, is named with what is wrong."""
    with pytest.raises(BadRequest, match="absent can't be read: No such file"):
        load_keyring(None, tmp_path / "absent")
    (tmp_path / "binary").write_bytes(b"a:\xff\xfe")
    with pytest.raises(BadRequest, match="binary is no file of keys"):
        load_keyring(None, tmp_path / "binary")


def test_an_empty_variable_is_no_key() -> None:
    """A variable that is set and empty is an error: encryption that was asked for is never left out."""
    with pytest.raises(BadRequest, match="no key in the environment"):
        load_keyring("", None)


def test_a_new_line_is_a_key() -> None:
    """What is made is read back, and no two are equal."""
    first, second = new_key_line(), new_key_line()
    keyring = parse_keyring(f"{first}\n{second}", "a test")
    assert len({key.id for key in keyring.keys}) == len({key.secret for key in keyring.keys}) == 2


def test_another_key_under_a_known_id_is_told() -> None:
    """An id that is known with another key is not taken for the right one."""
    keyring = Keyring((Key("a", SECRET),))
    with pytest.raises(KeyMissing, match="it is sealed with a key a, but not with the one given"):
        keyring.find("a", Key("a", bytes(32)).check, "it")
    with pytest.raises(KeyMissing, match="it is sealed with the key b; given are a"):
        keyring.find("b", Key("b", SECRET).check, "it")


def test_a_secret_is_not_shown() -> None:
    """What is logged or printed of a key has no secret."""
    shown = repr(Keyring((Key("a", b"s" * 32),)))
    assert "ssss" not in shown
