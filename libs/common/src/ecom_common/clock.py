"""The one clock: the database's.

Deadlines, leases and time-outs of the business are decided by `db_now()`, a function of each service's
schema, because the wall clocks of processes disagree. A session setting shifts it in simulations.
"""

from datetime import datetime

from sqlalchemy import func, select
from sqlalchemy.orm import Session

_NOW = select(func.db_now())


def database_time(session: Session) -> datetime:
    """The database's time, with time zone; ask once per transaction and pass it on."""
    now = session.scalar(_NOW)
    assert isinstance(now, datetime)
    return now
