"""A process that was told to stop ends within a bound, whatever hangs.

A server that accepts what we send and never answers (stopped, or behind a wire that swallows everything) keeps a
thread in libpq: `statement_timeout` is the server's, and TCP sees nothing wrong. Python can neither interrupt
that thread nor exit without it. So the process leaves without it in the end: what it was about has not been
acknowledged, is rolled back by the server, and is done again by whoever comes next.
"""

import logging
import os
import threading
from typing import Final

STOP_WITHIN_S: Final = 18.0
"""Longer than every orderly stop may take, and within the 20 s that supervisors are promised."""

log = logging.getLogger(__name__)


def end_within(seconds: float = STOP_WITHIN_S) -> None:
    """End the process after so many seconds, if it is still there then."""
    timer = threading.Timer(seconds, _leave, [seconds])
    timer.daemon = True
    timer.start()


def _leave(seconds: float) -> None:
    log.error("a call hangs: leaving %.0f s after the signal without its answer", seconds)
    os._exit(1)
