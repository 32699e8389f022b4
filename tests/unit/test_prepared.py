"""Every type is built while its module is imported: threads that meet one half built crash (bench/msgspec_race.py)."""

from __future__ import annotations

import subprocess
import sys

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
