"""What is to happen once a transaction has committed, and not if it is rolled back.

One listener for all sessions: registering one with each session costs more than a statement does.
"""

from collections.abc import Callable
from typing import Final

from sqlalchemy import event
from sqlalchemy.orm import Session, SessionTransaction

_CALLS: Final = "ecom.durable.calls"


def when_durable(session: Session, call: Callable[[], object]) -> None:
    """Call it after the commit of the session's transaction; in the order in which it was asked for."""
    session.info.setdefault(_CALLS, []).append(call)


@event.listens_for(Session, "after_commit")
def _call(session: Session) -> None:
    calls: list[Callable[[], object]] = session.info.pop(_CALLS, [])
    for call in calls:
        call()


@event.listens_for(Session, "after_soft_rollback")
def _forget(session: Session, _: SessionTransaction) -> None:
    session.info.pop(_CALLS, None)
