"""How a process ends when it is told to: in good order, or at its deadline, however stuck a thread of it is.

SIGTERM and SIGINT are taken by a thread that waits for nothing else. It passes them on to whatever handles them in the
main thread, and ends the process if that has not done so by the deadline. Should even this thread be kept from running,
faulthandler's watchdog, which needs no Python, ends the process a second later.
"""

from __future__ import annotations

import _thread
import faulthandler
import logging
import os
import signal
import sys
import threading
import time
import traceback

log = logging.getLogger("wherry.stopping")

EXIT_STUCK = 71
"""The exit status of a process that did not end in good order by its deadline."""

MARGIN_S = 8.0
"""What a stop may take beside the grace: 2 s for open connections, 3 s for the last spans, the rest to hand over."""

_SIGNALS = (signal.SIGINT, signal.SIGTERM)
_SPARE_S = 1.0


def end_by_deadline(grace_s: float, margin_s: float = MARGIN_S) -> None:
    """From now on, end the process ``grace_s`` and ``margin_s`` after a signal to stop at the latest.

    To be called in the main thread before any other is started: they inherit that the signals are not theirs.
    """
    signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)
    threading.Thread(target=_wait_for_signals, args=(grace_s + margin_s,), name="stopping", daemon=True).start()


def _wait_for_signals(deadline_s: float) -> None:
    number = _next_signal()
    faulthandler.dump_traceback_later(deadline_s + _SPARE_S, exit=True)
    threading.Thread(target=_end_at, args=(time.monotonic() + deadline_s,), name="deadline", daemon=True).start()
    while True:
        _pass_on(number)
        number = _next_signal()


def _next_signal() -> signal.Signals:
    return signal.Signals(signal.sigwait(_SIGNALS))


def _pass_on(number: signal.Signals) -> None:
    """Let the main thread handle a signal. If nothing handles it there yet, end as the signal would have."""
    if signal.getsignal(number) is signal.SIG_DFL:
        os._exit(128 + number)
    _thread.interrupt_main(number)


def _end_at(deadline: float) -> None:
    while (left_s := deadline - time.monotonic()) > 0:
        time.sleep(left_s)
    try:
        log.critical("stop.stuck the process did not end by its deadline; its threads:\n%s", _stacks())
        logging.shutdown()
    finally:
        os._exit(EXIT_STUCK)


def _stacks() -> str:
    names = {thread.ident: thread.name for thread in threading.enumerate()}
    return "\n".join(
        f"{names.get(ident, ident)}:\n{''.join(traceback.format_stack(frame))}"
        for ident, frame in sys._current_frames().items()  # noqa: SLF001  the only way to other threads' stacks
    )
