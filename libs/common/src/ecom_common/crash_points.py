"""Named places at which a process can be made to die: for tests of what happens then.

`crash_point` costs one comparison while nothing is armed. `arm` watches a folder: the next process that comes
to a place for which there is a file takes the file away and sends itself the signal that stands in it (KILL
when it is empty). So a test chooses the moment while the platform runs under load, it happens exactly once,
and the test sees by the file that it did. Production settings refuse it.
"""

import os
import signal
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Final

POINTS: Final = {
    "batch.before_commit": "a unit of work has done everything, and nothing is committed",
    "batch.after_commit": "it is committed, and nobody has been told",
    "consumer.before_offsets": "messages have had their effect, and their offsets are not committed",
    "relay.half_sent": "half of a batch has been handed to the broker",
    "relay.before_delete": "the broker has acknowledged messages that are still in the outbox",
    "sweep.before_commit": "a sweep has dealt with something, and nothing is committed",
    "provider.before_call": "a job at the provider is claimed, and the provider is not asked yet",
    "provider.after_call": "the provider has answered, and nothing is written down",
}
"""Every place, and what is true there."""


class _State:
    """Holds the process-wide hook; a module global that functions rebind would be harder to type."""

    hook: Callable[[str], None] | None = None


def crash_point(name: str) -> None:
    """Say that the process has come to this place of `POINTS`."""
    if _State.hook is not None:
        _State.hook(name)


def use_hook(hook: Callable[[str], None] | None) -> None:
    """Have `hook` called with the name of every place that the process comes to; None ends that."""
    _State.hook = hook


def arm(folder: Path) -> None:
    """Die at the places for which `folder` holds a file; see above."""
    use_hook(partial(_die_if_wanted, folder))


def _die_if_wanted(folder: Path, name: str) -> None:
    assert name in POINTS, name
    wanted = folder / name
    try:
        sign = wanted.read_text().strip() or "KILL"
        wanted.unlink()  # whoever succeeds is the one
    except FileNotFoundError:
        return
    os.kill(os.getpid(), signal.Signals[f"SIG{sign}"])
