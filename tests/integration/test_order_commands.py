"""Placing and cancelling, batch by batch, against a real database."""

from ecom_common.batch import apply_batch
from ecom_common.database import Sessions
from sqlalchemy import text

from tests.support.orders import a_desk, a_wish, catalogue_of


def test_a_batch_of_placements_makes_orders_with_prices_of_the_catalogue(
    order_sessions: Sessions,
) -> None:
    catalogue_of(order_sessions, tea=500)
    desk = a_desk()
    outcomes = apply_batch(
        order_sessions, desk.handle_commands, [a_wish({"tea": 2}), a_wish({"tea": 1})], name="t"
    )
    assert [outcome.order.total for outcome in outcomes] == [1000, 500]
    with order_sessions() as session:
        assert session.scalar(text("SELECT count(*) FROM outbox")) == 4
