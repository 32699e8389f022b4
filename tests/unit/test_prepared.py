"""Every type is built while its module is imported: threads that meet one half built crash (bench/msgspec_race.py)."""

from __future__ import annotations

import subprocess
import sys

import pytest

UNPREPARED = """
import importlib, pkgutil
import msgspec

built = set()

Decoder, msgspec.json.Decoder = msgspec.json.Decoder, lambda kind: built.add(kind) or Decoder(kind)
import wherry
for module in pkgutil.walk_packages(wherry.__path__, "wherry."):
    if not module.name.endswith(("__main__", "migrations.env")) and ".versions" not in module.name:
        importlib.import_module(module.name)

def below(kind):
    return {kind, *(each for sub in kind.__subclasses__() for each in below(sub))}

kinds = {kind for kind in below(msgspec.Struct) if kind.__module__.startswith("wherry")}
assert len(kinds) > 80, len(kinds)
print(*sorted(kind.__qualname__ for kind in kinds - built))
"""


def test_no_type_is_left_to_its_first_use() -> None:
    """Once all modules are imported, each of their types was built: also one that comes anew."""
    done = subprocess.run([sys.executable, "-c", UNPREPARED], capture_output=True, text=True, check=True, timeout=120)
    assert not done.stdout.split()


THREADS = """
import os, sys, threading
from contextlib import suppress
import msgspec

PROGRESS = b'{"stage": "copy", "percent": 1.0, "bytes_left": null, "heartbeat_at": "2026-11-27T02:30:03Z"}'

def below(kind):
    return {kind, *(each for sub in kind.__subclasses__() for each in below(sub))}

def decode_all():
    sys.setswitchinterval(1e-6)
    gate = threading.Barrier(8)
    # Progress first, with values: only what looks into a field meets a type that is half built.
    wanted = [(models.Progress, PROGRESS)]
    for kind in sorted(below(models.Model) - {models.Progress}, key=lambda kind: kind.__name__):
        wanted.append((kind, msgspec.json.encode(dict.fromkeys(kind.__struct_encode_fields__))))

    def decode():
        for kind, data in wanted:
            gate.wait()
            with suppress(msgspec.ValidationError):  # a field may not be null; the type was built by then
                msgspec.json.decode(data, type=kind)

    threads = [threading.Thread(target=decode) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
"""
AT_A_START = f"{THREADS}\nfrom wherry import models\ndecode_all()\nprint('well')"
UNPREPARED_IN_FORKS = f"""{THREADS}
Decoder, msgspec.json.Decoder = msgspec.json.Decoder, lambda kind: None
from wherry import models
msgspec.json.Decoder = Decoder
for number in range(int(sys.argv[1])):
    if (child := os.fork()) == 0:
        decode_all()
        os._exit(0)
    if (code := os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])) < 0:
        print(f"fork {{number}} ended by signal {{-code}}")
        break
"""


@pytest.mark.parametrize("starts", [10, pytest.param(300, marks=[pytest.mark.slow, pytest.mark.timeout(3600)])])
def test_threads_that_decode_at_once_after_a_start(starts: int) -> None:
    """Eight threads that use every type for the first time, and lose their turn all the time, end well."""
    for _ in range(starts):
        done = subprocess.run([sys.executable, "-c", AT_A_START], capture_output=True, text=True, check=False)
        assert (done.returncode, done.stdout, done.stderr) == (0, "well\n", "")


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_types_that_are_not_prepared_crash() -> None:
    """Control: without ``prepare`` the same ends a process; if it no longer does, msgspec was mended."""
    command = [sys.executable, "-c", UNPREPARED_IN_FORKS, "1000"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert "ended by signal" in done.stdout
