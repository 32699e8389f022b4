"""No clean-up is left to the garbage collector, which may run it in a thread that holds a lock or changes the catalog.

The garbage collector closes a generator that is not read to its end. So none may have a clean-up of its own, which is a
``with``, ``finally`` or catch-all around a ``yield``. A context manager may: ``with`` or an ``ExitStack`` enters and
leaves it, at a known place.
"""

from __future__ import annotations

import ast
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator

SOURCES = Path(__file__).parents[2] / "src"

ALLOWED = {
    ("wherry/client/files.py", "__iter__"): "closes a file of the client's own, by its descriptor, and takes no lock",
    ("wherry/server/storage/backends/local.py", "list"): "turns errors into others, and holds nothing",
    ("wherry/server/storage/backends/object_store.py", "list"): "turns errors into others, and holds nothing",
    ("wherry/server/storage/backends/metered.py", "list"): "counts errors other than being closed, and holds nothing",
}
"""What is as it should be all the same, and why."""

FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)
SCOPES = (*FUNCTIONS, ast.Lambda, ast.ClassDef)
CATCH_ALL = {"BaseException", "GeneratorExit"}


def own(nodes: list[ast.stmt]) -> Iterator[ast.AST]:
    """All that stands there, but for what is in functions and classes of its own."""
    waiting: list[ast.AST] = list(nodes)
    while waiting:
        node = waiting.pop()
        if not isinstance(node, SCOPES):
            yield node
            waiting += ast.iter_child_nodes(node)


def yields(nodes: list[ast.stmt]) -> bool:
    return any(isinstance(node, (ast.Yield, ast.YieldFrom)) for node in own(nodes))


def catches_all(handler: ast.ExceptHandler) -> bool:
    names = {node.id for node in ast.walk(handler.type) if isinstance(node, ast.Name)} if handler.type else CATCH_ALL
    return bool(names & CATCH_ALL)


def cleans_up(node: ast.AST) -> bool:
    if isinstance(node, (ast.With, ast.AsyncWith)):
        return yields(node.body)
    if isinstance(node, (ast.Try, ast.TryStar)):
        return yields(node.body) and (bool(node.finalbody) or any(map(catches_all, node.handlers)))
    return False


def is_context_manager(function: ast.FunctionDef | ast.AsyncFunctionDef) -> bool:
    return any(ast.unparse(one).endswith("contextmanager") for one in function.decorator_list)


def faults(tree: ast.AST) -> Iterator[tuple[str, int, str]]:
    """Where clean-up may be left to the garbage collector: the name, the line, and what is wrong."""
    for node in ast.walk(tree):
        if isinstance(node, FUNCTIONS):
            if node.name == "__del__":
                yield node.name, node.lineno, "a __del__"
            elif not is_context_manager(node) and any(map(cleans_up, own(node.body))):
                yield node.name, node.lineno, "a generator that cleans up"
        elif isinstance(node, ast.Call):
            called = ast.unparse(node.func).rpartition(".")[2]
            if called == "finalize" or (called in {"ref", "proxy", "WeakMethod"} and len(node.args) > 1):
                yield called, node.lineno, "a callback of a weak reference"
        elif isinstance(node, ast.Attribute) and node.attr in {"__enter__", "__aenter__"}:
            yield node.attr, node.lineno, "a context manager that is entered by hand, and so may never be left"


def test_no_clean_up_is_left_to_the_garbage_collector() -> None:
    """Nor is anything allowed that needs it no longer."""
    found: dict[tuple[str, str], str] = {}
    for path in sorted(SOURCES.rglob("*.py")):
        place = path.relative_to(SOURCES).as_posix()
        for name, line, what in faults(ast.parse(path.read_text(encoding="utf-8"))):
            found[place, name] = f"{place}:{line}: {what}"
    assert [what for place, what in found.items() if place not in ALLOWED] == []
    assert ALLOWED.keys() - found.keys() == set()


BAD = {
    "finally": """
def parts(reads):
    try:
        yield b""
    finally:
        reads.end()
""",
    "with": """
class Store:
    async def rows(self):
        for table in self.tables:
            async with self.catalog.read() as reader:
                for row in reader:
                    yield row
""",
    "catch-all": """
def parts(file):
    try:
        yield from file
    except (ValueError, BaseException):
        file.close()
        raise
""",
    "bare": """
def parts(file):
    try:
        yield from file
    except:
        file.close()
""",
    "del": """
class Held:
    def __del__(self):
        self.lock.acquire()
""",
    "finalize": """
weakref.finalize(held, catalog.close)
""",
    "callback": """
known = weakref.ref(held, lambda _: catalog.close())
""",
    "by hand": """
piece = await run_in_threadpool(appending.__enter__)
""",
}


@pytest.mark.parametrize("kind", BAD)
def test_the_kind_is_caught(kind: str) -> None:
    """Control: each form of it, in a small sample."""
    assert len(list(faults(ast.parse(BAD[kind])))) == 1


def test_what_is_left_by_with_is_fine() -> None:
    """A context manager, and a generator whose clean-up is not around a yield or in a function inside."""
    sample = """
@contextmanager
def held(lock):
    with lock:
        yield

def parts(lock, file):
    with lock:
        size = file.size
    yield size
    def close():
        with lock:
            file.close()
    try:
        yield from file
    except OSError:
        yield b""
"""
    assert list(faults(ast.parse(sample))) == []
