from __future__ import annotations

import stat
from hashlib import blake2b
from typing import TYPE_CHECKING

import pytest

from wherry.errors import BadRequest, KeyMissing
from wherry.server.secrets import SecretKeyMissing, open_secrets
from wherry.server.storage.keyring import new_key_line

if TYPE_CHECKING:
    from pathlib import Path


def test_a_secret_comes_back(tmp_path: Path) -> None:
    """What was sealed is opened by the same file at the next start, and can't be read without it."""
    sealed = open_secrets(tmp_path / "key", None).seal(b"S3cr3tPw")
    assert "S3cr3tPw" not in sealed
    assert open_secrets(tmp_path / "key", None).open(sealed, "It") == b"S3cr3tPw"
    assert stat.S_IMODE((tmp_path / "key").stat().st_mode) == 0o600
    assert [path.name for path in tmp_path.iterdir()] == ["key"]


def test_a_secret_is_sealed_anew_each_time(tmp_path: Path) -> None:
    """Two seals of one secret don't show that it is the same."""
    secrets = open_secrets(tmp_path / "key", None)
    assert secrets.seal(b"x") != secrets.seal(b"x")


def test_a_lost_key_is_said(tmp_path: Path) -> None:
    """The error names what can't be read, and what to do."""
    sealed = open_secrets(tmp_path / "key", None).seal(b"S3cr3tPw")
    with pytest.raises(SecretKeyMissing, match="The source of action 7 is sealed with the key") as raised:
        open_secrets(tmp_path / "other", None).open(sealed, "The source of action 7")
    assert "WHERRY_SECRET_KEYS" in raised.value.hint
    assert isinstance(raised.value, KeyMissing)


def test_a_secret_that_was_changed_is_refused(tmp_path: Path) -> None:
    """A bit that is flipped in the catalog never gives another secret."""
    secrets = open_secrets(tmp_path / "key", None)
    sealed = secrets.seal(b"S3cr3tPw")
    changed = sealed[:-6] + ("A" if sealed[-6] != "A" else "B") + sealed[-5:]
    with pytest.raises(SecretKeyMissing, match="it is damaged"):
        secrets.open(changed, "It")


def test_processes_share_keys_by_the_environment(tmp_path: Path) -> None:
    """The first key seals, each one opens; no file is made."""
    old, new = new_key_line(), new_key_line()
    sealed = open_secrets(tmp_path / "key", old).seal(b"x")
    assert open_secrets(tmp_path / "key", f"{new}\n{old}").open(sealed, "It") == b"x"
    assert not (tmp_path / "key").exists()
    with pytest.raises(BadRequest, match="WHERRY_SECRET_KEYS"):
        open_secrets(tmp_path / "key", "")


def test_a_mark_tells_a_request_from_another_one(tmp_path: Path) -> None:
    """The same key marks the same data alike, at the next start too; the mark fits into its column."""
    mark = open_secrets(tmp_path / "key", None).mark(b"a request")
    secrets = open_secrets(tmp_path / "key", None)
    assert (secrets.is_marked(mark, b"a request"), secrets.is_marked(mark, b"another one")) == (True, False)
    assert len(open_secrets(tmp_path / "key", "k" * 32 + new_key_line()[8:]).mark(b"x")) == 63


def test_a_mark_can_not_be_guessed_without_the_key(tmp_path: Path) -> None:
    """No digest of the data alone is in it: another key marks the same data otherwise."""
    first, second = (open_secrets(tmp_path / name, None).mark(b"a request") for name in ("one", "two"))
    assert first.partition(":")[2] != second.partition(":")[2]
    assert blake2b(b"a request", digest_size=15).hexdigest() not in first


def test_a_mark_of_a_key_that_is_gone_counts(tmp_path: Path) -> None:
    """A repeat is never run again because its first request was marked by another process, or an older program."""
    secrets = open_secrets(tmp_path / "key", None)
    assert secrets.is_marked(open_secrets(tmp_path / "other", None).mark(b"a request"), b"a request")
    old = blake2b(b"a request", digest_size=16).hexdigest()
    assert (secrets.is_marked(old, b"a request"), secrets.is_marked(old, b"another one")) == (True, False)
