"""Every fault of the suite, by name."""

from collections.abc import Iterable
from typing import Final

from tests.chaos.fault import Fault
from tests.chaos.faults import broker, database, messages, processes, provider


def _by_name(faults: Iterable[Fault]) -> dict[str, Fault]:
    return {fault.name: fault for fault in faults}


FAULTS: Final[dict[str, Fault]] = _by_name(
    [
        *processes.FAULTS,
        *broker.FAULTS,
        *database.FAULTS,
        *messages.FAULTS,
        *provider.FAULTS,
    ]
)
"""In the order in which `--all` goes through them."""
