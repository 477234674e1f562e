"""Watching orders change, whichever process changes them.

One poller for each api process looks up the versions of all the orders that somebody waits for, in one
query, and wakes those whose order has moved. Idle it does nothing.
"""

import asyncio
import logging
from collections import defaultdict
from collections.abc import Callable
from typing import Final
from uuid import UUID

from ecom_common.errors import Problem
from ecom_common.http import Draining
from ecom_common.reading import Reader

from order_service import repository

POLL_S: Final = 0.02
"""What a waiting client may learn late; one indexed query for all of them each time."""
POLL_WHILE_DOWN_S: Final = 0.5
"""The same while the database does not answer: each try costs a connection and a line in the log."""

log = logging.getLogger(__name__)
_Waiter = tuple[int, "asyncio.Future[None]"]


class Watch:
    """Waits for orders to pass a version. Belongs to one event loop."""

    def __init__(self, reader: Reader, draining: Draining) -> None:
        self._reader = reader
        self._draining = draining
        self._waiters: dict[UUID, list[_Waiter]] = defaultdict(list)
        self._poller: asyncio.Task[None] | None = None

    async def changed(self, order_id: UUID, *, since: int, timeout_s: float) -> bool:
        """Wait until the order is beyond version `since`; False when time is up or the process drains."""
        if self._draining.started:
            return False
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        waiter = (since, future)
        self._waiters[order_id].append(waiter)
        if self._poller is None or self._poller.done():
            self._poller = asyncio.create_task(self._poll())
        try:
            await asyncio.wait_for(future, timeout_s)
        except TimeoutError:
            return False
        finally:
            self._forget(order_id, waiter)
        return not self._draining.started

    async def _poll(self) -> None:
        while self._waiters and not self._draining.started:
            answered = await self._look()
            await self._draining.wait(POLL_S if answered else POLL_WHILE_DOWN_S)
        self._wake(lambda _order, _since: True)

    async def _look(self) -> bool:
        """Wake whoever's order has moved; whether the database answered."""
        ids = list(self._waiters)
        try:
            versions = await self._reader.read(lambda session: repository.versions(session, ids))
        except Problem as problem:
            # Whoever waits goes on waiting: the database may be back before their time is up.
            log.warning("cannot look for changes: %s", problem.code)
            return False
        self._wake(lambda order_id, since: versions.get(order_id, 0) > since)
        return True

    def _wake(self, has_changed: Callable[[UUID, int], bool]) -> None:
        for order_id, waiters in list(self._waiters.items()):
            for since, future in waiters:
                if not future.done() and has_changed(order_id, since):
                    future.set_result(None)

    def _forget(self, order_id: UUID, waiter: _Waiter) -> None:
        self._waiters[order_id].remove(waiter)
        if not self._waiters[order_id]:
            del self._waiters[order_id]
