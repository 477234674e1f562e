"""Operators, once the storm is over: flags are lifted, and dead letters sent again."""

from collections.abc import Sequence
from typing import Any, Final

from ecom_common import dead_letters
from ecom_common.batch import apply_batch
from order_service.service import OrderDesk
from sqlalchemy import text
from sqlalchemy.orm import Session

from tests.simulation.processes import Api, Worker

_OPERATOR: Final = "olga"
_FLAGGED: Final = text("SELECT id FROM orders WHERE flagged_at IS NOT NULL ORDER BY id")
_OPEN: Final = text("SELECT id FROM dead_letters WHERE state = 'open' ORDER BY id")


def operate(orders: Api, workers: Sequence[Worker]) -> None:
    """What the messages died of is mended by now; so what is flagged is worth another try."""
    desk = OrderDesk(orders.around.settings.order)

    def lift(session: Session, _: Any) -> list[None]:
        for order_id in list(session.scalars(_FLAGGED)):
            desk.lift_flag(session, order_id, actor=_OPERATOR)
        return [None]

    apply_batch(orders.sessions, lift, [None], name="operators")
    for worker in workers:
        # Those of one service share its letters: the second finds none.
        apply_batch(worker.sessions, _redrive, [None], name="operators")


def _redrive(session: Session, _: Any) -> list[None]:
    for letter in list(session.scalars(_OPEN)):
        dead_letters.redrive(session, letter, actor=_OPERATOR)
    return [None]
