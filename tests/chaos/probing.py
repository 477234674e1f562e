"""Does it work? An order is placed and has to be confirmed."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Final

from tests.chaos.customers import Wish
from tests.chaos.history import FINAL
from tests.chaos.load import Load

PROBE_S: Final = 20.0
"""After which one more order is placed to see whether it works by now."""
POLL_S: Final = 0.05


def confirmed_within(
    load: Load, timeout_s: float, lines: Mapping[str, int] | None = None
) -> float | None:
    """Seconds until an order that is placed from now on is confirmed; None when none was in time."""
    begin = time.monotonic()
    while time.monotonic() - begin < timeout_s:
        wish = load.wish(lines)
        order_id = load.customers.place(wish)
        if order_id and _is_confirmed(load, wish, order_id):
            return time.monotonic() - begin
    return None


def _is_confirmed(load: Load, wish: Wish, order_id: str) -> bool:
    deadline = time.monotonic() + PROBE_S
    while time.monotonic() < deadline:
        status = load.customers.look(wish.customer, order_id).document.get("status")
        if status in FINAL:
            return bool(status == "confirmed")
        time.sleep(POLL_S)
    return False
