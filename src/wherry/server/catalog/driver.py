"""The driver of PostgreSQL, taught to say in one go what it would say in three.

For each statement with parameters the driver waits for three replies: to the text, to the question what it returns, and
to the values. The protocol needs one: everything is sent at once, and the replies come in the same order. Where the
database is on another machine, and where there is more to do than processors, each wait costs more than the statement.
"""

from __future__ import annotations

from typing import Any

from pg8000.core import NULL_BYTE, SYNC_MSG, Context, _flush, _write, make_params
from pg8000.legacy import Connection


class OneTripConnection(Connection):  # type: ignore[misc]  # the driver tells no types
    """A connection whose statements take one round trip each."""

    def execute_unnamed(self, statement: str, vals: Any = (), oids: Any = (), stream: Any = None) -> Any:
        """Run a statement. What it means to copy from or to a stream is left to the driver."""
        if stream is not None:
            return super().execute_unnamed(statement, vals, oids, stream)
        context = Context(statement)
        self.send_PARSE(NULL_BYTE, statement, oids)
        self.send_DESCRIBE_STATEMENT(NULL_BYTE)
        self.send_BIND(NULL_BYTE, make_params(self.py_types, vals))
        self.send_EXECUTE()
        _write(self._sock, SYNC_MSG)
        _flush(self._sock)
        self.handle_messages(context)
        return context
