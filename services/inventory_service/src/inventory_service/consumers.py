"""The Kafka door: which message goes to which use case."""

from datetime import timedelta
from functools import partial
from typing import Final

from ecom_common.messages import Handlers
from ecom_contracts.messages import StockCommit, StockRelease, StockReserve
from ecom_contracts.topics import INVENTORY_COMMANDS, Topic

from inventory_service.service import apply_stock_commands

TOPICS: Final[tuple[Topic, ...]] = (INVENTORY_COMMANDS,)


def handlers(ttl: timedelta) -> Handlers:
    """Message type → use case; `ttl` is how long reservations are held.

    One handler for all: the consumer gives it all its messages of a batch in one call, so a mixed batch locks
    once, and is applied in the order in which it came.
    """
    apply = partial(apply_stock_commands, ttl=ttl)
    return {StockReserve.TYPE: apply, StockCommit.TYPE: apply, StockRelease.TYPE: apply}
