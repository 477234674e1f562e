"""The one clock: the database's.

Deadlines, leases and time-outs of the business are decided by `db_now()`, a function of each service's
schema, because the wall clocks of processes disagree. A session setting shifts it in simulations.
"""

from datetime import datetime
from typing import Final

from sqlalchemy.orm import Session

from ecom_common import prepared

_NOW: Final = "SELECT db_now()"
_NOTED: Final = "ecom.clock.noted"


def database_time(session: Session) -> datetime:
    """The database's time, with time zone: one time for the whole transaction."""
    transaction, now = session.info.get(_NOTED, (None, None))
    if transaction is None or transaction is not session.get_transaction():
        [(now,)] = prepared.run(session, _NOW)
        note_database_time(session, now)
    assert isinstance(now, datetime)
    return now


def note_database_time(session: Session, now: datetime | None) -> datetime | None:
    """Take `now` for this transaction's time: a statement that was needed anyway has brought it along."""
    if now is not None:
        session.info[_NOTED] = (session.get_transaction(), now)
    return now
