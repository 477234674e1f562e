"""The fault suite's customers, at the door of a project that no fault is injected into.

What happens to it is somebody else's test; what every one of them was told must be true afterwards all the same.
"""

import random
from typing import Final

from tests.chaos.history import lies
from tests.chaos.load import Load
from tests.support.compose import Project
from tests.support.shop import until

SETTLED_WITHIN_S: Final = 90
"""Everything but a provider that is asked again and again is final within a second or two."""


def customers(project: Project, *, seed: int) -> Load:
    """They order inside of its `with`."""
    return Load(project, random.Random(seed))


def check(project: Project, load: Load) -> None:
    """Wait until the books say what the customers were told; what does not in the end is a failure."""
    found: list[str] = []

    def true() -> bool:
        found[:] = lies(load.history, load.books(_taken(project)))
        return not found

    until(true, timeout_s=SETTLED_WITHIN_S, about=lambda: found[:8], every_s=1)
    load.close()


def _taken(project: Project) -> dict[str, int]:
    rows = project.sql(
        "payment_postgres", "paymentdb", "SELECT order_id, captured - refunded FROM payments"
    )
    pairs = (row.split("|") for row in rows)
    return {order_id: int(taken) for order_id, taken in pairs}
