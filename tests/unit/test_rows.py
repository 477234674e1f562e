"""Rows that are loaded as plain objects: their classes and their tables agree."""

from dataclasses import MISSING, fields

import pytest
from inventory_service import models as inventory
from order_service import models as order
from payment_service import models as payment
from sqlalchemy import Table


@pytest.mark.parametrize(
    ("kind", "table"),
    [
        (order.Order, order.ORDERS),
        (order.OrderLine, order.LINES),
        (order.HistoryEntry, order.HISTORY),
        (order.CatalogueItem, order.CATALOGUE),
        (inventory.Item, inventory.ITEMS),
        (inventory.StockLevel, inventory.STOCK_LEVELS),
        (inventory.Movement, inventory.MOVEMENTS),
        (inventory.Reservation, inventory.RESERVATIONS),
        (inventory.ReservationLine, inventory.RESERVATION_LINES),
        (payment.PaymentIntent, payment.PAYMENTS),
        (payment.Operation, payment.OPERATIONS),
        (payment.Journal, payment.JOURNALS),
        (payment.Entry, payment.ENTRIES),
    ],
)
def test_a_class_is_made_of_the_columns_of_its_table(kind: type, table: Table) -> None:
    required = [f.name for f in fields(kind) if f.default is f.default_factory is MISSING]
    assert required == table.columns.keys()
