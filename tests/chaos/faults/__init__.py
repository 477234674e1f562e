"""Every fault of the suite, by name."""

from typing import Final

from tests.chaos.fault import Fault
from tests.chaos.faults import (
    broker,
    buyers,
    clocks,
    database,
    handlers,
    messages,
    migrations,
    network,
    parts,
    processes,
    provider,
    workers,
)

_MODULES: Final = (
    parts, processes, workers, network, buyers, handlers, clocks, migrations,
    broker, database, messages, provider,
)  # fmt: skip

FAULTS: Final[dict[str, Fault]] = {
    fault.name: fault for module in _MODULES for fault in module.FAULTS
}
"""In the order in which `--all` goes through them."""
