"""Flow control: when too many orders are on their way, new ones are refused quickly.

Left alone, the api takes orders faster than the workers confirm them, the backlog piles up in the broker,
and every customer waits longer. So the time to confirmed stays bounded by refusing what cannot be served.
"""

import asyncio
import time
from typing import Final

from ecom_common.errors import Problem
from ecom_common.reading import Reader

from order_service import repository
from order_service.metrics import OPEN_ORDERS

COUNT_EVERY_S: Final = 0.25
RETRY_AFTER_S: Final = 2


class FlowControl:
    """Counts the open orders now and then, and admits new ones up to a limit."""

    def __init__(self, reader: Reader, *, limit: int) -> None:
        self._reader = reader
        self._limit = limit
        self._open = 0
        self._counted_at = float("-inf")
        self._counting = asyncio.Lock()

    async def admit(self) -> None:
        """Count one order in; raises the `overloaded` problem beyond the limit."""
        if time.monotonic() - self._counted_at > COUNT_EVERY_S and not self._counting.locked():
            async with self._counting:
                await self._count()
        if self._open >= self._limit:
            detail = "More orders are on their way than can be served soon. Try again."
            raise Problem("overloaded", detail, retry_after_s=RETRY_AFTER_S)
        self._open += 1

    async def _count(self) -> None:
        most = self._limit + 1
        self._open = await self._reader.read(lambda s: repository.count_open(s, most))
        self._counted_at = time.monotonic()
        OPEN_ORDERS.set(self._open)
