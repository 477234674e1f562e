"""What the order service listens to, and which use case each message leads to."""

from ecom_common.messages import Handlers
from ecom_contracts.topics import CATALOG, INVENTORY_EVENTS, PAYMENT_EVENTS

from order_service.service import OrderDesk

TOPICS = (INVENTORY_EVENTS, PAYMENT_EVENTS, CATALOG)


def handlers(desk: OrderDesk) -> Handlers:
    """Message type → use case."""
    return {
        "reservation.changed.v1": desk.learn,
        "payment.changed.v1": desk.learn,
        "item.changed.v1": desk.take_in_catalogue,
    }
