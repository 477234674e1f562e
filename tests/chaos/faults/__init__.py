"""Every fault of the suite, by name."""

from typing import Final

from tests.chaos.fault import Fault
from tests.chaos.faults import buyers, clocks, handlers, migrations, processes, workers

FAULTS: Final[dict[str, Fault]] = {
    fault.name: fault
    for module in (processes, workers, buyers, handlers, clocks, migrations)
    for fault in module.FAULTS
}
"""In the order in which `--all` goes through them."""
