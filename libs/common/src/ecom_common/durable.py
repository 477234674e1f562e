"""What is to happen once a transaction has committed, and not if it is rolled back.

One listener for all sessions: registering one with each session costs more than a statement does.
"""

import logging
from collections.abc import Callable
from typing import Final

from sqlalchemy import event
from sqlalchemy.orm import Session, SessionTransaction

log = logging.getLogger(__name__)

_CALLS: Final = "ecom.durable.calls"


def when_durable(session: Session, call: Callable[[], object]) -> None:
    """Call it after the commit of the session's transaction; in the order in which it was asked for."""
    session.info.setdefault(_CALLS, []).append(call)


@event.listens_for(Session, "after_commit")
def _call(session: Session) -> None:
    calls: list[Callable[[], object]] = session.info.pop(_CALLS, [])
    for call in calls:
        try:
            call()
        except Exception:
            # What is committed must not be done again, nor must the next call wait for it.
            log.exception("what was to follow a commit has failed")


@event.listens_for(Session, "after_soft_rollback")
def _forget(session: Session, _: SessionTransaction) -> None:
    session.info.pop(_CALLS, None)
