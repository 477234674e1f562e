"""What operators learn of orders: log lines and the saga's duration, once a change is durable.

Said after the commit and not when it happens: a transaction that is rolled back and run again would
otherwise tell of it twice, or of something that never was.
"""

import logging
from typing import Any, Final

from ecom_common.durable import when_durable
from ecom_common.logs import together
from sqlalchemy.orm import Session

from order_service.metrics import FINAL_SECONDS
from order_service.repository import Changes
from order_service.saga import FINAL

_WORTH_A_WARNING: Final = frozenset({"flagged", "payment_refund_failed"})

log = logging.getLogger(__name__)


def report_when_durable(session: Session, changes: Changes) -> None:
    """Report what `changes` holds when the session's transaction commits."""
    if changes.history:
        when_durable(session, lambda: _report(changes))


def _report(changes: Changes) -> None:
    orders = {order.id: order for order in changes.placed} | changes.touched
    with together():
        for row in changes.history:
            if row["status"] in FINAL:
                age = row["at"] - orders[row["order_id"]].created_at
                FINAL_SECONDS.labels(row["status"]).observe(age.total_seconds())
                _log(logging.INFO, f"order {row['status']}", row)
            elif row["kind"] == "placed":
                _log(logging.INFO, "order placed", row)
            elif row["kind"] in _WORTH_A_WARNING:
                _log(logging.WARNING, f"order needs an operator: {row['kind']}", row)


def _log(level: int, message: str, row: dict[str, Any]) -> None:
    facts = {
        "order_id": str(row["order_id"]),
        "trace_id": row["trace_id"],
        "version": row["version"],
    }
    if row["reason"] is not None:
        facts["reason"] = row["reason"]
    log.log(level, message, extra=facts)
