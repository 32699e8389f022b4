"""Installs the clients, each from its registry into a folder of the cache. What is there already is left alone.

``install.py [NAME...]`` installs the clients named, or all. The cache is ``.cache/clients``, or where
``WHERRY_CLIENTS_CACHE`` says. Python and npm packages are those of ``locks``, by hash; nothing needs root.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import subprocess
import sys
import time
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

HERE = Path(__file__).parent
LOCKS = HERE / "locks"
CACHE = Path(os.environ.get("WHERRY_CLIENTS_CACHE") or HERE.parent.parent / ".cache" / "clients").absolute()
PACKER = "1.6.6"  # Debian 12's, the last before its builders became plugins of their own
COLLECTION = "ansible_collections/community/digitalocean/"


def install_python(name: str, folder: Path) -> None:
    """An environment with the packages of the client's lock."""
    _run(sys.executable, "-m", "venv", folder)
    _run(folder / "bin" / "pip", "install", *_PIP, "--requirement", LOCKS / f"{name}.txt")


def install_npm(name: str, folder: Path) -> None:
    """A folder with the packages of the client's lock. No script of a package is run."""
    shutil.copytree(LOCKS / name, folder)
    _run("npm", "ci", "--prefix", folder, "--ignore-scripts", "--no-audit", "--no-fund")


def install_ansible(name: str, folder: Path) -> None:
    """Ansible, and of its bundle of collections the one for DigitalOcean, where the bundle would put it.

    The bundle is 50 MB, and what is kept of it one.
    """
    install_python(name, folder)
    bundle = folder / "bundle"
    _run(
        folder / "bin" / "pip", "download", *_PIP, "--no-deps", "--only-binary=:all:", "--dest", bundle,
        "--requirement", LOCKS / "ansible-bundle.txt",
    )  # fmt: skip
    packages = next((folder / "lib").glob("python*/site-packages"))
    with zipfile.ZipFile(next(bundle.glob("*.whl"))) as wheel:
        wheel.extractall(packages, [one for one in wheel.namelist() if one.startswith(COLLECTION)])
    shutil.rmtree(bundle)


def install_packer(_name: str, folder: Path) -> None:
    """Debian's Packer, unpacked. Its package lists are kept apart from the machine's, so that nobody need be root."""
    apt = folder / "apt"
    for part in ("lists/partial", "archives/partial"):
        (apt / part).mkdir(parents=True)
    options = ("-o", f"Dir::State::lists={apt}/lists", "-o", f"Dir::Cache={apt}")
    _run("apt-get", "-q", *options, "update")
    _run("apt-get", "-q", *options, "download", "packer", cwd=apt)
    _run("dpkg-deb", "--extract", next(apt.glob("packer_*.deb")), folder / "root")
    (folder / "bin").mkdir()
    (folder / "root" / "usr" / "bin" / "packer").rename(folder / "bin" / "packer")
    for rest in ("apt", "root"):
        shutil.rmtree(folder / rest)
    if (found := _run(folder / "bin" / "packer", "version").split()[1]) != f"v{PACKER}":
        raise SystemExit(f"Debian's Packer is {found}, not v{PACKER}: only that has the builder without a plugin.")


_PIP = ("--quiet", "--disable-pip-version-check", "--require-hashes")
CLIENTS: dict[str, Callable[[str, Path], None]] = {
    "gradient": install_python,
    "gradient-npm": install_npm,
    "pydo": install_python,
    "python-digitalocean": install_python,
    "packer": install_packer,
    "ansible": install_ansible,
}


def install(name: str) -> None:
    """Install a client, unless what is there was installed from the same locks by the same code."""
    folder, stamp = CACHE / name, _stamp(name)
    CACHE.mkdir(parents=True, exist_ok=True)
    with (CACHE / f"{name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        ready = folder / ".ready"
        if ready.exists() and ready.read_text() == stamp:
            return
        shutil.rmtree(folder, ignore_errors=True)
        print(f"{name}: installing into {folder}", flush=True)  # noqa: T201  a command that tells what it does
        began = time.monotonic()
        CLIENTS[name](name, folder)
        ready.write_text(stamp)
        print(f"{name}: installed in {time.monotonic() - began:.0f} s", flush=True)  # noqa: T201


def _stamp(name: str) -> str:
    """What the client is made from: this file, the client's locks, and the Python that its environment stands on."""
    digest = hashlib.sha256(Path(__file__).read_bytes())
    for lock in sorted([*LOCKS.glob(f"{name}.txt"), *LOCKS.glob(f"{name}-bundle.txt"), *LOCKS.glob(f"{name}/*")]):
        digest.update(lock.read_bytes())
    return f"{digest.hexdigest()} {sys.version}"


def _run(*command: str | Path, cwd: Path | None = None) -> str:
    try:
        done = subprocess.run(command, cwd=cwd, capture_output=True, text=True, check=False)
    except FileNotFoundError as error:
        raise SystemExit(f"{command[0]} is needed, and is not on this machine.") from error
    if done.returncode != 0:
        raise SystemExit(f"{' '.join(map(str, command))} ended with {done.returncode}:\n{done.stdout}{done.stderr}")
    return done.stdout


if __name__ == "__main__":
    for wanted in sys.argv[1:] or CLIENTS:
        install(wanted)
