from __future__ import annotations

import re
import subprocess
from base64 import b64encode
from typing import TYPE_CHECKING

import pytest

from wherry.errors import Unprocessable
from wherry.server.rules.public_key import INVALID, read_public_key

if TYPE_CHECKING:
    from pathlib import Path


def line(kind: str, *fields: bytes, comment: str = "") -> str:
    """A public key made of these fields, as it stands in a file."""
    blob = b"".join(len(field).to_bytes(4, "big") + field for field in fields)
    return f"{kind} {b64encode(blob).decode()} {comment}".strip()


ED25519 = line("ssh-ed25519", b"ssh-ed25519", bytes(32), comment="somebody@somewhere")
BLOB = ED25519.split()[1]


@pytest.mark.parametrize(
    "kind",
    [
        "ssh-rsa", "ssh-dss", "ssh-ed25519", "ecdsa-sha2-nistp256", "ecdsa-sha2-nistp521",
        "sk-ssh-ed25519@openssh.com", "sk-ecdsa-sha2-nistp256@openssh.com",
    ],
)  # fmt: skip
def test_a_key_of_each_type_is_read(kind: str) -> None:
    """A key is kept as the line it was, without the space around it, whether or not it has a comment."""
    text = line(kind, kind.encode(), b"the key")

    assert read_public_key(f"\n{text} \n").line == text
    assert read_public_key(f"{text} a comment of words, ü").line == f"{text} a comment of words, ü"


def test_a_fingerprint_is_the_one_that_ssh_says(tmp_path: Path) -> None:
    """The fingerprint is the MD5 that ssh-keygen prints."""
    made = tmp_path / "key"
    try:
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(made)], check=True)
    except FileNotFoundError:
        pytest.skip("there is no ssh-keygen here")
    told = subprocess.run(
        ["ssh-keygen", "-l", "-E", "md5", "-f", str(made)], check=True, capture_output=True, text=True
    )

    fingerprint = read_public_key(made.with_suffix(".pub").read_text()).fingerprint

    assert f"MD5:{fingerprint} " in told.stdout


def test_a_fingerprint_is_pairs_of_digits_that_the_comment_does_not_change() -> None:
    """The fingerprint is of the key alone, sixteen pairs of hexadecimal digits."""
    fingerprint = read_public_key(ED25519).fingerprint

    assert re.fullmatch(r"[0-9a-f]{2}(:[0-9a-f]{2}){15}", fingerprint)
    assert read_public_key(f"ssh-ed25519 {BLOB} another").fingerprint == fingerprint


@pytest.mark.parametrize(
    "text",
    [
        None, "", "ssh-ed25519", f"{BLOB}", f"ssh-rsa {BLOB}", f"ssh-new {BLOB}", f"no-pty ssh-ed25519 {BLOB}",
        f"ssh-ed25519 {BLOB[:-8]}", f"ssh-ed25519 {BLOB}!", f"ssh-ed25519 {BLOB}AAAA", "ssh-ed25519 AAAA",
        line("ssh-ed25519", b"ssh-ed25519"), f"{ED25519}\nssh-rsa {BLOB}", f"{ED25519}\x00", f"ssh-ed25519\t{BLOB}",
        "-----BEGIN OPENSSH PRIVATE KEY-----", f"ssh-ed25519 ü{BLOB}",
    ],
)  # fmt: skip
def test_what_is_no_key_is_refused(text: str | None) -> None:
    """A line that is not one whole key of the type it says is refused, and so are two lines."""
    with pytest.raises(Unprocessable) as refused:
        read_public_key(text)

    assert refused.value.message == INVALID
